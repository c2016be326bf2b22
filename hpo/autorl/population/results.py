"""The report of populations: schedules, lineages, incumbents, tables."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

from hpo import spaces, studies
from hpo.autorl.population import running
from runtime import loop as loop_lib
from runtime.record import pictures as pictures_lib

__all__ = ['lineage', 'pictures', 'score_rows', 'trials']


def lineage(parents: Int[np.ndarray, 't n']) -> Int[np.ndarray, 't n']:
  """Which member each final member was in each round.

  Args:
    parents: of the rounds; see `running.Round`.

  Returns:
    Row t has the ancestors in round t; the last row comes after the last round's
    selection.
  """
  found = np.empty_like(parents)
  current = np.arange(parents.shape[1])
  for row in range(len(parents) - 1, -1, -1):
    current = parents[row][current]
    found[row] = current
  return found


def _best(played: running.Round) -> list[int]:
  """The best member of each seed after the last round."""
  scores = np.nan_to_num(played.scores[-1], nan=-np.inf)
  return [int(i) for i in scores.argmax(axis=-1)]


def _schedule(played: running.Round, seed: int, member: int) -> np.ndarray:
  """Codes of a member of the last round and of its ancestors, [t, d]."""
  codes, parents = played.codes[:, seed], played.parents[:-1, seed]
  ancestors = [*lineage(parents)[:, member], member]
  return codes[np.arange(len(codes)), ancestors]


def score_rows(
  space: spaces.Space, played: running.Round
) -> list[dict[str, Any]]:
  """The best member of each seed: its score and its last settings."""
  rows = []
  for seed, member in enumerate(_best(played)):
    scores = played.scores[:, seed]
    row = {
      'population': seed,
      'score': _sound(np.max, scores[-1]),
      'median of members': _sound(np.median, scores[-1]),
      'best of all rounds': _sound(np.max, scores),
    }
    settings = zip(
      space.names, _values(space, played.codes[-1, seed, member]), strict=True
    )
    rows.append(row | dict(settings))
  return rows


def _sound(of: Callable[..., Any], scores: np.ndarray) -> float | None:
  """A statistic of the scores of members that have not failed, if any."""
  sound = scores[~np.isnan(scores)]
  return float(of(sound)) if sound.size else None


def _values(space: spaces.Space, codes: np.ndarray) -> list[spaces.Value]:
  """Values of codes in float32, whose rounding may leave the bounds."""
  return [
    p.value(np.clip(np.float64(code), p.low, p.high))
    if isinstance(p, spaces.Float | spaces.Int)
    else p.value(code)
    for p, code in zip(space.parameters, codes, strict=True)
  ]


def trials(space: spaces.Space, played: running.Round) -> list[studies.Trial]:
  """Rounds of members as trials, in order: settings, and the score after."""
  codes = played.codes.reshape(-1, len(space))
  found = []
  for row, score in zip(codes, played.scores.reshape(-1), strict=True):
    point = dict(zip(space.names, _values(space, row), strict=True))
    is_sound = bool(np.isfinite(score))
    status = 'COMPLETED' if is_sound else 'INFEASIBLE'
    value = float(score) if is_sound else None
    found.append(studies.Trial(point, value, status))
  return found


def pictures(
  space: spaces.Space, played: running.Round, round_steps: int
) -> dict[str, loop_lib.Draw]:
  """The pictures of a report; none without any score.

  Args:
    space: of the settings.
    played: all rounds, leaves [rounds, seeds, n, ...].
    round_steps: environment steps of a round, over all members and seeds.
  """
  if np.isnan(played.scores).all():
    return {}
  return {
    'schedule.png': functools.partial(_draw_schedule, space, played),
    'lineage.png': functools.partial(_draw_lineage, played),
    'incumbent.png': functools.partial(_draw_incumbent, played, round_steps),
  }


def _draw_schedule(
  space: spaces.Space, played: running.Round, path: str | os.PathLike[str]
) -> None:
  """The settings of the first seed: of all members, and of the best lineage."""
  figure = pictures_lib.new_figure(1, len(space), (3.6, 3.0))
  rounds = np.arange(len(played.codes))
  best = _schedule(played, 0, _best(played)[0])
  for i, p in enumerate(space.parameters):
    axes = figure.add_subplot(1, len(space), i + 1)
    axes.plot(rounds, played.codes[:, 0, :, i], '.', color='0.7', markersize=4)
    axes.plot(rounds, best[:, i], color=pictures_lib.COLORS[0])
    _label_rounds(axes)
    axes.set_ylabel(p.name.replace('_', ' '))
    if isinstance(p, spaces.Float | spaces.Int) and p.scale == 'LOG':
      axes.set_yscale('log')
    axes.spines[['top', 'right']].set_visible(False)
  pictures_lib.save(figure, path)


def _draw_lineage(played: running.Round, path: str | os.PathLike[str]) -> None:
  """Parents of all members of the first seed; ancestors of the best stand out."""
  parents = played.parents[:-1, 0]
  count = played.scores.shape[-1]
  figure = pictures_lib.new_figure(1, 1, (6.4, 3.2))
  axes = figure.add_subplot(1, 1, 1)
  best = [*lineage(parents)[:, _best(played)[0]], _best(played)[0]]
  for row, ancestors in enumerate(parents):
    for member in range(count):
      axes.plot([row, row + 1], [ancestors[member], member], color='0.8')
  points = np.tile(np.arange(count), (len(played.scores), 1))
  rounds = np.arange(len(points))
  dots = axes.scatter(
    np.repeat(rounds, count),
    points,
    c=played.scores[:, 0].ravel(),
    s=14,
    zorder=3,
  )
  axes.plot(rounds, best, color=pictures_lib.COLORS[1])
  _label_rounds(axes)
  axes.set_ylabel('member')
  figure.colorbar(dots, label='score')
  pictures_lib.save(figure, path)


def _label_rounds(axes: Any) -> None:
  axes.set_xlabel('round')
  axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_incumbent(
  played: running.Round, round_steps: int, path: str | os.PathLike[str]
) -> None:
  steps = round_steps * np.arange(1, len(played.scores) + 1)
  best = np.fmax.accumulate(np.fmax.reduce(played.scores, axis=-1), axis=0)
  pictures_lib.quartiles(
    {'best member so far': (steps, best.T)},
    path,
    axes_labels=('environment steps of all members', 'score'),
  )
