"""The learners of `rl`'s agents with logits that move by a rule of their own.

The agents' losses, replays and minibatches are theirs. Only the updates differ:
an optimiser for the logits, and for bi-level search a gradient from other lanes.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax
from jax import flatten_util
from jaxtyping import Array, Int, Key, PyTree

from nas.rl_darts import bilevel, diagnostics, probabilities
from rl import learner as learner_lib
from rl import shuffle
from rl.ppo import losses, ppo
from rl.rainbow import rainbow
from rl.replay import buffer, off_policy
from rl.sac import sac

__all__ = ['Rule', 'fit']


class Rule(NamedTuple):
  """How logits move.

  Attributes:
    optimizer: of the logits.
    lanes: the last lanes, whose steps are the data of the logits and not of the
      weights; 0: joint training, on the same data.
    rate: of the step ahead of second order; None: first order.
  """

  optimizer: optax.GradientTransformation
  lanes: int
  rate: float | None

  def step(
    self, inner: bilevel.Loss, outer: bilevel.Loss, params: PyTree, state: Any
  ) -> tuple[PyTree, Any, PyTree]:
    """Moves the logits: parameters, state of their optimiser, their gradient."""
    grads, _ = bilevel.alpha_gradient(inner, outer, params, self.rate)
    weights, alpha = probabilities.split(params)
    change, state = self.optimizer.update(grads, state, alpha)
    alpha = optax.apply_updates(alpha, change)
    return probabilities.merge(weights, alpha), state, grads


def _lanes(tree: PyTree, lanes: slice) -> PyTree:
  """Some lanes of leaves [T, n, ...]."""
  return jax.tree.map(lambda x: x[:, lanes], tree)


@flax.struct.dataclass
class SplitState:
  """State of two optimisers, of weights and logits."""

  weights: Any
  alpha: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOSearch(ppo.PPOLearner):
  """PPO, but for the updates.

  Attributes beside those of `ppo.PPOLearner`:
    rule: of the logits.
  """

  rule: Rule

  def init(self, key: Key[Array, '']) -> ppo.PPOState:
    """See `learner.Learner`."""
    state = super().init(key)
    weights, alpha = probabilities.split(state.params)
    vector, _ = flatten_util.ravel_pytree(weights)
    return state.replace(
      opt_state=SplitState(
        self._optimizer.init(vector), self.rule.optimizer.init(alpha)
      )
    )

  def _minibatches(
    self, steps: losses.Steps, key: Key[Array, '']
  ) -> tuple[losses.Steps, tuple[Int[Array, 'k b'], Array]]:
    """All steps in a row; indices of minibatches, and their numbers."""
    chosen = self.settings
    flat = lambda x: x.reshape(1, -1, *x.shape[2:])
    steps = jax.tree.map(flat, steps)
    count = steps.first.shape[1]
    order = shuffle.permutations(key, chosen.num_epochs, count)
    indices = order.reshape(-1, count // chosen.num_minibatches)
    numbers = jnp.moveaxis(steps.numbers[:, indices], 1, 0)
    if chosen.normalize_advantages:
      numbers = jax.vmap(losses.standardized)(numbers)
    return steps, (indices, numbers)

  def _updates(
    self, state: ppo.PPOState, steps: losses.Steps, key: Key[Array, '']
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """All minibatches, of both groups of lanes in bi-level search."""
    own = self.num_lanes - self.rule.lanes
    groups = [(slice(own), key)]
    if self.rule.lanes:
      groups.append((slice(own, None), jax.random.fold_in(key, 1)))
    steps = steps._replace(memory=())
    found = [self._minibatches(_lanes(steps, some), k) for some, k in groups]
    wholes, batches = zip(*found, strict=True)

    def update(carry: tuple, chosen: tuple) -> tuple[tuple, dict[str, Array]]:
      parts = [
        # As in PPO: else the gathering is fused into each layer that reads it.
        jax.lax.optimization_barrier(whole.gathered(*one))
        for whole, one in zip(wholes, chosen, strict=True)
      ]
      losses_ = [functools.partial(self._loss, steps=part) for part in parts]
      return self._update(*carry, *losses_)

    carry = (state.params, state.opt_state)
    carry, metrics = jax.lax.scan(update, carry, batches)
    return *carry, jax.tree.map(jnp.mean, metrics)

  def _update(
    self,
    params: PyTree,
    state: SplitState,
    loss: bilevel.Loss,
    outer: bilevel.Loss | None = None,
  ) -> tuple[tuple[PyTree, SplitState], dict[str, Array]]:
    """Moves the logits by an outer loss, then the weights; without, jointly."""
    alpha_state = state.alpha
    if outer is not None:
      params, alpha_state, direction = self.rule.step(
        loss, outer, params, alpha_state
      )
    grads, metrics = jax.grad(loss, has_aux=True)(params)
    by_weights, by_alpha = probabilities.split(grads)
    weights, alpha = probabilities.split(params)
    vector, unravel = flatten_util.ravel_pytree(by_weights)
    change, weights_state = self._optimizer.update(vector, state.weights)
    weights = optax.apply_updates(weights, unravel(change))
    if outer is None:
      direction = by_alpha
      change, alpha_state = self.rule.optimizer.update(
        by_alpha, alpha_state, alpha
      )
      alpha = optax.apply_updates(alpha, change)
    else:
      # Between what helps on the levels of the weights and on the others.
      metrics |= {'alpha_cosine': diagnostics.cosine(by_alpha, direction)}
    metrics |= {
      'grad_norm': optax.tree.norm(vector),
      'alpha_grad_norm': optax.tree.norm(direction),
    }
    params = probabilities.merge(weights, alpha)
    return (params, SplitState(weights_state, alpha_state)), metrics


@flax.struct.dataclass
class ReplayState(off_policy.State):
  """With what the logits learn from.

  Attributes beside those of `off_policy.State`:
    alpha_state: of the optimiser of the logits; () in joint training.
    validation: replay of their lanes; ().
    batches: drawn from it for this iteration; ().
  """

  alpha_state: Any
  validation: Any
  batches: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ReplaySearch(off_policy.Learner):
  """Agents with a replay, but for the updates.

  Attributes beside those of `off_policy.Learner`:
    rule: of the logits.
    validation: replay of the lanes of the logits; None in joint training.
  """

  rule: Rule
  validation: buffer.Replay | None

  @functools.cached_property
  def _optimizer(self) -> optax.GradientTransformation:
    # By itself: a cached property of the base would take this one's place.
    theirs = off_policy.Learner._optimizer.func(self)
    apart = self.validation is not None
    alpha = optax.set_to_zero() if apart else self.rule.optimizer
    return bilevel.partitioned(theirs, alpha)

  def init(self, key: Key[Array, '']) -> ReplayState:
    """See `learner.Learner`."""
    state = super().init(key)
    extra: dict[str, Any] = dict.fromkeys(
      ('alpha_state', 'validation', 'batches'), ()
    )
    if self.validation is not None:
      _, alpha = probabilities.split(state.params)
      spaces = self.observation_space, self.action_space
      extra['alpha_state'] = self.rule.optimizer.init(alpha)
      extra['validation'] = self.validation.init(*spaces)
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return ReplayState(**fields, **extra)

  def learn(
    self,
    state: ReplayState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[ReplayState, dict[str, Array]]:
    """See `off_policy.Learner`; of the first lanes."""
    if self.validation is None:
      return super().learn(state, trajectory, key)
    own = slice(self.replay.num_lanes)
    rest = slice(self.replay.num_lanes, None)
    fields = buffer.Steps._fields
    steps = {name: getattr(trajectory, name) for name in (*fields, 'first')}
    pick = lambda lanes: trajectory._replace(**_lanes(steps, lanes))
    apart = pick(rest)
    apart = apart._replace(reward=self._rewards(apart.reward))
    validation = self.validation.insert(state.validation, apart)
    keys = jax.random.split(jax.random.fold_in(key, 1), self.num_updates)
    draw = functools.partial(
      self.validation.sample, validation, batch_size=self.settings.batch_size
    )
    # Drawn at once: the updates are a branch, which would copy the replay.
    state = state.replace(validation=(), batches=jax.vmap(draw)(keys))
    state, metrics = super().learn(state, pick(own), key)
    return state.replace(validation=validation, batches=()), metrics

  def _update(
    self, state: ReplayState, key: Key[Array, '']
  ) -> tuple[ReplayState, dict[str, Array]]:
    """Moves the logits, then the weights."""
    if self.validation is None:
      return super()._update(state, key)
    draw_key, inner_key, outer_key = jax.random.split(
      jax.random.fold_in(key, 2), 3
    )
    pick = lambda x: x[state.updates % self.num_updates]
    apart = jax.tree.map(pick, state.batches)
    size = self.settings.batch_size
    some = self.replay.sample(state.replay, draw_key, size)
    losses_ = [
      lambda params, b=batch, k=one: self.loss(params, state, b, k)
      for batch, one in ((some, inner_key), (apart, outer_key))
    ]
    params, alpha_state, direction = self.rule.step(
      *losses_, state.params, state.alpha_state
    )
    state = state.replace(params=params, alpha_state=alpha_state)
    state, metrics = super()._update(state, key)
    norm = optax.tree.norm(direction)
    return state, metrics | {'alpha_grad_norm': norm}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RainbowSearch(_ReplaySearch, rainbow.RainbowLearner):
  """Rainbow, but for the updates."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SACSearch(_ReplaySearch, sac.SACLearner):
  """SAC, but for the updates."""


_KINDS = {rainbow.RainbowLearner: RainbowSearch, sac.SACLearner: SACSearch}


def fit(
  algorithm: Any,
  spaces: tuple[Any, Any],
  num_lanes: int,
  rule: Rule,
) -> learner_lib.Learner:
  """The learner of an agent whose logits move by a rule.

  Args:
    algorithm: settings of PPO, Rainbow or SAC.
    spaces: of observations and actions.
    num_lanes: n, with the lanes of the rule.
    rule: of the logits.

  Raises:
    ValueError: if it is another agent, lanes do not fit, or minibatches do not
      share out the steps of both groups of lanes.
  """
  own = num_lanes - rule.lanes
  if own < 1 or rule.lanes < 0:
    raise ValueError(
      'some lanes must be left for the weights, got '
      f'{num_lanes=} alpha_lanes={rule.lanes}'
    )
  if isinstance(algorithm, ppo.PPO):
    if algorithm.core is not None:
      raise ValueError('a rule for logits needs PPO without a core')
    for lanes in (own, rule.lanes) if rule.lanes else ():
      algorithm.learner(*spaces, lanes)  # Minibatches must share out both.
    found, kind, extra = algorithm.learner(*spaces, num_lanes), PPOSearch, {}
  else:
    found = algorithm.learner(*spaces, own)
    kind = _KINDS.get(type(found))
    if kind is None:
      raise ValueError(
        f'a rule for logits needs PPO, Rainbow or SAC, got {algorithm}'
      )
    validation = None
    if rule.lanes:
      # As long as that of the weights; drawn uniformly.
      validation = dataclasses.replace(
        found.replay, num_lanes=rule.lanes, exponent=0.0, initial_priority=1.0
      )
    extra = {'validation': validation}
  fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
  return kind(**fields, rule=rule, **extra)
