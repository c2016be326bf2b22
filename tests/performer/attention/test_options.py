"""What is not understood is refused, with the name, the value and the rule."""

import contextlib
import dataclasses
import re

import jax.numpy as jnp
import jaxtyping
import pytest

from performer import attention
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

# Under the run-time type checker the annotations refuse first.
REFUSED = (ValueError, jaxtyping.TypeCheckError)


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
    ({'stabilizer': 'reference', 'renormalize': False}, 'forgets its unit'),
    ({'kernel': 'relu', 'feature_dtype': 'float16'}, "float16.*'relu'"),
    ({'chunk': 100}, 'power of two.*100'),
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


def test_states_that_do_not_fit():
  q, k, v = twin.inputs(1)
  favor, other = cases.favor(), cases.favor(features=32)
  state = other.form(None, head_dim=8).empty(v)
  w = cases.projection(favor)
  with refused(r'state must have S.*\(2, 2, 8, 32\)'):
    favor.extend(q, k, v, projection=w, state=state)
  # Of another kind of kernel: one constant for all features.
  state = cases.favor('relu').form(None, head_dim=8).empty(v)
  with refused(r'state must have c of shape \(2, 2, 16\)'):
    favor.extend(q, k, v, projection=w, state=state)
  with refused('state must have c'):
    favor.read(q, state, projection=w)
  reference = cases.favor(stabilizer='reference')
  with refused('needs all keys'):
    reference.extend(q, k, v, projection=w)
