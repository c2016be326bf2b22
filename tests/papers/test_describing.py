"""Descriptions of settings: equal if and only if the settings are."""

import dataclasses
import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from papers import describing
from performer import attention
from rl.odetoode import bodies


@dataclasses.dataclass(frozen=True)
class Inner:
  rate: float = 0.1
  shape: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Outer:
  inner: Inner = Inner()
  f: object = jnp.tanh
  data: object = None


def digest(value):
  return describing.digest(describing.describe(value))


@pytest.mark.parametrize(
  'other',
  [
    Outer(Inner(rate=0.2)),
    Outer(Inner(shape=(1, 3))),
    Outer(f=jnp.abs),
    Outer(f=functools.partial(jnp.clip, min=0.0)),
    Outer(f=functools.partial(jnp.clip, min=1.0)),
    Outer(data=np.zeros(3)),
    Outer(data=np.ones(3)),
    Outer(data=np.ones(3, np.float32)),
    Outer(data=jax.random.key(1)),
    Outer(data=jax.random.key(2)),
    Outer(data=pathlib.Path('data/x.npz')),
    Outer(data={'a': 1}),
    Outer(data=optax.sgd(0.1)),
    Outer(data=optax.sgd(0.2)),
    Outer(data=attention.Favor(features=8)),
    Outer(data=attention.Favor(features=16)),
    Outer(data=bodies.ODEtoODE(8)),
    Outer(data=bodies.ODEtoODE(8, n_steps=7)),
    Inner(),
  ],
  # Their texts hold addresses, which differ between workers.
  ids=map(str, itertools.count()),
)
def test_every_setting_counts(other, request):
  """Each differs from the defaults and, by the cache below, from the others."""
  found = digest(other)
  assert found == digest(dataclasses.replace(other))
  assert found != digest(Outer())
  seen = request.config.stash.setdefault(SEEN, {})
  assert seen.setdefault(found, str(other)) == str(other)


SEEN = pytest.StashKey()


def test_defaults_are_resolved_and_fit_json():
  found = describing.describe(Outer(data=bodies.ODEtoODE(8)))
  assert json.loads(json.dumps(found)) == found
  assert found['inner'] == {
    'type': f'{Inner.__module__}.Inner',
    'rate': 0.1,
    'shape': [1, 2],
  }
  assert found['data']['n_steps'] == bodies.ODEtoODE(8).n_steps
  assert 'parent' not in found['data']


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ({'a': lambda: 1}, r'settings\.a must be a named function'),
    (Outer(data=[1, object()]), r'settings\.data\[1\] cannot be described'),
  ],
  ids=['lambda', 'object'],
)
def test_what_has_no_description_is_named(value, message):
  with pytest.raises(ValueError, match=message):
    describing.describe(value)


def test_a_field_that_is_newer_than_a_description_may_have_its_default():
  known = describing.describe({'arms': [Outer(), Inner(shape=(3,))]})
  del known['arms'][0]['inner']['rate'], known['arms'][1]['rate']
  seen = lambda value: describing.describe({'arms': value}, known=known)
  assert seen([Outer(), Inner(shape=(3,))]) == known
  for other in (
    [Outer(Inner(rate=0.2)), Inner(shape=(3,))],
    [Outer(), Inner(rate=0.2, shape=(3,))],
    [Outer(), Inner(shape=(4,))],
    [Outer(), Inner(shape=(3,)), Inner()],
  ):
    assert seen(other) != known
