"""One iteration of an evolution strategy: ask, evaluate, tell.

theta <- theta + update(sum_i w_i g_i), in its geometry, with an estimator's
weights w_i and an optax update. Nothing is random but what is drawn from the state's key folded
with the generation, so a resumed run goes on as the uninterrupted one.

  state, metrics = jax.jit(functools.partial(es.step, evaluator=evaluator))(
    state)

may be jitted and scanned if the evaluator is pure. Otherwise `step` runs as it
is, or `ask` and `tell` around any other way to get returns.

A pair is dropped where a return is not finite, as if its worker had been lost;
`valid_fraction` shows how many are left. Where none is, the return's mean is
NaN, at which the training loop stops.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

from rl import normalizer as normalizer_lib
from rl import ranges
from rl.es import directions as directions_lib
from rl.es import estimators
from rl.es import evaluator as evaluator_lib
from rl.es import geometry as geometry_lib

__all__ = [
  'ESConfig',
  'Request',
  'State',
  'Strategy',
  'evaluate_theta',
  'summary',
]


@dataclasses.dataclass(frozen=True)
class ESConfig:
  """What an iteration does.

  Attributes:
    num_pairs: n, the directions per generation. The population is 2 n with a
      mirrored estimator, else n.
    sigma: scale of the perturbations, or a function of the generation (an
      optax schedule).
    estimator: how returns become weights, with their shaping.
    directions: how perturbations are distributed.
    center_evaluations: how often theta itself is evaluated, with keys of its
      own: for reports, and for estimators that use the mean of the returns.
    normalize: whether observations are normalised by running statistics.
    guides: k, for guided directions: the last k estimates span the subspace,
      random ones before; 0: whoever calls `ask` gives a basis. On a manifold
      they are taken in the coordinates of the newest tangent space.

  Raises:
    ValueError: if a number is out of range, the estimator needs the return at
      theta and `center_evaluations` is 0, or there are guides for directions
      that have none.
  """

  num_pairs: int
  sigma: float | Callable[[Array], Array] = 0.1
  estimator: estimators.Estimator = dataclasses.field(
    default_factory=estimators.Antithetic
  )
  directions: directions_lib.Directions = dataclasses.field(
    default_factory=directions_lib.Directions
  )
  center_evaluations: int = 0
  normalize: bool = True
  guides: int = 0

  def __post_init__(self) -> None:
    ranges.check_counts(num_pairs=self.num_pairs)
    ranges.check_counts(
      least=0, center_evaluations=self.center_evaluations, guides=self.guides
    )
    ranges.check_positive(sigma=self.sigma)
    if self.guides and self.directions.guide is None:
      raise ValueError(
        'guides need directions with a guide, got '
        f'{self.guides=} {self.directions.guide=}'
      )
    if self.estimator.needs_center and not self.center_evaluations:
      raise ValueError(
        f'{self.estimator} needs the return at theta: center_evaluations >= 1'
      )


@flax.struct.dataclass
class State:
  """All that changes; what a checkpoint holds.

  Attributes:
    theta: parameters, float32 [d].
    opt_state: of the optimiser.
    normalizer: statistics of all observations so far; None if not normalised.
    estimates: the last ones, the newest last, [guides, k]; None without guides.
    key: never changes; generations fold their number into it.
    generation: how many there were, int32.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  theta: Any
  opt_state: Any
  normalizer: Any
  estimates: Any
  key: Any
  generation: Any


@flax.struct.dataclass
class Request:
  """What is to be evaluated.

  Attributes:
    population: the perturbed members.
    keys: of their environments, one per direction; new in each generation.
    center_keys: of evaluations of theta; may be none.
  """

  population: evaluator_lib.Perturbations
  keys: Any
  center_keys: Any


def _keys(key: Key[Array, ''], count: int) -> Key[Array, ' n']:
  """The i-th depends on i, not on the count."""
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


@dataclasses.dataclass(frozen=True)
class Strategy:
  """An evolution strategy with any optimiser.

  Attributes:
    config: what an iteration does.
    optimizer: gets minus the estimate, since returns are maximised. Weight
      decay, momentum, clipping and learning-rate schedules are optax's.
    geometry: where theta lives; see `geometry.of` for a policy's.
  """

  config: ESConfig
  optimizer: optax.GradientTransformation
  geometry: geometry_lib.Geometry = geometry_lib.EUCLIDEAN

  def init(
    self,
    theta: Float[Array, ' d'],
    key: Key[Array, ''],
    observation_shape: tuple[int, ...] | None = None,
  ) -> State:
    """The state before the first generation.

    Args:
      theta: first parameters.
      key: of the whole run.
      observation_shape: `Evaluator.observation_shape`; needed to normalise.

    Raises:
      ValueError: if observations are to be normalised and their shape is
        missing.
    """
    if self.config.normalize and observation_shape is None:
      raise ValueError('normalize=True needs observation_shape, got None')
    theta = jnp.asarray(theta, jnp.float32)
    coordinates = self.geometry.coordinates(theta)
    guides, estimates = self.config.guides, None
    if guides:
      # Folded with what no generation is.
      guide_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
      estimates = jax.random.normal(guide_key, (guides, *coordinates.shape))
    return State(
      theta=theta,
      opt_state=self.optimizer.init(coordinates),
      normalizer=(
        normalizer_lib.empty(observation_shape)
        if self.config.normalize
        else None
      ),
      estimates=estimates,
      key=key,
      generation=jnp.zeros((), jnp.int32),
    )

  def ask(
    self, state: State, basis: Float[Array, 'd k'] | None = None
  ) -> Request:
    """What this generation evaluates.

    Args:
      state: before the generation.
      basis: for guided directions, of `directions.orthonormal_basis`; None
        takes the state's estimates, if there are any.

    Returns:
      Seeds, not perturbations.
    """
    config = self.config
    if basis is None and state.estimates is not None:
      basis = directions_lib.orthonormal_basis(state.estimates)
    key = jax.random.fold_in(state.key, state.generation)
    key_directions, key_pairs, key_center = jax.random.split(key, 3)
    sigma = config.sigma
    population = evaluator_lib.Perturbations(
      theta=state.theta,
      sigma=jnp.float32(sigma(state.generation) if callable(sigma) else sigma),
      key=key_directions,
      basis=basis,
      directions=config.directions,
      mirrored=config.estimator.mirrored,
      geometry=self.geometry,
    )
    return Request(
      population,
      _keys(key_pairs, config.num_pairs),
      _keys(key_center, config.center_evaluations),
    )

  def tell(
    self,
    state: State,
    request: Request,
    evaluation: evaluator_lib.Evaluation,
    center: evaluator_lib.Evaluation | None = None,
  ) -> tuple[State, dict[str, Array]]:
    """Updates with what came back.

    Args:
      state: what `ask` was given.
      request: what it returned.
      evaluation: of `request.population`; returns that are not finite count
        as lost, each with its pair.
      center: of theta, once per center key; None if there are none.

    Returns:
      The new state and metrics, scalars by name.
    """
    population = request.population
    evaluation, center = _finite(evaluation), _finite(center)
    weights = self.config.estimator.weights(
      evaluation.returns,
      evaluation.valid,
      sigma=population.sigma,
      center=None if center is None else _mean(center),
    )
    gradient = directions_lib.weighted_sum(
      population.directions,
      population.key,
      weights,
      size=population.size,
      basis=population.basis,
      block=evaluator_lib.rows_in_cache(population.size),
      kept=population.kept,
    )
    updates, opt_state = self.optimizer.update(
      -gradient, state.opt_state, self.geometry.coordinates(state.theta)
    )
    normalizer = state.normalizer
    for part in (evaluation, center):
      if normalizer is not None and part is not None:
        normalizer = normalizer_lib.merge(normalizer, part.statistics)
    estimates = state.estimates
    if estimates is not None:
      estimates = jnp.concatenate([estimates[1:], gradient[None]])
    metrics = summary(evaluation, center) | {
      'gradient_norm': jnp.linalg.norm(gradient),
      'update_norm': jnp.linalg.norm(updates),
      'sigma': population.sigma,
    }
    return state.replace(
      theta=self.geometry.step(state.theta, updates),
      opt_state=opt_state,
      normalizer=normalizer,
      estimates=estimates,
      generation=state.generation + 1,
    ), metrics

  def step(
    self,
    state: State,
    evaluator: evaluator_lib.Evaluator,
    basis: Float[Array, 'd k'] | None = None,
  ) -> tuple[State, dict[str, Array]]:
    """One generation.

    Args:
      state: before it.
      evaluator: runs the rollouts.
      basis: as in `ask`.

    Returns:
      As `tell`.
    """
    if evaluator.pure:
      request = self._kept(self.ask(state, basis))
      evaluation, center = self.run(request, state.normalizer, evaluator)
      return self.tell(state, request, evaluation, center)
    request = _ask(self, state, basis)
    evaluation, center = self.run(request, state.normalizer, evaluator)
    return _tell(self, state, request, evaluation, center)

  def _kept(self, request: Request) -> Request:
    """With directions, if they are few enough not to be drawn twice."""
    population = request.population
    size = population.size
    kept = directions_lib.keep(
      population.directions,
      population.key,
      self.config.num_pairs,
      size=size,
      block=evaluator_lib.rows_in_cache(size),
      basis=population.basis,
    )
    return request.replace(population=population.replace(kept=kept))

  def run(
    self,
    request: Request,
    normalizer: normalizer_lib.Statistics | None,
    evaluator: evaluator_lib.Evaluator,
  ) -> tuple[evaluator_lib.Evaluation, evaluator_lib.Evaluation | None]:
    """Evaluates what `ask` returned.

    Args:
      request: of `ask`.
      normalizer: of its state.
      evaluator: runs the rollouts.

    Returns:
      Evaluations of the population, and of theta; None if there are none.
    """
    evaluation = evaluator.evaluate(
      request.population, request.keys, normalizer
    )
    if not self.config.center_evaluations:
      return evaluation, None
    theta = request.population.theta
    return evaluation, evaluate_theta(
      evaluator, theta, request.center_keys, normalizer
    )


# Between rollouts on the host: compiled once, whoever calls `step`.
_ask = jax.jit(Strategy.ask, static_argnums=0)
_tell = jax.jit(Strategy.tell, static_argnums=0)


def evaluate_theta(
  evaluator: evaluator_lib.Evaluator,
  theta: Float[Array, ' d'],
  keys: Key[Array, ' n'],
  normalizer: normalizer_lib.Statistics | None,
) -> evaluator_lib.Evaluation:
  """Evaluates the same parameters once per key.

  Args:
    evaluator: runs the rollouts.
    theta: parameters.
    keys: of the environments.
    normalizer: as `Evaluator.evaluate` takes it.

  Returns:
    One return per key.
  """
  thetas = jnp.broadcast_to(theta, (keys.shape[0], *theta.shape))
  return evaluator.evaluate(thetas, keys, normalizer)


def _finite(
  evaluation: evaluator_lib.Evaluation | None,
) -> evaluator_lib.Evaluation | None:
  """Without the returns that are not."""
  if evaluation is None:
    return None
  valid = evaluation.valid & jnp.isfinite(evaluation.returns)
  return evaluation.replace(valid=valid)


def _mean(evaluation: evaluator_lib.Evaluation) -> Array:
  """Over the valid members; NaN if there are none."""
  valid = evaluation.valid
  total = jnp.sum(jnp.where(valid, evaluation.returns, 0))
  return total / jnp.sum(valid)


def summary(
  evaluation: evaluator_lib.Evaluation,
  center: evaluator_lib.Evaluation | None = None,
) -> dict[str, Array]:
  """Metrics of a generation, over the valid returns: NaN where all were lost.

  Args:
    evaluation: of the population.
    center: of theta; None if it was not evaluated.

  Returns:
    Scalars by name.
  """
  returns = jnp.where(evaluation.valid, evaluation.returns, jnp.nan)
  steps = jnp.sum(evaluation.lengths)
  metrics = {
    'episode_return': _mean(evaluation),
    'episode_return_median': jnp.nanmedian(returns),
    'episode_return_max': jnp.nanmax(returns),
    'episode_return_min': jnp.nanmin(returns),
    'valid_fraction': jnp.mean(evaluation.valid),
  }
  if center is not None:
    metrics['episode_return_center'] = _mean(center)
    steps += jnp.sum(center.lengths)
  return metrics | {'environment_steps': steps}
