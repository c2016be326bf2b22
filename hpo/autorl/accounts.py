"""What a result of tuning costs, and on which seeds it rests.

A comparison of tuners counts the environment steps of all trials, and judges what
was found on seeds that no trial saw.

Reference: Eimer, Lindauer, Raileanu (2023), arXiv:2306.01324, Section 5.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from hpo import studies
from rl import ranges
from runtime import seeds as seeds_lib

__all__ = ['Seeds', 'budget', 'keys', 'write_study']


@dataclasses.dataclass(frozen=True)
class Seeds:
  """Seeds for tuning, and others for tests.

  Attributes:
    tuning: of trials; their scores are averaged, or each has its population.
    test: of the settings that were found.

  Raises:
    ValueError: there are none, or one is negative, repeated, or serves both.
  """

  tuning: Sequence[int] = (0,)
  test: Sequence[int] = (1000, 1001, 1002, 1003, 1004)

  def __post_init__(self) -> None:
    object.__setattr__(self, 'tuning', tuple(self.tuning))
    object.__setattr__(self, 'test', tuple(self.test))
    ranges.check_counts(
      least=0, up_to=seeds_lib.LARGEST, tuning=self.tuning, test=self.test
    )
    both = self.tuning + self.test
    if not self.tuning or not self.test or len(set(both)) < len(both):
      raise ValueError(
        'seeds of tuning and test must be there, and differ from one another, '
        f'got {self.tuning=} {self.test=}'
      )


def keys(key: Key[Array, ''], seeds: Sequence[int]) -> Key[Array, ' s']:
  """A key for each seed."""
  return jax.vmap(lambda seed: jax.random.fold_in(key, seed))(
    jnp.array(seeds, jnp.uint32)
  )


def budget(
  seeds: Seeds,
  *,
  trials: int,
  steps: int,
  test_steps: int | None,
  seconds: float,
) -> dict[str, Any]:
  """The row of a table that says what a result cost.

  Args:
    seeds: of the run.
    trials: number of trials, or of members and rounds.
    steps: environment steps of tuning, over all trials and seeds.
    test_steps: environment steps of one test, over all seeds; None: those of
      episodes to their ends.
    seconds: of the run.
  """
  return {
    'trials': trials,
    'tuning steps': steps,
    'tuning seeds': len(seeds.tuning),
    'test steps': test_steps,
    'test seeds': len(seeds.test),
    'seconds': seconds,
  }


def write_study(
  path: str | os.PathLike[str],
  problem: studies.Problem,
  trials: Sequence[studies.Trial],
) -> None:
  """Writes trials as OptFormer reads them: a line of a file of studies."""
  studies.write(path, [studies.Study.of(problem, trials)])
