"""Counts of operations and bytes, read off a trace."""

import jax
import jax.numpy as jnp

from runtime.devices import counting


def test_flops_are_those_of_the_products():
  def function(a, b, x):
    def body(x, _):
      return jnp.tanh(a @ x), None

    x, _ = jax.lax.scan(body, x, None, length=5)
    x = jax.checkpoint(lambda x: b @ x)(x)
    return jax.lax.cond(x.sum() > 0, lambda x: a @ (b @ x), lambda x: x, x)

  a, b, x = jnp.ones((4, 4)), jnp.ones((4, 4)), jnp.ones((4, 3))
  one = 2 * 4 * 4 * 3
  assert counting.matmul_flops(function, a, b, x) == (5 + 1 + 2) * one


def test_flops_of_a_convolution_are_those_of_its_product():
  x, kernel = jnp.ones((2, 6, 5, 4)), jnp.ones((3, 3, 2, 8))

  def convolved(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (2, 1), 'SAME', feature_group_count=2,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip

  flops = counting.matmul_flops(convolved, x, kernel)
  assert flops == 2 * (3 * 3 * 2) * (2 * 3 * 5 * 8)


def test_residuals_and_bytes():
  x = jnp.ones((8, 8), jnp.float32)
  assert counting.tree_bytes({'x': x, 'k': jax.random.key(0)}) == 256
  kept = counting.residual_bytes(lambda x: jnp.sin(jnp.sin(x)).sum(), (x,))
  assert 256 <= kept <= 3 * 256
