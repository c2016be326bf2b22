"""A protein model as one file: what is written is read, and writes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention, generate, pack, shipped
from performer.data import proteins
from runtime import packed
from tests.performer import run_cases
from tests.performer.models import model_cases

FAVOR = attention.Favor(kernel='softmax_pos', features=8, redraw_every=None)


@functools.cache
def make(mechanism=FAVOR, **options):
  sizes = {'max_length': 24, 'num_layers': 1, 'd_model': 8, 'd_ff': 8}
  model = model_cases.small(mechanism, **sizes)
  data = proteins.Proteins(task='causal', max_length=24, **options)
  return shipped.Trained(model, *model_cases.init(model), data)


def test_files_hold_the_model(tmp_path):
  trained = make()
  path = tmp_path / 'model.msgpack'
  shipped.save(path, trained)
  found = shipped.load(path)
  assert found.model == trained.model
  assert found.codec.encode('MKV').tolist() == [25, 10, 8, 17]
  for one, other in (
    (found.params, trained.params),
    (found.projections, trained.projections),
  ):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_file_writes(tmp_path, capsys):
  path = tmp_path / 'model.msgpack'
  shipped.save(path, make())
  generate.main([str(path), '--prompt', 'MKV', '--max_new_tokens', '5'])
  assert len(capsys.readouterr().out.strip()) == 8
  with pytest.raises(ValueError, match='temperature must not be negative'):
    generate.main([str(path), '--temperature', '-1'])


def test_other_models_and_files_are_refused(tmp_path):
  path = tmp_path / 'model.msgpack'
  with pytest.raises(
    ValueError, match=r'with attention\.Favor, got Transformer'
  ):
    shipped.save(path, make(attention.Exact()))
  path.write_bytes(b'no')
  with pytest.raises(ValueError, match='not a file of `save`'):
    shipped.load(path)
  packed.save(path, {}, {}, form=7)
  with pytest.raises(ValueError, match='must have format 1'):
    shipped.load(path)


def test_the_model_of_the_package_writes(capsys):
  generate.main(['--prompt', 'MKV', '--max_new_tokens', '4', '--seed', '1'])
  assert capsys.readouterr().out.startswith('MKV')
  assert shipped.SHIPPED.stat().st_size < 20e6


@pytest.mark.slow
def test_the_model_of_the_package_predicts_residues():
  """Better than their frequencies, on proteins of the sample."""
  found = shipped.shipped()
  data = proteins.Proteins(task='causal', max_length=512)
  batch = next(
    data.eval_batches('test', batch_size=64, process_index=0, process_count=1)
  )
  batch = jax.tree.map(jnp.asarray, batch)
  logits = found.model.apply(
    {'params': found.params},
    batch['tokens'],
    mask=batch['mask'],
    projections=found.projections,
  )
  targets, weights = batch['targets'], batch['weights'] > 0
  likely = jnp.take_along_axis(
    jax.nn.log_softmax(logits), targets[..., None], -1
  )[..., 0]
  counts = np.bincount(targets[weights])
  share = counts[counts > 0] / counts.sum()
  entropy = -(share * np.log(share)).sum()
  assert -likely[weights].mean() < entropy - 0.03


def test_a_checkout_without_weights_says_how_to_make_them(
  monkeypatch, tmp_path
):
  monkeypatch.setattr(shipped, 'SHIPPED', tmp_path / 'protein.msgpack')
  with pytest.raises(FileNotFoundError, match=r'protein_shipped\.gin'):
    shipped.shipped()


@pytest.mark.slow
def test_a_run_is_packed(tmp_path, capsys):
  no_costs = 'training.LanguageModelTrainer.cost_lengths = ()'
  run_cases.protein_run(tmp_path / 'run', 'EVAL_EVERY = 2', no_costs)
  path = tmp_path / 'model.msgpack'
  pack.main([str(tmp_path / 'run'), '--step=latest', f'--output={path}'])
  assert 'MiB, step 2' in capsys.readouterr().out
  generate.main([str(path), '--max_new_tokens', '4'])
  assert len(capsys.readouterr().out.strip()) == 4
