"""Search spaces: the unit cube, JSON, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces
from tests import refusals, seeds

SPACE = spaces.Space(
  (
    spaces.Float('lr', 1e-6, 1e-2, 'LOG'),
    spaces.Float('momentum', 0.5, 0.999, 'REVERSE_LOG'),
    spaces.Float('shift', -2.0, 3.0),
    spaces.Int('layers', 1, 7),
    spaces.Int('width', 8, 512, 'LOG'),
    spaces.Discrete('rate', (0.1, 0.25, 1.0)),
    spaces.Categorical('optimizer', ('sgd', 'adam')),
    spaces.Float('fixed', 2.0, 2.0),
  )
)


def test_points_and_the_unit_cube_are_inverse():
  rng = seeds.rng(0)
  codes = SPACE.sample(rng, 500)
  unit = SPACE.to_unit(codes)
  assert ((unit >= 0) & (unit <= 1)).all()
  np.testing.assert_allclose(SPACE.from_unit(unit), codes, rtol=1e-12)
  for row in codes[:20]:
    np.testing.assert_array_equal(SPACE.codes(SPACE.point(row)), row)


def test_uniform_draws_are_uniform_choices():
  codes = SPACE.sample(seeds.rng(1), 7000)
  for column, count in ((3, 7), (5, 3), (6, 2)):
    found = np.unique(codes[:, column], return_counts=True)[1]
    expected = 7000 / count
    assert len(found) == count
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()
  # Half of a logarithmic range lies below the geometric mean of its bounds.
  assert abs((codes[:, 0] < 1e-4).mean() - 0.5) < 0.03
  # A reversed one is dense at its upper bound: mirrored by hand.
  mirrored = 1.499 - codes[:, 1]
  assert abs((mirrored < np.sqrt(0.5 * 0.999)).mean() - 0.5) < 0.03


def test_bounds_are_met_exactly():
  ends = SPACE.from_unit(np.stack([np.zeros(8), np.ones(8)]))
  names = SPACE.names
  low, high = (dict(zip(names, row, strict=True)) for row in ends)
  assert (low['lr'], high['lr']) == (1e-6, pytest.approx(1e-2, rel=1e-15))
  assert high['lr'] <= 1e-2
  assert (low['width'], high['width']) == (8, 512)
  assert (low['rate'], high['rate']) == (0, 2)
  assert SPACE.free == tuple(range(7))


@pytest.mark.parametrize(
  'parameter',
  [
    spaces.Float('x', 1e-20, 1.0, 'REVERSE_LOG'),
    spaces.Float('x', 1e308, 1.5e308, 'REVERSE_LOG'),
    spaces.Float('x', 1e-150, 1e150, 'LOG'),
    spaces.Int('x', 1, 2**53, 'REVERSE_LOG'),
  ],
)
def test_ends_of_wide_ranges_are_not_rounded_away(parameter):
  ends = np.array([parameter.low, parameter.high], np.float64)
  np.testing.assert_allclose(parameter.to_scaled(ends), [0, 1], atol=1e-12)
  found = parameter.from_scaled(np.arange(2.0))
  rounding = 1e-12 * parameter.high if parameter.scale != 'LOG' else 0
  np.testing.assert_allclose(found, ends, rtol=1e-12, atol=rounding)


def test_json_holds_a_space():
  text = json.dumps(SPACE.to_json())
  assert spaces.Space.from_json(text) == SPACE


def test_discrete_values_survive_float32():
  assert SPACE.parameters[5].code(float(np.float32(0.1))) == 0
  # Float32 holds neither of these, so equality in float32 says nothing.
  for values, near in (((1e39, 1e40), 5e39), ((1e-50, 1.0), 1e-60)):
    listed = spaces.Discrete('x', values)
    assert listed.code(values[0]) == 0
    with pytest.raises(ValueError, match='one of'):
      listed.code(near)


def test_numbers_of_numpy_and_jax_become_plain():
  space = spaces.Space(
    (
      spaces.Float('x', np.float32(0.5), np.int64(1)),
      spaces.Int('n', np.int64(1), 5.0),
      spaces.Discrete('d', list(np.arange(3))),
      spaces.Categorical('c', list(np.array(['a', 'b']))),
    )
  )
  assert spaces.Space.from_json(json.dumps(space.to_json())) == space
  bounds = [(p.low, p.high) for p in space.parameters[:2]]
  assert repr(bounds) == '[(0.5, 1.0), (1, 5)]'
  values = (jnp.float32(0.5), jnp.int32(2), np.array(1), np.str_('b'))
  codes = [p.code(v) for p, v in zip(space.parameters, values, strict=True)]
  assert codes == [0.5, 2, 1, 1]


def test_values_may_be_rounded_at_the_bounds_and_no_further():
  for scale in ('LINEAR', 'LOG', 'REVERSE_LOG'):
    wide = spaces.Float('x', 1e-6, 1e6, scale)
    for bound in (1e-6, 1e6):
      for factor in (1 - 1e-10, 1 + 1e-10):
        assert wide.code(bound * factor) == pytest.approx(bound, rel=1e-9)
  for value in (0.0, 0.99e-6, 1.01e6):
    with pytest.raises(ValueError, match='must lie in'):
      spaces.Float('x', 1e-6, 1e6, 'LOG').code(value)


test_what_is_no_space_or_point_is_refused = refusals.table(
  (lambda: spaces.Float('x', 1.0, 0.0), 'low <= high'),
  (lambda: spaces.Float('x', 0.0, 1.0, 'LOG'), 'bounds above 0'),
  (lambda: spaces.Float('x', 0.0, float('inf')), 'finite'),
  (lambda: spaces.Float('x', 0.0, 1.0, 'log'), 'scale'),
  (lambda: spaces.Float('x', -1e308, 1e308), 'finite size'),
  (lambda: spaces.Float('x', 1e-200, 1e200, 'LOG'), 'finite size'),
  (lambda: spaces.Int('x', 0.5, 2), 'whole'),
  (lambda: spaces.Int('x', 0, 2**53 + 2), '2\\*\\*53'),
  (lambda: spaces.Int('x', 0, 10**400), 'finite'),
  (lambda: spaces.Discrete('x', (2.0, 1.0)), 'ascend'),
  (lambda: spaces.Categorical('x', ('a', 'a')), 'each listed once'),
  (lambda: spaces.Categorical('x', ()), 'needs values'),
  (lambda: spaces.Categorical('x', 'ab'), 'must be a list'),
  (lambda: spaces.Space(()), 'needs parameters'),
  (lambda: spaces.Space((SPACE.parameters[0],) * 2), 'different names'),
  (lambda: spaces.Space.from_json([{'type': 'BOOL'}]), "'BOOL'"),
  (lambda: spaces.Space.from_json('[{"type": ["INT"]}]'), 'INT'),
  (lambda: spaces.Space.from_json('{"x": 1}'), 'must be a list'),
  (lambda: spaces.Space.from_json('5'), 'must be a list'),
  (lambda: spaces.Space.from_json('["x"]'), 'must be an object'),
  (
    lambda: spaces.Space.from_json(
      '[{"type": "CATEGORICAL", "name": "x", "values": [["a"]]}]'
    ),
    'must be texts',
  ),
  (lambda: spaces.Space.from_json([{'type': 'INT', 'lo': 1}]), 'lo'),
  (lambda: SPACE.from_unit(np.full(8, 1.5)), r'\[0, 1\]'),
  (lambda: SPACE.from_unit(np.full(8, np.nan)), r'\[0, 1\]'),
  (lambda: SPACE.codes({'lr': 1}), 'missing'),
)


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    ('lr', 0.1),
    ('lr', float('nan')),
    ('lr', 'a'),
    ('layers', 1.5),
    ('layers', True),
    ('layers', 8),
    ('rate', 0.2),
    ('optimizer', 'rmsprop'),
  ],
)
def test_values_that_are_not_legal_are_refused(name, value):
  point = SPACE.point(SPACE.sample(seeds.rng(2), 1)[0])
  with pytest.raises(ValueError, match=name):
    SPACE.codes({**point, name: value})
