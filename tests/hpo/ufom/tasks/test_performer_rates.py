"""A Performer's learning rates are the outer variable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo import ufom
from hpo.ufom.tasks import performer_rates
from performer import attention
from performer.models import transformer
from tests import seeds


@pytest.fixture(scope='module')
def family():
  model = transformer.Transformer(
    vocab_size=256,
    max_length=8,
    attention=attention.Favor(kernel='elu1', projection=False, features=None),
    causal=True,
    num_layers=1,
    num_heads=1,
    d_model=8,
    d_ff=8,
    dropout=0.0,
  )
  return performer_rates.PerformerRates(
    model, inner_steps=2, batch_size=2, start=0.3
  )


@pytest.mark.slow
def test_rates_are_those_of_plain_descent(family):
  """Weights after two steps with a rate of each group; its gradient."""
  tasks = family.sample(seeds.rng(0), 1)
  task = jax.tree.map(lambda x: jnp.asarray(x[0]), tasks)
  theta = family.init(seeds.key(0))
  theta = theta | {'mlp': jnp.float32(-2.0)}
  inner = ufom.Inner(2, 1.0, mode='store_phi')

  def trained(theta):
    weights = family._weights(jax.random.key(task['seed']))
    for j in range(2):
      slope = jax.grad(family._loss)(weights, task['tokens'][j])
      weights = jax.tree_util.tree_map_with_path(
        lambda path, w, d: w - jnp.exp(theta[performer_rates._group(path)]) * d,
        weights,
        slope,
      )
    return family._loss(weights, task['tokens'][-1])

  value, grad = jax.jit(jax.value_and_grad(trained))(theta)
  found = jax.jit(lambda t: inner.exact(family.problem, t, task))(theta)
  np.testing.assert_allclose(found.value, value, rtol=1e-5)
  for group in performer_rates.GROUPS:
    np.testing.assert_allclose(
      found.grad[group], grad[group], rtol=2e-3, atol=1e-6
    )
    assert found.first_order[group] != 0


def test_tasks_are_runs_on_the_training_text(family):
  tasks = family.sample(seeds.rng(1), 3)
  assert tasks['tokens'].shape == (3, 3, 2, 9)
  assert len(set(tasks['seed'].tolist())) == 3
  whole = family._texts['train'].tobytes()
  assert tasks['tokens'][0, 0, 0].tobytes() in whole
  with pytest.raises(ValueError, match='rate 1'):
    family.evaluators(ufom.Inner(3, 1.0))
