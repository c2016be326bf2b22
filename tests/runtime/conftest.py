"""What tests of the loop train, and the module that gin files configure."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from clu import metrics as clu_metrics
from flax import struct

from runtime import loop
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics

WIDTH = 4


@struct.dataclass
class State:
  step: jax.Array
  params: dict
  opt_state: tuple
  key: jax.Array


class Batches:
  """Batch i is a function of i; bit-exact resumption needs its position."""

  def __init__(self, poison=None):
    self.position = 0
    self.poison = poison

  def __next__(self):
    rng = np.random.default_rng(self.position)
    x = rng.normal(size=(8, WIDTH)).astype(np.float32)
    y = x.sum(1)
    self.position += 1
    if self.position == self.poison:
      y[3] = np.nan
    return {'x': x, 'y': y}

  def get_state(self):
    return {'position': self.position}

  def set_state(self, state):
    self.position = state['position']


def make_experiment(*, poison=None, mesh=None, width=WIDTH):
  """A regression small enough to train in every test of the loop."""
  optimizer = optax.adam(0.1)
  mesh = mesh or mesh_lib.MeshConfig().make()

  def init():
    params = {'w': jnp.zeros(width)}
    return State(
      jnp.int32(0), params, optimizer.init(params), jax.random.key(7)
    )

  def step(state, batch):
    noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (8,))

    def loss(params):
      error = batch['x'] @ params['w'] - batch['y'] + 0.1 * noise
      return jnp.mean(error**2), error

    (_, error), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state)
    collection = clu_metrics.Collection.create_collection(
      loss=metrics.Average.of(error**2), perplexity=metrics.Perplexity.of(error)
    )
    params = optax.apply_updates(state.params, updates)
    return state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    ), collection

  shardings = jax.tree.map(
    lambda _: mesh_lib.replicated(mesh), jax.eval_shape(init)
  )
  return loop.Experiment(
    init=init,
    step=step,
    shardings=shardings,
    batches=Batches(poison),
    mesh=mesh,
    batch_size=8,
    num_examples=80,
    evaluators={'sum': lambda state: {'w': float(state.params['w'].sum())}},
    params=lambda state: state.params,
  )


@pytest.fixture(scope='session')
def regression():
  return make_experiment


@pytest.fixture
def toy(monkeypatch):
  """`toys`, as gin files import it."""
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent))
  return importlib.import_module('toys')
