"""Cost of a training step by length: a mechanism and exact attention."""

import functools
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from performer import attention, objective
from performer.models import language_model
from runtime.record import pictures as pictures_lib

__all__ = ['draw', 'step_cost', 'step_costs']

_REPEATS = 3
_ENOUGH_S = 5.0  # A step that takes longer is measured once.


def step_costs(
  model: language_model.LanguageModel, lengths: Iterable[int]
) -> list[dict[str, Any]]:
  """Measures gradients of one sequence, on one device.

  Args:
    model: with the attention to measure; its parameters are drawn anew.
    lengths: of the sequence, in tokens.

  Returns:
    A row per length and mechanism: 'length', 'attention', 'ms' (the median of
    up to three steps), 'MiB' (what the compiler plans for the step besides its
    arguments and results).
  """
  mechanisms = {
    type(model.attention).__name__: model.attention,
    'Exact': attention.Exact(),
  }
  return [
    {'length': length, 'attention': name}
    | step_cost(model.clone(attention=mechanism, max_length=length), length)
    for length in lengths
    for name, mechanism in mechanisms.items()
  ]


def step_cost(
  model: language_model.LanguageModel, length: int
) -> dict[str, float]:
  """Measures the gradient of one sequence of a length: 'ms' and 'MiB'."""
  tokens = jnp.zeros((1, length), jnp.int32)
  projections = model.draw_projections(jax.random.key(0), 0)
  params = jax.jit(
    functools.partial(model.init, mask=tokens == 0, projections=projections)
  )(jax.random.key(1), tokens)

  def loss(params: PyTree) -> jax.Array:
    logits = model.apply(
      params, tokens, mask=tokens == 0, projections=projections
    )
    return objective.token_losses(logits, tokens).mean()

  compiled = jax.jit(jax.grad(loss)).lower(params).compile()
  seconds = []
  # The first step of several only warms up.
  while len(seconds) <= _REPEATS and sum(seconds) < _ENOUGH_S:
    start = time.perf_counter()
    jax.block_until_ready(compiled(params))
    seconds.append(time.perf_counter() - start)
  planned = compiled.memory_analysis().temp_size_in_bytes
  timed = seconds[1:] or seconds
  return {'ms': 1e3 * float(np.median(timed)), 'MiB': planned / 2**20}


def draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """Draws time and memory over the length, on logarithmic axes.

  Args:
    rows: of `step_costs`.
    path: PNG file to write.
  """
  kinds = {'ms': 'ms of a training step', 'MiB': 'MiB of a step'}
  panels = []
  for kind, title in kinds.items():
    lines: dict[str, dict[float, float]] = {}
    for row in rows:
      lines.setdefault(row['attention'], {})[row['length']] = row[kind]
    panels.append(pictures_lib.LogPanel(title, 'length (tokens)', lines))
  pictures_lib.log_lines(panels, path)
