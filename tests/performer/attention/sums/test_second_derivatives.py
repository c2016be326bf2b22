"""Derivatives of gradients, against a dense formula in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.sums import log
from tests import marks, seeds

FAVOR = attention.Favor(kernel='softmax_pos', features=4, chunk=2)
LENGTH, WIDTH = 7, 3


def dense(q, k, v, w, *, causal):
  """Attention with the kernel matrix written out."""

  def log_features(x):
    x = x * WIDTH**-0.25
    return jnp.einsum('blhd,md->bhlm', x, w) - 0.5 * (x**2).sum(-1).swapaxes(
      1, 2
    ).reshape(*x.shape[:1], x.shape[2], x.shape[1], 1)

  logs = log_features(q)[:, :, :, None] + log_features(k)[:, :, None]
  logs = jax.nn.logsumexp(logs, axis=-1)
  if causal:
    logs = jnp.where(jnp.tri(LENGTH, dtype=bool), logs, -jnp.inf)
  return jnp.einsum('bhij,bjhv->bihv', jax.nn.softmax(logs, -1), v)


def pieces(q, k, v, w, *, causal):
  """Of two pieces, the second from the state of the first."""
  del causal
  first, state = FAVOR.extend(q[:, :3], k[:, :3], v[:, :3], projection=w)
  second, _ = FAVOR.extend(
    q[:, 3:], k[:, 3:], v[:, 3:], projection=w, state=state
  )
  return jnp.concatenate([first, second], axis=1)


def whole(q, k, v, w, *, causal):
  return FAVOR(q, k, v, projection=w, causal=causal)


@pytest.mark.parametrize(
  ('attend', 'causal', 'split'),
  [
    (whole, False, False),
    *marks.slow(
      (whole, True, False), (whole, True, True), (pieces, True, False)
    ),
  ],
)
def test_hessians_are_those_of_the_formula(attend, causal, split, monkeypatch):
  if split:
    # Every chunk takes the form for keys that grow. Other options, because
    # calls are traced once for each.
    monkeypatch.setattr(log, 'exponent_limit', lambda dtype: -1e9)
    other = dataclasses.replace(FAVOR, redraw_every=7)
    monkeypatch.setitem(globals(), 'FAVOR', other)
  with jax.enable_x64(True):
    rng = seeds.rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape))
    x = [draw(1, LENGTH, 1, WIDTH) for _ in range(3)]
    w = draw(4, WIDTH)  # A constant for gradients.
    cotangent = draw(1, LENGTH, 1, WIDTH)
    directions = [draw(*one.shape) for one in x]

    def second(function):
      loss = lambda *x: (function(*x, w, causal=causal) * cotangent).sum()

      def slope(*x):
        grads = jax.grad(loss, (0, 1, 2))(*x)
        return sum(
          (g * d).sum() for g, d in zip(grads, directions, strict=True)
        )

      return jax.jit(jax.grad(slope, (0, 1, 2)))(*x)

    for mine, other in zip(second(attend), second(dense), strict=True):
      np.testing.assert_allclose(mine, other, atol=1e-8 * np.abs(other).max())
