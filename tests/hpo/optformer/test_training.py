"""Training: losses and their gradients, data by position, exact resumption."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hpo import studies
from hpo.optformer import (
  datasets,
  learner,
  presets,
  tokens,
  toy,
  train_lib,
  training,
  vocabulary,
)
from runtime.data import records
from runtime.devices import mesh
from tests import experiments, seeds

VOCABULARY = vocabulary.Compact()
MAKER = tokens.Tokenizer(VOCABULARY, encoder_length=32, decoder_length=60)
DATA = toy.ToyStudies(MAKER, trials=8, eval_studies=8)
BINS = (MAKER.ids.first_bin, MAKER.ids.bins)


def trainer(**options):
  defaults = {
    'model': presets.make(VOCABULARY, 'tiny', places=True, copies=True),
    'data': DATA,
    'optimizer': optax.adam(1e-2),
    'batch_size': 8,
    'eval_splits': ('hill_climb',),
  }
  return training.OptFormerTrainer(**{**defaults, **options})


@pytest.fixture(scope='module')
def batch():
  made = DATA.training_examples(0)(np.arange(3))
  return {name: jnp.asarray(x) for name, x in made.items()}


def judged(loss, logits, batch):
  return jax.jit(functools.partial(loss, bins=BINS))(logits, batch)


def logits_of(batch, seed=0):
  shape = (*batch['targets'].shape, 1008)
  return jnp.asarray(seeds.rng(seed).normal(size=shape), jnp.float32)


def test_losses_by_hand(batch):
  logits = logits_of(batch)
  weighted = learner.Loss(objective_weight=3.0, z_loss=0.1)
  found, metrics = judged(weighted, logits, batch)
  logs = np.float64(logits)
  totals = np.log(np.exp(logs).sum(-1))
  rows = np.ix_(*map(range, batch['targets'].shape))
  nll = totals - logs[(*rows, np.asarray(batch['targets']))]
  slots = np.asarray(batch['slots'])
  parts = {slot: nll[slots == slot] for slot in (1, 3)}
  shares = np.where(slots == 3, 3.0, 1.0) * (slots % 2)
  expected = ((nll + 0.1 * totals**2) * shares).sum() / shares.sum()
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  for name, expected in (
    ('param_loss', parts[1].mean()),
    ('objective_loss', parts[3].mean()),
    ('loss', np.concatenate([parts[1], parts[3]]).mean()),
    ('study_loss', (nll * (slots % 2)).sum() / 3),
  ):
    value = metrics[name].compute()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_separators_and_padding_have_no_gradient(batch):
  for options in ({}, {'soft_bins': 1.0}):
    loss = learner.Loss(**options)
    slope = jax.jit(jax.grad(lambda x, loss=loss: loss(x, batch, BINS)[0]))
    grads = np.asarray(slope(logits_of(batch)))
    moved = np.abs(grads).max(axis=-1) > 0
    np.testing.assert_array_equal(moved, batch['weights'] > 0)


def test_soft_targets_by_hand(batch):
  ids = np.array([8, 9, 500, 1006, 1007, 5])
  logits = jnp.asarray(seeds.rng(1).normal(size=(1, 6, 1008)), jnp.float32)
  made = {
    'targets': jnp.asarray(ids[None]),
    'weights': jnp.ones((1, 6)),
    'slots': jnp.full((1, 6), tokens.OBJECTIVE),
  }
  loss = learner.Loss(soft_bins=0.7, z_loss=0.0)
  found, metrics = judged(loss, logits, made)
  logs = np.float64(logits[0])
  logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
  expected = []
  for row, target in zip(logs, ids, strict=True):
    near = [k for k in range(target - 2, target + 3) if 8 <= k < 1008]
    mass = np.exp(-0.5 * ((np.array(near) - target) / 0.7) ** 2)
    if target < 8:  # A status is certain.
      near, mass = [target], np.ones(1)
    expected.append(-(row[near] * mass).sum() / mass.sum())
  np.testing.assert_allclose(found, np.mean(expected), rtol=1e-5)
  hard = -logs[np.arange(6), ids].mean()
  value = metrics['objective_loss'].compute()
  np.testing.assert_allclose(value, hard, rtol=1e-5)


def test_batches_are_functions_of_seed_and_number():
  whole = DATA.train_iterator(batch_size=4, seed=1)
  half = DATA.train_iterator(
    batch_size=4, seed=1, process_index=1, process_count=2
  )
  first = [next(whole)['tokens'] for _ in range(2)]
  np.testing.assert_array_equal(next(half)['tokens'], first[0][2:])
  again = DATA.train_iterator(batch_size=4, seed=1)
  again.set_state({'next_index': 1})
  np.testing.assert_array_equal(next(again)['tokens'], first[1])
  other = next(DATA.train_iterator(batch_size=4, seed=2))
  assert (other['tokens'] != first[0]).any()
  for split in DATA.splits:
    count, examples = DATA.evaluation_examples(split)
    assert count == 8
    one, two = (examples(np.arange(count))['tokens'] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_hill_climbing_changes_one_parameter_of_the_best():
  for seed in range(20):
    made = toy.study(seeds.rng(seed), 'designer_hill_climb')
    gains, codes = made.gains, made.codes
    for number in range(1, len(made)):
      best = codes[np.argmax(gains[:number])]
      assert (codes[number] != best).sum() == 1
  with pytest.raises(ValueError, match='algorithm'):
    toy.study(seeds.rng(0), 'grid')


def test_files_of_studies(tmp_path):
  made = [toy.study(seeds.rng(i), toy.ALGORITHMS[i % 2]) for i in range(5)]
  lines, binary = tmp_path / 'a.jsonl', str(tmp_path / 'b.array_record')
  studies.write(lines, made)
  records.write(binary, (study.to_bytes() for study in made))
  found = []
  for path in (str(lines), binary):
    data = datasets.StudyFiles(MAKER, train=path, evaluation={'valid': path})
    assert (data.splits, data.num_studies) == (('valid',), 5)
    batch = next(data.train_iterator(batch_size=5, seed=0))
    judged = next(data.eval_batches('valid', batch_size=5))
    found.append((batch, judged))
  for one, two in zip(*found, strict=True):
    for name in one:
      np.testing.assert_array_equal(one[name], two[name])
  with pytest.raises(ValueError, match="got 'test'"):
    data.evaluation_studies('test')
  with pytest.raises(ValueError, match='must end in'):
    datasets.open_studies('a.csv')
  broken = str(tmp_path / 'broken.array_record')
  records.write(broken, [made[0].to_bytes(), b'{"trials": 1}\n'])
  with pytest.raises(ValueError, match=r'broken.*record 1: .*space'):
    datasets.open_studies(broken)[1]


def run(workdir, steps):
  return train_lib.train(
    workdir=str(workdir),
    trainer=trainer(),
    loop=experiments.loop_of(steps),
    seed=3,
    mesh=mesh.MeshConfig(data=4, fsdp=2),
  )


@pytest.mark.slow
def test_a_run_on_a_mesh_leaves_a_model_and_a_report(tmp_path, capsys):
  result = run(tmp_path, 2)
  assert (tmp_path / 'report' / 'scores.md').exists()
  assert 'uniform over bins' in capsys.readouterr().out
  last = experiments.rows(tmp_path)[-1]
  assert last['eval/hill_climb/param_loss'] > 6.5
  made = trainer().trained(result.state)
  assert made.minimal
  assert not made.knows_pending
  assert made.longest_list is None


@pytest.mark.slow
def test_resumed_runs_are_the_same(tmp_path):
  experiments.check_resumes(
    lambda steps, workdir: run(workdir, steps).state, tmp_path
  )


@pytest.mark.slow
def test_the_loss_falls():
  made = trainer()
  learn = learner.Learner(made.model, made.optimizer, made.loss, 0)
  state = jax.jit(learn.init)()
  step = jax.jit(learn.step)
  batch = next(DATA.train_iterator(batch_size=8, seed=0))
  losses = []
  for _ in range(60):
    state, metrics = step(state, batch)
    losses.append(metrics.compute())
  for name in ('param_loss', 'objective_loss'):
    assert losses[0][name] > 6.9  # Of a guess: ln 1000.
    assert losses[-1][name] < 5.5  # The batch is known by heart.


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='eval_splits'):
    trainer(eval_splits=('valid',))
  with pytest.raises(ValueError, match='eval_batch_size=0'):
    trainer(eval_batch_size=0)
  with pytest.raises(ValueError, match='first_bin'):
    trainer(model=presets.make(vocabulary.Compact(bins=500), 'tiny'))
  with pytest.raises(ValueError, match='z_loss'):
    learner.Loss(z_loss=-1.0)
