"""GP-UCB: the point with the largest optimistic forecast of a Gaussian process.

Each proposal fits the hyperparameters further, from where the last one ended,
by some steps of Adam, and searches for the largest mean + 1.8 standard
deviations: among uniform points and points near to the best trials, then in
rounds of ever smaller steps around the best of them. The first point is the
centre. Points must lie near to a trial, in the maximum norm of real and ordered
parameters; how near is relaxed as trials come in.

Gains are warped first. Those below the median become quantiles of the normal
distribution that fits the upper half, so that steep walls do not hide the rest.

Reference: arXiv:2205.13320, Appendix B.1 (kernel, coefficient, first point,
trust region); Song et al. (2024), arXiv:2408.11527, for the half-rank warping
and the radius of the region. Numbers of steps and candidates are choices of
this module.
"""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.scipy import special
from jaxtyping import Array, Bool, Float, Key

from hpo.optformer.behaviours import climbing, protocol
from hpo.optformer.behaviours import cube as cube_lib
from hpo.optformer.behaviours import gaussian_process as gp
from rl import ranges

__all__ = ['GpUcb', 'Memory', 'warped']

_BEST = climbing.BEST  # Trials around which is searched.


@flax.struct.dataclass
class Memory:
  """Where the fit of the hyperparameters stands.

  Attributes:
    hyper: the hyperparameters.
    first: Adam's mean of gradients.
    second: Adam's mean of their squares.
  """

  hyper: Any
  first: Any
  second: Any


@dataclasses.dataclass(frozen=True)
class GpUcb:
  """See the module; a `protocol.Behaviour`.

  Attributes:
    coefficient: of the standard deviation; published: 1.8.
    fit_steps: of Adam before each proposal.
    rate: of Adam, in logarithms of hyperparameters.
    candidates: uniform points, and as many near to the best trials.
    rounds: of the search around the best candidates.
    offspring: points of each round, the same number around each of the best 4.
    radius: of the trust region at first, in the unit cube.
    name: see `Behaviour`.
  """

  coefficient: float = 1.8
  fit_steps: int = 5
  rate: float = 0.1
  candidates: int = 128
  rounds: int = 6
  offspring: int = 32
  radius: float = 0.2
  name: str = 'designer_recursive_gp'

  def __post_init__(self) -> None:
    ranges.check_counts(least=0, fit_steps=self.fit_steps, rounds=self.rounds)
    ranges.check_counts(least=_BEST, candidates=self.candidates)
    ranges.check_counts(least=_BEST, offspring=self.offspring)
    ranges.check_not_negative(coefficient=self.coefficient, rate=self.rate)
    ranges.check_positive(radius=self.radius)
    if self.offspring % _BEST:
      raise ValueError(
        f'offspring must divide by {_BEST}, got {self.offspring=}'
      )

  def init(self, cube: cube_lib.Cube) -> Memory:
    """See `Behaviour`."""
    hyper = gp.Hyper.prior(cube.counts.shape[-1])
    zero = jax.tree.map(jnp.zeros_like, hyper)
    return Memory(hyper, zero, zero)

  def propose(
    self,
    key: Key[Array, ''],
    cube: cube_lib.Cube,
    history: protocol.History,
    memory: Memory,
  ) -> tuple[Float[Array, ' d'], Memory]:
    """See `Behaviour`."""
    points = history.points
    gaps = cube.squared_gaps(points[:, None], points)
    values = warped(history.gains, history.known)
    data = gp.Data(gaps, values, history.known)
    memory = self._fitted(memory, data)
    found = gp.factor(memory.hyper, data)
    radius = self._trust(history)

    def score(places: Float[Array, 'n d']) -> Float[Array, ' n']:
      gaps = cube.squared_gaps(places[:, None], points)
      mean, deviation = gp.predict(found, memory.hyper, gaps, history.known)
      far = jnp.where(cube.ordered, gaps, 0).max(axis=-1)
      far = jnp.where(history.known, far, jnp.inf).min(axis=1)
      bonus = self.coefficient * deviation
      # Places outside are worse than all inside, the further the worse.
      return jnp.where(far <= radius**2, mean + bonus, -1e3 - far)

    # The best trials in turn, of which there may be few.
    ranks = jnp.arange(self.candidates) % jnp.clip(history.count, 1, _BEST)
    near = points[jnp.argsort(-history.gains)[ranks]]
    best = climbing.climb(
      key, cube, near, score, rounds=self.rounds, offspring=self.offspring
    )
    centre = cube.snap(jnp.full(best.shape, 0.5))
    return jnp.where(history.count, best, centre), memory

  def _trust(self, history: protocol.History) -> Float[Array, '']:
    """The radius of the trust region; infinite from 1/2 on."""
    width = history.points.shape[1]
    level = history.count / (5 * (width + 1))
    radius = self.radius + (0.5 - self.radius) * level
    return jnp.where(level < 1, radius, jnp.inf)

  def _fitted(self, memory: Memory, data: gp.Data) -> Memory:
    """After some steps of Adam, whose means are those of the last fit."""

    def step(memory: Memory, _: None) -> tuple[Memory, None]:
      slope = gp.gradient(memory.hyper, data)
      mix = lambda share: lambda old, new: share * old + (1 - share) * new
      first = jax.tree.map(mix(0.8), memory.first, slope)
      squares = jax.tree.map(jnp.square, slope)
      second = jax.tree.map(mix(0.9), memory.second, squares)
      moved = jax.tree.map(
        lambda x, m, v: x - self.rate * m / jnp.sqrt(v + 1e-6),
        memory.hyper,
        first,
        second,
      )
      return Memory(moved, first, second), None

    return jax.lax.scan(step, memory, length=self.fit_steps)[0]


def warped(
  gains: Float[Array, ' t'], known: Bool[Array, ' t']
) -> Float[Array, ' t']:
  """Gains as a Gaussian process sees them.

  Args:
    gains: finite where known.
    known: which rows are trials.

  Returns:
    In the order of the gains, with about the mean 0 and the deviation 1; 0 in
    other rows.
  """
  count = jnp.maximum(known.sum(), 1)
  ordered = jnp.sort(jnp.where(known, gains, jnp.inf))
  median = ordered[(count - 1) // 2] / 2 + ordered[count // 2] / 2
  safe = jnp.where(known, gains, median)
  # The deviation of the upper half, about the median, in units of the largest:
  # squares of others may overflow.
  upper = known & (safe >= median)
  above = jnp.where(upper, safe - median, 0)
  above /= jnp.where(above.max() > 0, above.max(), 1.0)
  deviation = jnp.sqrt((above**2).sum() / jnp.maximum(upper.sum(), 1))
  deviation = jnp.where(deviation > 0, deviation, 1.0)
  below = (ordered[:, None] < safe).sum(axis=0)
  quantiles = special.ndtri((below + 0.5) / count)
  z = jnp.where(upper, above / deviation, jnp.minimum(quantiles, 0))
  z = jnp.where(known, z, 0)
  mean = z.sum() / count
  spread = jnp.sqrt(jnp.where(known, (z - mean) ** 2, 0).sum() / count)
  return jnp.where(known, (z - mean) / jnp.maximum(spread, 1e-3), 0)
