"""The report of a search: the chosen architecture, its costs, its drawing."""

import dataclasses
import functools
import json
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from nas.es_enas import (
  controllers,
  drawings,
  networks,
  policies,
  selection,
  sharing,
)
from nas.es_enas import search as search_lib
from runtime import loop as loop_lib
from runtime.record import pictures as pictures_lib
from runtime.record import series as series_lib

__all__ = [
  'architecture_rows',
  'controller_seconds',
  'files',
  'front_rows',
  'pictures',
  'time_rows',
]

_COSTS = (
  *('edges', 'weights', 'biases', 'bits', 'compression', 'multiplications'),
  'colors_in_use',
)


def architecture_rows(
  policy: policies.SharedPolicy,
  chosen: selection.Selection,
  random_returns: Float[Array, 'c e'],
) -> list[dict[str, Any]]:
  """The table of architectures: returns and exact costs.

  Args:
    policy: of the search.
    chosen: of its end.
    random_returns: of random architectures with the same theta.

  Returns:
    A row for the chosen architecture, for random ones, and for the network with
    a weight for every edge, which was not trained.
  """
  dense = dataclasses.replace(policy, sharing=sharing.Dense())
  found = {
    'chosen': _scored(chosen.returns) | _costs(policy, chosen.architecture),
    'random, same theta': _scored(random_returns),
  }
  if not dense.space.length:  # Else its functions are still to be chosen.
    found['a weight for every edge'] = _costs(dense, None)
  return [{'architecture': name} | row for name, row in found.items()]


def _scored(returns: Float[Array, '...']) -> dict[str, float]:
  values = np.asarray(returns, np.float64).reshape(-1)
  return {
    'return': values.mean(),
    'error': values.std() / np.sqrt(values.size),
    'episodes': values.size,
  }


def _costs(
  policy: policies.SharedPolicy, architecture: Int[Array, ' D'] | None
) -> dict[str, float | int]:
  costs = jax.device_get(policy.costs(architecture))
  return {name: costs[name].item() for name in _COSTS}


def controller_seconds(
  controller: controllers.Controller,
  state: PyTree,
  count: int,
  *,
  repeats: int = 5,
) -> float:
  """Seconds that a controller takes in one generation, alone.

  Args:
    controller: of the search.
    state: of the controller.
    count: architectures of a generation.
    repeats: of which the median counts, after one to compile.
  """
  scores, valid = jnp.zeros(count), jnp.ones(count, bool)
  key = jax.random.key(0)

  def once(state: PyTree) -> tuple[PyTree, dict[str, Array]]:
    drawn = controller.propose(state, key, count)
    return controller.feedback(state, key, drawn, scores, valid)

  once = jax.jit(once) if controller.pure else once
  seconds = []
  for _ in range(repeats + 1):
    begin = time.perf_counter()
    jax.block_until_ready(once(state))
    seconds.append(time.perf_counter() - begin)
  return statistics.median(seconds[1:])


def time_rows(
  rows: Sequence[series_lib.Row], seconds: float
) -> list[dict[str, Any]]:
  """The table of times.

  Args:
    rows: of `metrics.jsonl`.
    seconds: of `controller_seconds`.
  """
  steps = series_lib.series(rows, 'time/step_s')[1]
  if not steps.size:
    return []
  whole = float(np.median(steps))
  return [
    {
      'a generation (s)': whole,
      'its controller, alone (s)': seconds,
      'share of the controller': seconds / whole,
    }
  ]


def files(
  policy: policies.SharedPolicy, chosen: selection.Selection
) -> dict[str, loop_lib.Draw]:
  """The chosen architecture as JSON, which `Space.from_json` reads."""
  written = {
    'architecture': policy.space.to_json(chosen.architecture),
    'return': _scored(chosen.returns),
    'costs': _costs(policy, chosen.architecture),
  }
  text = json.dumps(written, indent=2)

  def write(path: pathlib.Path) -> None:
    path.write_text(f'{text}\n', encoding='utf-8')

  return {'architecture.json': write}


def front_rows(
  state: search_lib.State, returns: Float[Array, 'c e']
) -> list[dict[str, Any]]:
  """The front, by increasing cost: returns in the search, and again.

  Args:
    state: with a front.
    returns: of `selection.front_returns`.
  """
  used = np.asarray(state.front.used)
  costs, before = (
    np.asarray(x)[used] for x in (state.front.costs, state.front.returns)
  )
  return [
    {'cost': cost, 'return in the search': old} | _scored(new)
    for cost, old, new in zip(costs, before, returns, strict=True)
  ]


def pictures(
  policy: policies.SharedPolicy,
  state: search_lib.State,
  chosen: selection.Selection,
  front: Sequence[Mapping[str, Any]] = (),
) -> Mapping[str, loop_lib.Draw]:
  """The chosen network, the weights that its edges share, and the front.

  Args:
    policy: of the search.
    state: at its end.
    chosen: of the state.
    front: of `front_rows`.
  """
  architecture = chosen.architecture
  found = {
    'weights.png': functools.partial(drawings.draw_colors, policy, architecture)
  }
  if isinstance(policy.network, networks.FeedForward):
    drawn = {'chosen': (policy, (state.theta, architecture))}
    found['network.png'] = functools.partial(drawings.draw_networks, drawn)
  if front:
    costs = [row['cost'] for row in front]
    lines = {
      text: (costs, np.array([[row[name] for row in front]]))
      for text, name in (
        ('in the search', 'return in the search'),
        ('again, mean of episodes', 'return'),
      )
    }
    found['front.png'] = functools.partial(
      pictures_lib.quartiles, lines, axes_labels=('cost', 'return')
    )
  return found
