"""Evolution strategies: perturbations of theta, weighted by their returns.

theta <- theta + update(sum_i w_i g_i), in its geometry, with an estimator's
weights w_i and an optax update. Nothing is random but what is drawn from the
state's key folded with the generation, so a resumed run goes on as the
uninterrupted one.

  state, metrics = jax.jit(functools.partial(es.step, evaluator=evaluator))(
    state)

may be jitted and scanned if the evaluator is pure. Otherwise `step` runs as it
is, or `ask` and `tell` around any other way to get returns.

A pair is dropped where a return is not finite, as if its worker had been lost;
`valid_fraction` shows how many are left. Where none is left, only the generation
moves on: theta, the optimiser and the statistics stay. The return's mean is NaN
then, at which the training loop stops.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from rl import ranges
from rl.es import directions as directions_lib
from rl.es import estimators
from rl.es import evaluator as evaluator_lib
from rl.es import geometry as geometry_lib
from rl.es import population as population_lib
from rl.es import search as search_lib

__all__ = ['ESConfig', 'Strategy']


@dataclasses.dataclass(frozen=True)
class ESConfig:
  """Settings of a generation.

  Attributes:
    num_pairs: n, the directions per generation. The population is 2 n with a
      mirrored estimator, else n.
    sigma: scale of the perturbations, or a function of the generation (an
      optax schedule).
    estimator: turns returns into weights, and shapes them.
    directions: distribution of perturbations.
    center_evaluations: how often theta itself is evaluated, with keys of its
      own: for reports, and for estimators that use the mean of the returns.
    normalize: whether observations are normalised by running statistics.
    guides: k, for guided directions: the last k estimates span the subspace (those that were
      not zero),
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
    ranges.check_counts(up_to=2**24, num_pairs=self.num_pairs)
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


@dataclasses.dataclass(frozen=True)
class Strategy:
  """An evolution strategy with any optimiser; a `search.Search`.

  Attributes:
    config: settings of a generation.
    optimizer: gets minus the estimate, since returns are maximised. Weight
      decay, momentum, clipping and learning-rate schedules are optax's.
    geometry: space of theta; see `geometry.of` for a policy's.
  """

  config: ESConfig
  optimizer: optax.GradientTransformation
  geometry: geometry_lib.Geometry = geometry_lib.EUCLIDEAN
  pure = True

  def init(
    self,
    theta: Float[Array, ' d'],
    key: Key[Array, ''],
    observation_shape: tuple[int, ...] | None = None,
  ) -> search_lib.State:
    """See `search.Search`."""
    theta = jnp.asarray(theta, jnp.float32)
    coordinates = self.geometry.coordinates(theta)
    guides, estimates = self.config.guides, None
    if guides:
      # Folded with what no generation is.
      guide_key = jax.random.fold_in(key, jnp.uint32(2**32 - 1))
      estimates = jax.random.normal(guide_key, (guides, *coordinates.shape))
    return search_lib.State(
      theta=theta,
      opt_state=self.optimizer.init(coordinates),
      normalizer=search_lib.nothing_seen(
        self.config.normalize, observation_shape
      ),
      estimates=estimates,
      key=key,
      generation=jnp.zeros((), jnp.int32),
    )

  def ask(
    self, state: search_lib.State, basis: Float[Array, 'd k'] | None = None
  ) -> search_lib.Request:
    """The request of this generation; see `search.Search`.

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
    population = population_lib.Perturbations(
      theta=state.theta,
      sigma=self._sigma(state),
      key=key_directions,
      basis=basis,
      directions=config.directions,
      mirrored=config.estimator.mirrored,
      geometry=self.geometry,
    )
    return search_lib.Request(
      population,
      search_lib.keys_of(key_pairs, config.num_pairs),
      population_lib.Repeated(state.theta),
      search_lib.keys_of(key_center, config.center_evaluations),
    )

  def _sigma(self, state: search_lib.State) -> Float[Array, '']:
    sigma = self.config.sigma
    return jnp.float32(sigma(state.generation) if callable(sigma) else sigma)

  def tell(
    self,
    state: search_lib.State,
    request: search_lib.Request,
    evaluation: evaluator_lib.Evaluation,
    center: evaluator_lib.Evaluation | None = None,
  ) -> tuple[search_lib.State, dict[str, Array]]:
    """See `search.Search`; each lost return takes its pair with it."""
    evaluation, center = map(search_lib.finite, (evaluation, center))
    sigma = self._sigma(state)
    weights = self.config.estimator.weights(
      evaluation.returns,
      evaluation.valid,
      sigma=sigma,
      center=None if center is None else search_lib.mean(center),
    )
    gradient = request.population.gradient(weights)
    updates, opt_state = self.optimizer.update(
      -gradient, state.opt_state, self.geometry.coordinates(state.theta)
    )
    new = state.replace(
      theta=self.geometry.step(state.theta, updates),
      opt_state=opt_state,
      normalizer=search_lib.counted(state.normalizer, evaluation, center),
      estimates=_remembered(state.estimates, gradient),
    )
    told = self._told_something(evaluation, center)
    parts = lambda s: (s.theta, s.opt_state, s.normalizer, s.estimates)
    kept = jax.tree.map(
      lambda a, b: jnp.where(told, a, b), parts(new), parts(state)
    )
    metrics = search_lib.summary(evaluation, center) | {
      'gradient_norm': jnp.linalg.norm(gradient),
      'update_norm': jnp.where(told, jnp.linalg.norm(updates), 0),
      'sigma': sigma,
    }
    generation = state.generation + 1
    return search_lib.State(*kept, state.key, generation), metrics

  def _told_something(
    self,
    evaluation: evaluator_lib.Evaluation,
    center: evaluator_lib.Evaluation | None,
  ) -> Bool[Array, '']:
    """Whether there is a whole pair, and theta's return where it is needed."""
    estimator = self.config.estimator
    rows = evaluation.valid.reshape(1 + estimator.mirrored, -1)
    told = rows.all(axis=0).any()
    if estimator.needs_center and center is not None:
      told &= center.valid.any()
    return told

  def step(
    self,
    state: search_lib.State,
    evaluator: evaluator_lib.Evaluator,
    basis: Float[Array, 'd k'] | None = None,
  ) -> tuple[search_lib.State, dict[str, Array]]:
    """One generation.

    Args:
      state: before it.
      evaluator: runs the rollouts.
      basis: as in `ask`.

    Returns:
      As `tell`.
    """
    if evaluator.pure:
      request = self.ask(state, basis)
      # In one program, directions that are few need not be drawn twice.
      population = request.population.keep(self.config.num_pairs)
      request, tell = request.replace(population=population), Strategy.tell
    else:
      request, tell = _ask(self, state, basis), _tell
    found = search_lib.run(request, state.normalizer, evaluator)
    return tell(self, state, request, *found)


# Between rollouts on the host: compiled once, whoever calls `step`.
_ask = jax.jit(Strategy.ask, static_argnums=0)
_tell = jax.jit(Strategy.tell, static_argnums=0)


def _remembered(
  estimates: Float[Array, 'guides k'] | None, gradient: Float[Array, ' k']
) -> Float[Array, 'guides k'] | None:
  """The last estimates; one of zero has no direction, and is not among them."""
  if estimates is None:
    return None
  newest = jnp.concatenate([estimates[1:], gradient[None]])
  return jnp.where(jnp.any(gradient != 0), newest, estimates)
