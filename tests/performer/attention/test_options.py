"""What is not understood is refused, with the name, the value and the rule."""

import contextlib
import dataclasses
import re

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from performer import attention
from performer.attention import checks
from performer.attention.analysis import theory
from tests import seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

# Under the run-time type checker the annotations refuse first.
REFUSED = (ValueError, jaxtyping.TypeCheckError)
POSITIVE_PRESETS = ('default', 'paper', 'train_fast', 'relu_det', 'relu_proj')


@contextlib.contextmanager
def refused(message):
  with pytest.raises(REFUSED) as caught:
    yield
  if isinstance(caught.value, ValueError):
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'kernel': 'softmax_hip'}, "'softmax_hip'.*'softmax_hyp'"),
    ({'ortho': 'rof'}, "'rof'.*'rorf'"),
    ({'stabilizer': 'onlin'}, "'onlin'.*'online'"),
    ({'norm': 'chisq'}, "'chisq'.*'chi'"),
    ({'feature_dtype': 'float64'}, "'float64'.*'float32'"),
    ({'features': 255}, 'multiple of 2.*255'),
    ({'kernel': 'softmax_trig', 'features': 7}, 'multiple of 2.*7'),
    ({'features': 0}, 'positive.*0'),
    ({'features': None}, 'needs features'),
    ({'kernel': 'relu', 'features': None}, 'needs features'),
    ({'kernel': 'relu', 'projection': False}, 'features=None.*256'),
    ({'projection': False, 'features': None}, 'needs projection=True'),
    ({'kernel': 'softmax_pos_reg', 'norm': 'chi'}, "sqrt_d.*'chi'"),
    ({'kernel_epsilon': 1e-3}, 'no epsilon.*0.001'),
    ({'kernel': 'relu', 'kernel_epsilon': -1.0}, '>= 0.*-1'),
    ({'kernel': 'relu', 'stabilizer': 'reference'}, "softmax kernels.*'relu'"),
    (
      {'stabilizer': 'reference', 'renormalize': False},
      'needs renormalize=True',
    ),
    ({'kernel': 'relu', 'feature_dtype': 'float16'}, "float16.*'relu'"),
    ({'chunk': 0}, 'chunk must be positive.*0'),
    ({'chunk': 64.0}, 'chunk must be an integer, got 64.0'),
    ({'redraw_every': 0}, 'positive or None.*0'),
    (
      {
        'kernel': 'relu',
        'features': None,
        'projection': False,
        'per_head': True,
      },
      'per_head=True',
    ),
  ],
)
def test_contradictory_options(options, message):
  with refused(message):
    attention.Favor(**options)


@pytest.mark.parametrize('name', ['dropout', 'dropout_rate', 'casual', 'bias'])
def test_unknown_options_and_arguments(name):
  with pytest.raises(TypeError, match=name):
    attention.Favor(**{name: 0.1})
  q, k, v = twin.inputs(1)
  for mechanism in (attention.Exact(), cases.favor()):
    with pytest.raises(TypeError, match=name):
      mechanism(q, k, v, projection=None, causal=False, **{name: 0.1})


@pytest.mark.parametrize('kernel', ['softmax_trig', 'tanh', 'cos', 'gelu'])
def test_signed_kernels_warn(kernel):
  with pytest.warns(UserWarning, match=f"'{kernel}' has signed features"):
    attention.Favor(kernel=kernel)


def test_favor_is_a_frozen_hashable_value():
  favor = attention.Favor()
  assert favor == attention.Favor()
  assert hash(favor) == hash(attention.Favor())
  assert attention.Exact() == attention.Exact()
  with pytest.raises(dataclasses.FrozenInstanceError):
    favor.chunk = 64


FULL = jnp.ones((2, 21), bool)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'q': (2, 21, 8)}, 'q must have 4 axes'),
    ({'q': (2, 20, 2, 8)}, 'as many queries as keys'),
    ({'q': (2, 21, 2, 4)}, 'q and k must agree'),
    ({'k': (2, 21, 1, 8)}, 'k and v must agree'),
    ({'v': (1, 21, 2, 8)}, 'k and v must agree'),
    ({'v': (2, 21, 2, 0)}, 'must not be empty'),
    ({'key_mask': FULL.astype(jnp.float32)}, 'must be boolean.*float32'),
    ({'key_mask': FULL[:, :20]}, 'key_mask must be'),
    ({'key_mask': jnp.ones((2, 1, 21, 21), bool)}, 'cannot be masked'),
  ],
)
@pytest.mark.parametrize('exact', [True, False])
def test_misshapen_inputs(change, message, exact):
  mechanism = attention.Exact() if exact else cases.favor()
  arrays = dict(zip('qkv', twin.inputs(1), strict=True))
  for name, value in change.items():
    arrays[name] = jnp.ones(value) if isinstance(value, tuple) else value
  w = None if exact else jnp.ones((8, 8))
  with refused(message):
    mechanism(**arrays, projection=w, causal=True)


def test_integers_are_no_inputs():
  q, k, v = twin.inputs(1)
  with refused('v must be floating.*int'):
    attention.Exact()(q, k, v.astype(int), projection=None, causal=False)


@pytest.mark.parametrize(
  ('mechanism', 'w', 'message'),
  [
    (cases.favor(), None, 'needs a projection'),
    (cases.favor(), jnp.ones((16, 8)), r'\(8, 8\).*got \(16, 8\)'),
    (cases.favor(), jnp.ones((3, 8, 8)), r'\(2, 8, 8\).*got \(3, 8, 8\)'),
    (attention.Exact(), jnp.ones((8, 8)), 'takes no projection'),
    (
      cases.favor('relu', features=None, projection=False),
      jnp.ones((8, 8)),
      'takes no projection',
    ),
  ],
)
def test_wrong_projections(mechanism, w, message):
  q, k, v = twin.inputs(1)
  with refused(message):
    mechanism(q, k, v, projection=w, causal=False)


@pytest.mark.parametrize('dtype', [jnp.float8_e4m3fn, jnp.complex64])
def test_other_numbers_are_no_inputs(dtype):
  q, k, v = twin.inputs(1)
  favor = cases.favor()
  w = cases.projection(favor)
  with refused('q must be floating.*got dtype'):
    favor(q.astype(dtype), k, v, projection=w, causal=False)
  with refused('must consist of floating arrays'):
    favor(q, k, v, projection=w.astype(dtype), causal=False)


def test_numbers_out_of_range():
  favor = cases.favor()
  draw = {'layer': 0, 'step': 0, 'num_heads': 2, 'head_dim': 8}
  for name in draw:
    with refused(f'{name} must be >= .*-1'):
      favor.draw(seeds.key(0), **draw | {name: -1})
  for below in (True, 1.5, -1):
    with refused('exact_below must be an integer >= 0'):
      attention.Auto(favor, exact_below=below)
  with refused('rows must be 1 to size.*rows=0'):
    theory.orthogonal_gain(jnp.ones(()), rows=0, size=8)


def test_numpy_integers_are_integers():
  assert checks.is_integer(np.int64(8))
  assert not checks.is_integer(True)
  assert not checks.is_integer(8.0)


def test_presets():
  """The published Performers, and what contradicts them."""
  made = {name: attention.preset(name) for name in POSITIVE_PRESETS}
  assert made['default'] == attention.Favor()
  assert (made['paper'].kernel, made['paper'].rows) == ('softmax_pos', 256)
  assert made['train_fast'].spec.norm == 'sqrt_d'
  assert made['relu_det'].rows is None
  assert made['relu_proj'].rows == 256
  assert attention.preset('paper', features=64).features == 64
  with pytest.warns(UserWarning, match='signed features'):
    assert attention.preset('favor').kernel == 'softmax_trig'
  assert set(attention.PRESETS) == {*POSITIVE_PRESETS, 'favor'}
  with refused("unknown preset 'papre'; did you mean 'paper'"):
    attention.preset('papre')


def test_states_that_do_not_fit():
  q, k, v = twin.inputs(1)
  favor, other = cases.favor(), cases.favor(features=32)
  state = other.empty_state(batch=2, num_heads=2, head_dim=8)
  w = cases.projection(favor)
  with refused(r'state must have S.*\(2, 2, 8, 32\)'):
    favor.extend(q, k, v, projection=w, state=state)
  # Of another kind of kernel: one constant for all features.
  other = cases.favor('relu')
  state = other.empty_state(batch=2, num_heads=2, head_dim=8)
  with refused(r'state must have c of shape \(2, 2, 16\)'):
    favor.extend(q, k, v, projection=w, state=state)
  with refused('state must have c'):
    favor.read(q, state, projection=w)
  with refused('state must be a State'):
    favor.read(q, None, projection=w)
  reference = cases.favor(stabilizer='reference')
  with refused('needs all keys'):
    reference.extend(q, k, v, projection=w)
