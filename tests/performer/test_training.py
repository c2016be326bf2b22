import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from performer import attention, objective, results, train_lib, training
from performer.data import proteins
from runtime import loop, optimizers
from runtime.devices import mesh as mesh_lib
from runtime.loop import durations
from tests import experiments, marks, seeds
from tests.performer.models import model_cases

LENGTH = 16
# The kernel that compiles fastest: what is tested here is around it.
FAVOR = attention.Favor(kernel='elu1', features=8, redraw_every=3, chunk=8)
RATE = 1e-2  # Of plain gradient descent.


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  """Proteins that alternate between two letters: order is worth knowing."""
  folder = tmp_path_factory.mktemp('fasta')
  rng = seeds.rng(0)
  paths = {}
  for split, count in (('train', 400), ('valid', 9), ('test', 5)):
    lines = []
    for i in range(count):
      a, b = rng.choice(list('ACDEFGHIKLMNPQRSTVWY'), 2, replace=False)
      length = int(rng.integers(8, LENGTH))
      lines.append(f'>{split}{i}\n{(a + b) * length}'[: length + 10] + '\n')
    paths[split] = str(folder / f'{split}.fasta')
    (folder / f'{split}.fasta').write_text(''.join(lines))
  return paths | {'cache': str(folder / 'cache')}


def make_data(files, task='causal', **kwargs):
  paths = {k: v for k, v in files.items() if k != 'cache'}
  return proteins.Proteins(
    task=task,
    max_length=LENGTH,
    files=paths,
    cache_dir=files['cache'],
    num_threads=0,
    **kwargs,
  )


make_model = functools.partial(model_cases.small, FAVOR)


def make_trainer(files, **kwargs):
  settings = {
    'model': make_model(),
    'data': make_data(files),
    'optimizer': optax.adam(1e-2),
    'batch_size': 8,
  }
  return training.LanguageModelTrainer(**settings | kwargs)


def build(files, *, mesh=mesh_lib.MeshConfig(), devices=1, **kwargs):
  """The learner of a trainer, and its experiment."""
  trainer, devices = make_trainer(files, **kwargs), jax.devices()[:devices]
  learner = trainer.learner(seed=0, mesh=mesh.make(devices))
  return learner, experiments.of(trainer, mesh=mesh, devices=devices)


@pytest.fixture(scope='module')
def built(files):
  """The learner of plain gradient descent, its experiment, and a state."""
  learner, experiment = build(files, optimizer=optax.sgd(RATE))
  return learner, experiment, jax.jit(learner.init)()


def test_objective_by_hand():
  rng = seeds.rng(1)
  logits = rng.normal(size=(2, 5, 7)).astype(np.float32)
  targets = rng.integers(0, 7, (2, 5))
  weights = rng.integers(0, 2, (2, 5)).astype(np.float32)
  device = [jnp.asarray(x) for x in (logits, targets, weights)]
  losses = objective.token_losses(*device[:2])
  z = logits.astype(np.float64)
  z = z - np.log(np.exp(z).sum(-1, keepdims=True))
  expected = -np.take_along_axis(z, targets[..., None], -1)[..., 0]
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  mean = np.average(expected, weights=weights)
  np.testing.assert_allclose(
    objective.weighted_mean(losses, device[2]), mean, rtol=1e-5
  )
  found = objective.token_metrics(device[0], losses, *device[1:])
  hits = np.average(z.argmax(-1) == targets, weights=weights)
  assert float(found['accuracy'].compute()) == pytest.approx(hits, rel=1e-5)
  assert float(found['perplexity'].compute()) == pytest.approx(
    math.exp(mean), rel=1e-5
  )
  assert float(objective.weighted_mean(losses, 0 * device[2])) == 0


@pytest.mark.slow
def test_matrices_follow_the_schedule(files, tmp_path):
  learner, experiment = build(files)
  seen = []
  experiment.evaluators['valid'] = lambda state: (
    seen.append(np.asarray(state.projections)) or {}
  )
  config = loop.LoopConfig(
    durations.Duration(steps=7), eval_every=durations.Duration(steps=1)
  )
  loop.run(experiment, config, workdir=tmp_path, seed=0)
  key = jax.random.fold_in(jax.random.key(0), 2)
  draw = jax.jit(learner.model.draw_projections)
  for number, found in enumerate(seen):
    np.testing.assert_allclose(found, draw(key, number), atol=1e-6)
  changed = [i for i in range(1, 7) if not np.array_equal(seen[i], seen[i - 1])]
  assert changed == [3, 6]


def test_a_resumed_run_is_the_uninterrupted_one(files, tmp_path):
  """Bit for bit; test_processes does the same to killed processes."""

  def train(steps, workdir):
    model = make_model(dropout=0.2)
    _, experiment = build(files, model=model, eval_splits=())
    config = loop.LoopConfig(durations.Duration(steps=steps), log_every=1)
    return loop.run(experiment, config, workdir=workdir, seed=0).state

  assert experiments.check_resumes(train, tmp_path)[-1]['step'] == 4


def test_step_descends_its_own_gradient(built):
  """One step, against finite differences of the losses that steps tell."""
  learner, experiment, state = built
  batch, step = next(experiment.batches), jax.jit(learner.step)
  after, _ = step(state, batch)
  rng = seeds.rng(2)

  def loss(params):
    found = jax.device_get(step(state.replace(params=params), batch)[1])
    return float(found.loss.compute())

  old, new = jax.device_get((state.params, after.params))
  direction = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32), old
  )
  h = 3e-3
  up, down = (
    jax.tree.map(lambda p, d: p + s * h * d, old, direction)  # noqa: B023
    for s in (1, -1)
  )
  slope = (loss(up) - loss(down)) / (2 * h)
  moved = jax.tree.map(lambda a, b, d: np.vdot(a - b, d), old, new, direction)
  found = sum(jax.tree.leaves(moved)) / RATE
  # Slopes have the size of the gradient; one of them may be nearly level.
  squares = jax.tree.map(lambda a, b: np.square(a - b).sum(), old, new)
  size = math.sqrt(sum(jax.tree.leaves(squares))) / RATE
  np.testing.assert_allclose(found, slope, rtol=1e-2, atol=5e-3 * size)


@pytest.mark.parametrize('task', [*marks.slow('causal'), 'mlm'])
def test_evaluation_is_one_mean_over_the_set(files, task):
  data = make_data(files, task)
  model = make_model(causal=task == 'causal')
  learner, experiment = build(files, data=data, model=model)
  state = jax.jit(learner.init)()
  found = experiment.evaluators['valid'](state)
  total, weight = 0.0, 0.0

  @jax.jit
  def losses(batch):
    logits = model.apply(
      {'params': state.params},
      batch['tokens'],
      mask=batch['mask'],
      projections=state.projections,
    )
    return objective.token_losses(logits, batch['targets'])

  for batch in data.eval_batches('valid', batch_size=1):
    total += float((np.asarray(losses(batch)) * batch['weights']).sum())
    weight += float(batch['weights'].sum())
  assert found['loss'] == pytest.approx(total / weight, rel=1e-4)
  assert found['perplexity'] == pytest.approx(
    math.exp(total / weight), rel=1e-4
  )


@pytest.mark.slow
@pytest.mark.pictures
def test_training_beats_the_frequencies_and_reports_it(
  files, tmp_path, capsys, monkeypatch
):
  one = jax.devices()[:1]  # Compiles faster than for eight.
  monkeypatch.setattr(jax, 'devices', lambda: one)
  result = train_lib.train(
    workdir=str(tmp_path),
    trainer=make_trainer(files, batch_size=16),
    loop=loop.LoopConfig(durations.Duration(steps=150), log_every=50),
  )
  assert result.finished
  rows = (tmp_path / 'report' / 'scores.csv').read_text().splitlines()
  scores = {
    line.split(',')[0]: [float(x) for x in line.split(',')[1:]]
    for line in rows[1:]
  }
  model, baseline = scores['model'], scores['empirical baseline']
  assert model[0] > baseline[0] + 20  # Accuracy on valid, percent.
  assert model[1] < 0.7 * baseline[1]  # Perplexity.
  assert 'empirical baseline' in capsys.readouterr().out
  names = {path.name for path in (tmp_path / 'report').iterdir()}
  assert {'attention.png', 'curves.png', 'scores.md'} <= names


@pytest.mark.parametrize('mechanism', [FAVOR, *marks.slow(attention.Exact())])
def test_attention_maps_are_causal_averages(built, mechanism):
  learner, experiment, state = built
  model = learner.model.clone(attention=mechanism)
  projections = model.draw_projections(seeds.key(3), 0)
  maps = results.attention_maps(
    model, state.params, projections, next(experiment.batches), length=8
  )
  assert maps.shape == (2, 2, 8, 8)
  np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-5)
  assert not np.triu(maps, 1).any()


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'model': make_model(vocab_size=5)}, 'vocab_size=5'),
    ({'model': make_model(max_length=8)}, 'max_length=8'),
    ({'model': make_model(causal=False)}, "task='causal'"),
    ({'eval_splits': ('ood',)}, 'ood'),
    (
      {
        'model': model_cases.small(attention.Exact()),
        'mesh': mesh_lib.MeshConfig(sequence=2),
        'devices': 2,
      },
      'got 2 devices for Exact',
    ),
    ({'batch_size': 6, 'devices': 4}, 'batch_size=6'),
    ({'eval_batch_size': 0}, 'eval_batch_size=0'),
  ],
)
def test_parts_that_do_not_fit_are_named(files, change, message):
  with pytest.raises(ValueError, match=message):
    build(files, **change)


@pytest.mark.parametrize('split', ['valid', 'test'])
def test_files_to_judge_by_are_read_before_training(files, split, tmp_path):
  bad = tmp_path / 'bad.fasta'
  bad.write_text('>a\nAC-D\n')
  with pytest.raises(ValueError, match=r'bad\.fasta:2'):
    build(files | {split: str(bad)})
  with pytest.raises(FileNotFoundError, match='gone'):
    build(files | {split: str(tmp_path / 'gone.fasta')})


@pytest.mark.parametrize('fsdp', [1, *marks.slow(2)])
def test_averages_are_judged_and_may_lie_on_a_mesh(files, fsdp):
  """Gradient accumulation and averages, perhaps with kernels that are split."""
  optimizer = optimizers.averaged(
    optimizers.adamw(learning_rate=0.1, accumulate_steps=2), decay=0.5
  )
  _, experiment = build(
    files,
    optimizer=optimizer,
    devices=fsdp,
    mesh=mesh_lib.MeshConfig(fsdp=fsdp),
  )
  state = loop.drive(experiment, 4, records=()).state
  average = state.eval_params
  assert average is state.opt_state.average
  kernel = average['blocks']['mlp_in']['kernel']
  assert kernel.sharding == state.params['blocks']['mlp_in']['kernel'].sharding
  found = experiment.evaluators['valid'](state)
  as_params = state.replace(
    params=average, opt_state=state.opt_state._replace(average=state.params)
  )
  assert experiment.evaluators['valid'](as_params) != found


def test_a_class_in_the_place_of_an_attention_is_named():
  with pytest.raises(ValueError, match=r'parentheses missing, as in Favor\(\)'):
    model_cases.small(attention.Favor)
