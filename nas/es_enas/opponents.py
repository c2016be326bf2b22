"""Searches of the whole hybrid space by mutation or by policy gradient alone.

ES-ENAS's opponents: the controllers of `nas.es_enas.controllers`, whose decisions
are the numbers too. `Reals` makes decisions of numbers; `Gaussian` is the policy
gradient. `search` runs one of them on one problem, as one JAX program:

  space = opponents.mixed(problem, step=0.5)
  best = jax.jit(jax.vmap(lambda key: opponents.search(
    problem, evolution.Evolution(space), key, evaluations=12_000, batch=100)
  ))(keys)

All begin where `Hybrid.start` does: numbers uniform in [-5, 5], and categories.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from nas.es_enas import hybrid
from nas.es_enas import space as space_lib
from nas.es_enas.controllers import base, policy, policy_gradient
from rl import distributions, ranges

__all__ = ['Gaussian', 'Reals', 'mixed', 'search', 'split']

_BITS = 24
_ADAM = optax.adam(0.05)


@dataclasses.dataclass(frozen=True)
class Reals(space_lib.Choices):
  """Numbers of an interval as decisions: 2^24 even steps, about float32's own.

  For controllers that mutate. A policy with a logit per option is not for it.

  Attributes:
    name: of the group within its space.
    count: how many numbers.
    options: 2^24.
    bound: the interval is [-bound, bound].
    step: a mutation adds a normal number of this deviation, clipped to the
      interval; None: it draws the number afresh, uniformly.

  Raises:
    ValueError: if a number is not positive.
  """

  options: int = dataclasses.field(default=1 << _BITS, init=False)
  bound: float = hybrid.BOUND
  step: float | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_positive(bound=self.bound, step=self.step)

  def values(self, part: Int[Array, '*n']) -> Float[Array, '*n']:
    """The numbers of decisions, float32."""
    unit = 2 * self.bound / (self.options - 1)
    return part * jnp.float32(unit) - jnp.float32(self.bound)

  def decisions(self, values: Float[Array, '*n']) -> Int[Array, '*n']:
    """The decisions nearest to numbers, clipped to the interval; int32."""
    unit = 2 * self.bound / (self.options - 1)
    nearest = jnp.round((values + self.bound) / unit)
    return jnp.clip(nearest, 0, self.options - 1).astype(jnp.int32)

  def mutate(
    self,
    key: Key[Array, ''],
    part: Int[Array, ' count'],
    position: Int[Array, ''],
  ) -> Int[Array, ' count']:
    """Changes one number; see the class."""
    if self.step is None:
      return super().mutate(key, part, position)
    moved = self.values(part[position]) + self.step * jax.random.normal(key)
    return part.at[position].set(self.decisions(moved))

  def distance(
    self, a: Int[Array, ' count'], b: Int[Array, ' count']
  ) -> Int[Array, '']:
    """Number of numbers that differ, without a mask of all options."""
    return jnp.sum(a != b)

  def frequencies(
    self, parts: Int[Array, 'n count'], weights: Float[Array, ' n']
  ) -> Float[Array, 'count _']:
    """How often each of 256 bins is chosen: there are too many options."""
    bins = space_lib.Choices(self.name, self.count, 256)
    return bins.frequencies(parts >> (_BITS - 8), weights)


def mixed(problem: Any, step: float | None = None) -> space_lib.Space:
  """The space of numbers and categories, for controllers that mutate.

  Args:
    problem: `hybrid.Hybrid` or `hybrid.Hamming`.
    step: see `Reals`.

  Returns:
    The problem's space with a group `theta` before it, if there are numbers.
  """
  groups = problem.space.groups
  if problem.size:
    groups = (Reals('theta', problem.size, step=step), *groups)
  return space_lib.Space(groups)


def split(
  space: space_lib.Space, members: Int[Array, '... D']
) -> tuple[Float[Array, '... d_c'], Int[Array, '... d_k']]:
  """Numbers and categories of a member of a space of `mixed`.

  Args:
    space: of `mixed`; without numbers the first part is empty.
    members: decisions.
  """
  reals = next((g for g in space.groups if isinstance(g, Reals)), None)
  if reals is None:
    return jnp.zeros((*members.shape[:-1], 0)), members
  return reals.values(members[..., : reals.count]), members[..., reals.count :]


@dataclasses.dataclass(frozen=True)
class Gaussian(policy.PolicyController):
  """Policy gradient of the whole space; see `PolicyController`.

  Numbers are normal with means and deviations of their own, and categories have
  the logits of `policy_gradient.PolicyGradient`. The first means are uniform in
  [-5, 5]. Draws beyond twice that are clipped.

  Attributes:
    space: the problem's space with `Reals('theta', d_c, bound=10.0)` before it.
    optimizer: gets minus the gradient.
    entropy_weight: see `policy.PolicyController`, as the others.
    clip: see there.
    epochs: see there.
    minibatches: see there.
    deviation: the first standard deviation of each number.

  Raises:
    ValueError: see there.
  """

  optimizer: optax.GradientTransformation = _ADAM
  deviation: float = 1.0

  @classmethod
  def of(cls, problem: hybrid.Hybrid, **settings: Any) -> 'Gaussian':
    """The controller of a problem; settings by the names of attributes."""
    reals = Reals('theta', problem.size, bound=2 * hybrid.BOUND)
    groups = (reals, *problem.space.groups)
    return cls(space_lib.Space(groups), **settings)

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_positive(deviation=self.deviation)

  @property
  def _categories(self) -> policy_gradient.PolicyGradient:
    space = space_lib.Space(self.space.groups[1:])
    return policy_gradient.PolicyGradient(space)

  def initial(self, key: Key[Array, '']) -> dict[str, Any]:
    """Means, logarithms of deviations, and logits."""
    shape, bound = (self.space.groups[0].count,), hybrid.BOUND
    return {
      'mean': jax.random.uniform(key, shape, minval=-bound, maxval=bound),
      'log_std': jnp.full(shape, jnp.log(self.deviation)),
      'logits': self._categories.initial(key),
    }

  def _numbers(self, params: dict[str, Any]) -> distributions.DiagonalGaussian:
    return distributions.DiagonalGaussian(params['mean'], params['log_std'])

  def sample(
    self, params: dict[str, Any], key: Key[Array, '']
  ) -> Int[Array, ' D']:
    """See `policy.PolicyController`."""
    first, second = jax.random.split(key)
    theta = self._numbers(params).sample(first)
    categories = self._categories.sample(params['logits'], second)
    return self._member(theta, categories)

  def _member(
    self, theta: Float[Array, ' d_c'], categories: Int[Array, ' d_k']
  ) -> Int[Array, ' D']:
    decisions = self.space.groups[0].decisions(theta)
    return jnp.concatenate([decisions, categories])

  def score(
    self, params: dict[str, Any], architecture: Int[Array, ' D']
  ) -> tuple[Float[Array, ''], Float[Array, '']]:
    """See `policy.PolicyController`; densities of the numbers."""
    theta, categories = split(self.space, architecture)
    numbers = self._numbers(params)
    log_prob, entropy = self._categories.score(params['logits'], categories)
    return log_prob + numbers.log_prob(theta), entropy + numbers.entropy()

  def mode(self, params: dict[str, Any]) -> Int[Array, ' D']:
    """The means, and the greatest logits."""
    categories = self._categories.mode(params['logits'])
    return self._member(params['mean'], categories)


def search(
  problem: Any,
  controller: base.Controller,
  key: Key[Array, ''],
  *,
  evaluations: int,
  batch: int,
) -> Float[Array, ' generations']:
  """The smallest value so far, after each generation.

  Args:
    problem: `hybrid.Hybrid` or `hybrid.Hamming`.
    controller: over `mixed(problem)`, or a `Gaussian`.
    key: of the run.
    evaluations: number of all evaluations.
    batch: evaluations of a generation; it divides them. With batch=1 and a
      population of its own, evolution is told each value before the next
      mutation.

  Raises:
    ValueError: if batch does not divide evaluations.
  """
  ranges.check_counts(evaluations=evaluations, batch=batch)
  if evaluations % batch:
    raise ValueError(
      f'batch must divide evaluations, got {batch=} {evaluations=}'
    )

  def generation(carry: tuple, index: Int[Array, '']) -> tuple:
    state, best = carry
    first, second = jax.random.split(jax.random.fold_in(key, index))
    members = controller.propose(state, first, batch)
    values = jax.vmap(problem.evaluate)(*split(controller.space, members))
    valid = jnp.isfinite(values)
    state, _ = controller.feedback(state, second, members, -values, valid)
    best = jnp.minimum(best, jnp.min(jnp.where(valid, values, jnp.inf)))
    return (state, best), best

  # No generation has this number.
  state = controller.init(jax.random.fold_in(key, 2**31 - 1), batch)
  steps = jnp.arange(evaluations // batch)
  return jax.lax.scan(generation, (state, jnp.float32(jnp.inf)), steps)[1]
