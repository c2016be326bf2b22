"""Knobs: bijections onto their ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpo.autorl import knobs
from tests import refusals

SOME = (
  knobs.Knob('discount', 0.9),
  knobs.Knob('rate', 1e-3, 1e-5, 1e-1, 'LOG'),
  knobs.Knob('horizon', 95.0, 1.0, 100.0, 'REVERSE_LOG'),
)


@pytest.mark.parametrize('knob', SOME)
def test_start_and_range(knob):
  free = knobs.initial([knob], (2,))[knob.name]
  np.testing.assert_allclose(knob.value(free), [knob.start] * 2, rtol=1e-5)
  many = knob.value(jnp.linspace(-8.0, 8.0, 50))
  assert (np.diff(many) > 0).all()
  assert knob.low <= many[0] < many[-1] <= knob.high
  # Equal steps along the scale have one slope in the middle.
  slope = jax.grad(knob.value)(0.0)
  ahead = 1e-2 * float(slope)
  np.testing.assert_allclose(
    knob.value(jnp.float32(5e-3)) - knob.value(jnp.float32(-5e-3)),
    ahead,
    rtol=1e-2,
  )


def test_places_in_the_range():
  knob = knobs.Knob('rate', 1e-3, 1e-5, 1e-1, 'LOG')
  found = [knob.unit(x) for x in (0.0, 1e-5, 1e-3, 1e-1, 2.0)]
  np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)


def test_values_by_name():
  found = knobs.values(SOME, knobs.initial(SOME))
  want = {knob.name: knob.start for knob in SOME}
  assert found.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(found[name], value, rtol=1e-5)


test_what_does_not_fit_is_refused = refusals.table(
  (lambda: knobs.Knob('x', 1.0), "start of 'x' must lie between"),
  (lambda: knobs.Knob('x', 0.5, scale='LOG'), 'needs bounds above 0'),
  (lambda: knobs.initial((SOME[0], SOME[0])), 'different names'),
)
