"""UCB-DrAC: PPO whose policy and values are regularised to ignore augmentations.

  loss = L_PPO + a (G_pi + G_V)
  G_V  = 1/2 (sg V(s) - V(f(s)))^2
  G_pi = KL(sg pi(. | s), pi(. | f(s))), or -log pi(a' | f(s)) with a' ~ pi(. | s)

A bandit chooses the augmentation f for each iteration and is told the mean target of
the values. PPO is that of `rl`: its loss gets a term, and nothing else changes.

Reference: Raileanu et al. (2020), arXiv:2006.12862, Eqs. 2-5 and Algorithm 2; the
  logarithmic form is that of its code, github.com/rraileanu/auto-drac.
"""

import dataclasses
from typing import Any, Literal

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from hpo.autorl import augmentations as augmentations_lib
from hpo.autorl import bandits
from rl import distributions, ranges
from rl import learner as learner_lib
from rl.envs import spaces
from rl.ppo import losses, ppo

__all__ = ['DrAC', 'DrACLearner', 'DrACState', 'Form', 'penalties']

Form = Literal['kl', 'log']
_FORMS: tuple[Form, ...] = ('kl', 'log')


def penalties(
  policy: distributions.Distribution,
  value: Float[Array, '*b'],
  changed_policy: distributions.Distribution,
  changed_value: Float[Array, '*b'],
  drawn: Shaped[Array, '...'] | None,
) -> tuple[Float[Array, '*b'], Float[Array, '*b']]:
  """G_pi and G_V of each observation.

  Args:
    policy: at the observations; a constant.
    value: alike.
    changed_policy: at the augmented ones.
    changed_value: alike.
    drawn: actions a' ~ policy, for the logarithmic form; None: KL.
  """
  policy, value = jax.lax.stop_gradient((policy, value))
  if drawn is None:
    of_policy = policy.kl(changed_policy)
  else:
    of_policy = -changed_policy.log_prob(jax.lax.stop_gradient(drawn))
  return of_policy, 0.5 * (value - changed_value) ** 2


@dataclasses.dataclass(frozen=True)
class DrAC:
  """PPO with an augmentation; a `learner.Algorithm`.

  The augmentation of each observation is drawn once per iteration, and all epochs
  see it.

  Attributes:
    agent: settings of PPO.
    augmentations: to choose from; see the module of that name.
    bandit: chooses one for each iteration; None: there is one.
    coefficient: a; published: 0.1.
    form: of G_pi.

  Raises:
    ValueError: if the bandit has another number of arms, or a setting is out of
      range.
  """

  agent: ppo.PPO
  augmentations: tuple[augmentations_lib.Augmentation, ...]
  bandit: bandits.Bandit | None = None
  coefficient: float = 0.1
  form: Form = 'kl'

  def __post_init__(self) -> None:
    ranges.check_not_negative(coefficient=self.coefficient)
    if self.form not in _FORMS:
      raise ValueError(f'form must be one of {_FORMS}, got {self.form!r}')
    count = 1 if self.bandit is None else self.bandit.num_arms
    if len(self.augmentations) != count:
      raise ValueError(
        f'the bandit has {count} arms, got {len(self.augmentations)} '
        'augmentations'
      )

  def learner(
    self,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    num_lanes: int,
  ) -> 'DrACLearner':
    """See `learner.Algorithm`.

    Raises:
      ValueError: as PPO does, or if observations are no pictures.
    """
    if len(observation_space.shape) != 3:
      raise ValueError(
        f'augmentations need pictures [h, w, c], got {observation_space}'
      )
    found = self.agent.learner(observation_space, action_space, num_lanes)
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return DrACLearner(**fields, drac=self)


@flax.struct.dataclass
class DrACState(ppo.PPOState):
  """All that changes.

  Attributes beside those of `ppo.PPOState`:
    bandit: its state; () without a bandit.
  """

  bandit: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrACLearner(ppo.PPOLearner):
  """PPO, but for a term of its loss.

  Attributes beside those of `ppo.PPOLearner`:
    drac: settings of the term.
  """

  drac: DrAC

  def init(self, key: Key[Array, '']) -> DrACState:
    """See `learner.Learner`."""
    state, bandit = super().init(key), self.drac.bandit
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    return DrACState(**fields, bandit=() if bandit is None else bandit.init())

  def arm(self, state: DrACState) -> Int[Array, '']:
    """The augmentation of the next iteration."""
    bandit = self.drac.bandit
    return jnp.int32(0) if bandit is None else bandit.select(state.bandit)

  def learn(
    self,
    state: DrACState,
    trajectory: learner_lib.Trajectory,
    key: Key[Array, ''],
  ) -> tuple[DrACState, dict[str, Array]]:
    """See `ppo.PPOLearner`; adds the penalties, the arm and its score."""
    arm = self.arm(state)
    state, metrics = super().learn(state, trajectory, key)
    if self.drac.bandit is not None:
      bandit = self.drac.bandit.update(state.bandit, arm, metrics['target'])
      state = state.replace(bandit=bandit)
    pulled = {
      f'pulled_{i}': (arm == i).astype(jnp.float32)
      for i in range(len(self.drac.augmentations))
    }
    return state, metrics | pulled

  def augment(
    self,
    arm: Int[Array, ''],
    key: Key[Array, ''],
    observation: Shaped[Array, 'T n h w c'],
  ) -> Shaped[Array, 'T n h w c']:
    """Every picture changed by the augmentation of an arm, each in its own way."""
    flat = observation.reshape(-1, *observation.shape[2:])
    keys = jax.random.split(key, len(flat))
    branches = [jax.vmap(f) for f in self.drac.augmentations]
    changed = jax.lax.switch(arm, branches, keys, flat)
    return changed.reshape(observation.shape)

  def _updates(
    self, state: DrACState, steps: losses.Steps, key: Key[Array, '']
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """As PPO; the augmented pictures go along as further channels."""
    numbers = losses.split(steps.numbers)
    target = losses.mean(numbers.target, numbers.weight)
    changed = self.augment(
      self.arm(state), jax.random.fold_in(key, 1), steps.observation
    )
    both = jnp.concatenate([steps.observation, changed], -1)
    *found, metrics = super()._updates(
      state, steps._replace(observation=both), key
    )
    return *found, metrics | {'target': target}

  def _loss(
    self, params: PyTree, steps: losses.Steps
  ) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
    seen, changed = jnp.split(steps.observation, 2, -1)
    loss, metrics = super()._loss(params, steps._replace(observation=seen))
    apply = lambda x: self.network.apply(params, steps.memory, x, steps.first)
    # The same operations as in PPO's loss: XLA computes them once.
    old, new = apply(seen), apply(changed)
    drawn = None
    if self.drac.form == 'log':
      drawn = old.policy.sample(_key_of(steps.numbers))
    each = penalties(old.policy, old.value, new.policy, new.value, drawn)
    weight = losses.split(steps.numbers).weight
    of_policy, of_value = (losses.mean(x, weight) for x in each)
    loss += self.drac.coefficient * (of_policy + of_value)
    return loss, metrics | {
      'policy_penalty': of_policy,
      'value_penalty': of_value,
    }


def _key_of(numbers: Float[Array, '...']) -> Key[Array, '']:
  """A key for a minibatch, from the bits of its numbers: no two are alike."""
  bits = jax.lax.bitcast_convert_type(numbers.astype(jnp.float32), jnp.uint32)
  mixed = bits.reshape(-1) * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1)
  return jax.random.key(jnp.sum(mixed, dtype=jnp.uint32))
