"""Time of a frame in policies from pixels: implicit beside exact attention.

Pictures of s x s pixels have l = s^2 patches of one pixel each. A policy chooses
ten of them and has an LSTM of 16 units; the two forms differ in who votes. The
last case is the rollout of a whole population on a task in JAX.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import growth, harness, programs, record
from performer import attention
from rl.envs import dodge, spaces
from rl.es import jax_evaluator, population
from rl.implicit_attention import fronts, patches, policies, votes

IMPLICIT, EXACT = 'implicit', 'exact'


class Frame(NamedTuple):
  """One picture through a policy."""

  side: int

  @property
  def length(self) -> int:
    """Patches."""
    return self.side**2

  def __str__(self) -> str:
    return f'l = {self.length}'


class Rollout(NamedTuple):
  """Members that play a game at once."""

  members: int
  side: int
  steps: int

  def __str__(self) -> str:
    return f'{self.members} members, {self.side}x{self.side}, rollout'


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the measurement."""

  sides: tuple[int, ...] = (16, 24, 32, 48, 64, 96, 128)
  features: int = 16
  # Exact attention beyond it takes seconds, and gigabytes without chunks.
  longest_exact: int = 4096
  members: int = 64  # Of the population, and their game.
  game_side: int = 48
  game_steps: int = 32
  timed: int = 4096  # Patches of the case with a bar on its time.
  compared: int = 2304  # Patches of the case with a bar on the ratio.


def _policy(name: str, side: int, cut: patches.Patches, features: int) -> Any:
  vote = votes.Exact()
  if name == IMPLICIT:
    favor = attention.Favor(kernel='softmax_pos', features=features)
    vote = votes.Implicit(favor)
  return policies.PixelPolicy(
    spaces.pixels(side), spaces.Discrete(3), fronts.Rank(vote, cut)
  )


def _frame(name: str, case: Frame, sizes: Sizes) -> programs.Program:
  policy = _policy(name, case.side, patches.Patches(1, 1), sizes.features)
  params = policy.unravel(policy.init(jax.random.key(0)))
  shape = (case.side, case.side, 3)

  def inputs(seed: int) -> tuple:
    picture = jax.random.randint(jax.random.key(seed), shape, 0, 256)
    return params, policy.initial_memory(), picture.astype(jnp.uint8)

  return programs.compiled(policy.act, inputs)


def _rollout(name: str, case: Rollout, sizes: Sizes) -> programs.Program:
  env = dodge.Dodge(size=case.side, max_steps=case.steps)
  policy = _policy(name, case.side, patches.Patches(3, 2), sizes.features)
  evaluator = jax_evaluator.JaxEvaluator(env, policy)
  keys = jax.random.split(jax.random.key(0), case.members)
  thetas = jax.vmap(policy.init)(keys)

  def run(thetas: jax.Array, keys: jax.Array) -> Any:
    return evaluator.evaluate(population.Listed(thetas), keys, None)

  inputs = lambda seed: (
    thetas,
    jax.random.split(jax.random.key(seed), case.members),
  )
  return programs.compiled(run, inputs, units=case.members * case.steps)


def _cases(sizes: Sizes) -> list[Frame | Rollout]:
  return [*map(Frame, sizes.sides), _game(sizes)]


def _game(sizes: Sizes) -> Rollout:
  return Rollout(sizes.members, sizes.game_side, sizes.game_steps)


def _make(name: str, case: Frame | Rollout, sizes: Sizes) -> programs.Program:
  make = _frame if isinstance(case, Frame) else _rollout
  return make(name, case, sizes)


def _check(case: Any, built: programs.Program) -> str | None:
  found = jax.tree.leaves(built.call(*built.inputs(1)))
  finite = all(np.isfinite(np.float64(x)).all() for x in found)
  return None if finite else 'results are not finite'


def _forms(sizes: Sizes, case: Frame | Rollout) -> list[harness.Form]:
  make = lambda name: lambda case: _make(name, case, sizes)
  forms = [harness.Form(IMPLICIT, make(IMPLICIT), _check, ours=True)]
  short = isinstance(case, Rollout) or case.length <= sizes.longest_exact
  return forms + [harness.Form(EXACT, make(EXACT), _check)] * short


def _summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  frames = {
    name: {
      case.length: m
      for case, m in results.of(name).items()
      if isinstance(case, Frame) and m.samples
    }
    for name in (IMPLICIT, EXACT)
  }
  timed = frames[IMPLICIT].get(sizes.timed)
  if timed is not None:
    text, found = f'l = {sizes.timed}: ms per frame', 1e3 * timed.median('wall')
    yield record.value_row(text, found, at_most=2.0)
  ratios = {}
  for length in frames[EXACT]:
    case = Frame(round(length**0.5))
    ratios[length] = results.ratio(case, EXACT, IMPLICIT).cpu
    bar = {'at_least': 30.0} if length == sizes.compared else {}
    text = f'{case}: times faster than exact'
    yield record.value_row(text, ratios[length], **bar)
  if len(ratios) > 1:
    text, found = 'l from which on implicit is faster', growth.crossover(ratios)
    yield record.value_row(text, found, at_most=600.0)
  yield from _growth(IMPLICIT, frames[IMPLICIT], at_most=1.2)
  yield from _growth(EXACT, frames[EXACT])
  game = _game(sizes)
  faster = results.ratio(game, EXACT, IMPLICIT).cpu
  if faster is not None:
    yield record.value_row(f'{game}: times faster than exact', faster)


def _growth(
  name: str, measured: dict[int, harness.Measured], **bar: float
) -> Iterator[record.Row]:
  """Exponents of time and memory from 1024 patches on."""
  long = {n: m for n, m in measured.items() if n >= 1024}
  values = {
    'time': {n: m.median('cpu') for n, m in long.items()},
    'memory': {n: m.bytes for n, m in long.items() if m.bytes},
  }
  for what, points in values.items():
    if len(points) > 1:
      text = f'{name}: exponent of {what} in l'
      yield record.value_row(text, growth.slope(points), **bar)


SUBJECT = harness.Subject(
  'implicit_attention',
  Sizes(),
  quick=Sizes(
    sides=(8, 12),
    longest_exact=64,
    members=2,
    game_side=16,
    game_steps=3,
    timed=144,
    compared=64,
  ),
  cases=_cases,
  forms=_forms,
  summary=_summary,
  settings=programs.Settings(rounds=15, seconds=12.0),
  clock='cpu',
  unit='CPU ms per frame',
  packages=('jax', 'jaxlib', 'flax', 'numpy'),
)
