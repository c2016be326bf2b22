"""The warning that norms have outgrown the features, in a tiny run."""

import logging as std_logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging

from performer import attention, norm_watch, training
from performer.data import proteins
from runtime.devices import mesh as mesh_lib
from tests import experiments, seeds
from tests.performer.data import data_cases
from tests.performer.models import model_cases

LENGTH = 16
FAVOR = attention.Favor(features=8, chunk=8)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp('fasta')
  sizes = {'train': 40 * [12], 'valid': 9 * [12]}
  files = data_cases.random_proteins(folder, seeds.rng(0), sizes)
  return proteins.Proteins(
    task='causal',
    max_length=LENGTH,
    files=files,
    cache_dir=str(folder / 'cache'),
    num_threads=0,
  )


@pytest.fixture(scope='module')
def built(data):
  """The learner of a trainer, its experiment, and a first state."""
  trainer = training.LanguageModelTrainer(
    model_cases.small(FAVOR, d_ff=16), data, optax.sgd(0.0), batch_size=8
  )
  one = jax.devices()[:1]
  learner = trainer.learner(seed=0, mesh=mesh_lib.MeshConfig().make(one))
  experiment = experiments.of(trainer, devices=one)
  return learner, experiment, jax.jit(learner.init)()


def scaled(state, *factors):
  """The state with queries and keys of each layer multiplied."""
  params = jax.tree.map(lambda x: x, state.params)
  for name in ('query', 'key'):
    kernel = params['blocks']['attention'][name]['kernel']
    by_layer = np.float32(factors)[:, None, None, None]
    params['blocks']['attention'][name]['kernel'] = kernel * by_layer
  return state.replace(params=params)


@pytest.fixture
def warnings_seen(caplog):
  logger = logging.get_absl_logger()
  logger.addHandler(caplog.handler)
  yield lambda: [
    record.getMessage()
    for record in caplog.records
    if record.levelno == std_logging.WARNING
    and 'random features' in record.getMessage()
  ]
  logger.removeHandler(caplog.handler)


def test_warns_once_when_norms_have_grown(data, built, warnings_seen):
  learner, experiment, state = built
  evaluator = experiment.evaluators['valid']
  small = scaled(state, 0.3, 0.3)
  evaluator(small)
  assert not warnings_seen()
  large = scaled(state, 0.3, 4.0)
  scores = evaluator(large)
  (message,) = set(warnings_seen())
  assert 'layer 1' in message
  assert '\n' not in message
  count = len(warnings_seen())
  evaluator(large)
  assert len(warnings_seen()) == count
  plain = training.evaluate(
    learner, data, 'valid', mesh=experiment.mesh, batch_size=8
  )
  assert scores == plain(large)


def test_prediction_is_the_closed_form(built):
  """In float64 from the parameters, for the first layer."""
  learner, experiment, state = built
  state = scaled(state, 0.7, 0.7)
  batch = {k: jnp.asarray(x) for k, x in next(experiment.batches).items()}
  found = norm_watch.predicted_errors(
    learner.spread_model, FAVOR, state.params, state.projections, batch
  )
  assert found.shape == (2,)
  p = jax.tree.map(lambda x: np.asarray(x, float), state.params)
  x = p['tokens']['embedding'][batch['tokens']] + p['positions']
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  q, k = (
    np.einsum('ble,ehd->bhld', x, p['blocks']['attention'][n]['kernel'][0])
    * 8**-0.25
    for n in ('query', 'key')
  )
  z2 = np.square(q[..., :, None, :] + k[..., None, :, :]).sum(-1)
  mask = np.asarray(batch['mask'])
  keep = mask[:, None, :, None] & mask[:, None, None, :]
  keep = keep & np.tri(LENGTH, dtype=bool)
  z2 = z2[np.broadcast_to(keep, z2.shape)]
  # softmax_hyp with 4 rows: (e^z - 1)(1 - e^-z) / 2 / m.
  mse = (np.exp(z2) - 1) * (1 - np.exp(-z2)) / 2 / 4
  expected = np.sqrt(np.quantile(mse, 0.5, method='lower'))
  np.testing.assert_allclose(found[0], expected, rtol=1e-3)


@pytest.mark.parametrize(
  ('mechanism', 'watched'),
  [
    (FAVOR, True),
    (attention.Exact(), False),
    (attention.Favor(kernel='relu', features=8), False),
    (attention.Auto(favor=FAVOR, exact_below=LENGTH), True),
    (attention.Auto(favor=FAVOR, exact_below=LENGTH + 1), False),
  ],
)
def test_only_estimates_of_softmax_are_watched(mechanism, watched):
  assert (
    norm_watch.estimator(model_cases.small(mechanism)) is not None
  ) == watched
