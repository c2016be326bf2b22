"""The random matrices of any step of a run."""

import jax
import numpy as np
import optax

from performer import attention
from performer import learner as learner_lib
from performer.models import transformer


def test_matrices_of_another_step_are_those_that_the_run_used():
  favor = attention.Favor(features=8, redraw_every=3)
  model = transformer.Transformer(
    9, 8, favor, num_layers=2, num_heads=1, d_model=4, d_ff=4, causal=True
  )
  learner = learner_lib.Learner(model, optax.sgd(0.1), seed=5)
  state = jax.jit(learner.init)()
  draw = jax.jit(learner.draw_projections)
  np.testing.assert_allclose(state.projections, draw(state.key, 0), atol=1e-6)
  used = jax.jit(learner.redraw)(state.replace(step=7)).projections
  same = [
    step
    for step in range(4, 11)
    if np.allclose(draw(state.key, step), used, atol=1e-6)
  ]
  assert same == [6, 7, 8]
