"""SEARL: evolution of the networks and settings of Rainbow, on one shared replay.

A generation acts in the lanes of all members, puts the steps into one replay, and
trains every member on it: n members cost the environment steps of one. Then comes a
tournament, and each winner but the best one is mutated in one way, at equal odds:

- nothing;
- noise on its weights;
- more units or a further layer, which leaves all other weights as they are;
- another activation;
- one setting, multiplied by 0.8 or 1.2.

A member whose network was changed starts with a new optimiser, and a target network
like itself. The steps of the replay are shared, and each member has priorities of its
own: they are its losses.

Reference: Franke, Koehler, Biedenkapp, Hutter (2021), arXiv:2009.01555.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, PyTree, Shaped

from hpo import spaces
from hpo.autorl import agents, programs, traced
from hpo.autorl import inner as inner_lib
from hpo.autorl.population import exploit, growing, pbt, running
from rl import learner as learner_lib
from rl import ranges, rollout
from rl.rainbow import rainbow as rainbow_lib
from rl.replay import buffer, off_policy

__all__ = ['MUTATIONS', 'SEARL', 'SEARLState']

MUTATIONS = ('none', 'weights', 'architecture', 'activation', 'settings')
# What members have of their own (0), and what they share (None).
_AXES = off_policy.State(0, 0, 0, buffer.ReplayState(None, 0, None, 0, 0), 0, 0)


@flax.struct.dataclass
class SEARLState:
  """All that changes.

  Attributes:
    members: `off_policy.State`, leaves [n, ...], but there is one set of steps in
      the replay; the first member is the best of the last generation.
    codes: settings of the members, float32 [n, d].
    stage: the lanes of all members, one member's after the other's.
  """

  # Not annotated by shape: transformations put other things into the leaves.
  members: Any
  codes: Any
  stage: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Crowd(rainbow_lib.RainbowLearner):
  """Rainbow, but acts with several members, each in lanes of its own.

  Attributes beside those of `rainbow.RainbowLearner`:
    size: n, members.
  """

  size: int

  def acting(self, members: off_policy.State) -> rainbow_lib.Acting:
    """Of all members, leaves [n, ...]; each has the rates of its lanes alone."""
    found = jax.vmap(super().acting, in_axes=(_AXES,))(members)
    rates = found.epsilon.reshape(self.size, self.size, -1)
    own = jnp.arange(self.size)
    return found._replace(epsilon=rates[own, own])

  def act(
    self,
    acting: rainbow_lib.Acting,
    memory: PyTree,
    observation: Shaped[Array, 'n ...'],
    first: Bool[Array, ' n'],
    key: Key[Array, ''],
  ) -> learner_lib.Action:
    """See `learner.Learner`."""
    act = lambda own, *seen: super(_Crowd, self).act(own, memory, *seen).action
    split = lambda x: x.reshape(self.size, -1, *x.shape[1:])
    keys = jax.random.split(key, self.size)
    action = jax.vmap(act)(acting, split(observation), split(first), keys)
    return learner_lib.Action(memory, action.reshape(-1), ())


@dataclasses.dataclass(frozen=True)
class SEARL:
  """See the module; a `programs.Program`, of which a step is a generation.

  Attributes:
    agent: Rainbow with a `growing.Growing` encoder; its `env` has the lanes of all
      members, its `iterations` are those of a generation.
    space: of the settings that are mutated.
    size: n, members; published: 20.
    entrants: of a tournament; published: 3.
    new_layer: chance that a network that grows gets a layer; published: 0.2.
    growth: units of which a layer gets one number; published: 16, 32, 64.
    share: of the weights that noise changes.
    noise: relative deviation of these weights; published: 0.1.

  Raises:
    ValueError: a number is out of range, the lanes cannot be shared out, or the
      agent is another one.
  """

  agent: agents.Agent
  space: spaces.Space
  size: int
  entrants: int = 3
  new_layer: float = 0.2
  growth: tuple[int, ...] = (4, 8, 16)
  share: float = 0.05
  noise: float = 0.1

  def __post_init__(self) -> None:
    ranges.check_counts(least=2, size=self.size)
    ranges.check_counts(entrants=self.entrants, growth=self.growth)
    ranges.check_shares(new_layer=self.new_layer, share=self.share)
    ranges.check_not_negative(noise=self.noise)
    algorithm, lanes = self.agent.algorithm, self.agent.env.num_lanes
    is_rainbow = isinstance(algorithm, rainbow_lib.Rainbow)
    if not is_rainbow or not isinstance(algorithm.encoder, growing.Growing):
      raise ValueError(
        f'the agent must be Rainbow with a Growing encoder, got {algorithm}'
      )
    if lanes % self.size:
      raise ValueError(
        f'members must have equally many lanes, got {self.size=} {lanes=}'
      )

  @functools.cached_property
  def _crowd(self) -> _Crowd:
    found = self.agent.with_settings({})
    fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
    return _Crowd(**fields, size=self.size)

  def init(self, key: Key[Array, '']) -> SEARLState:
    """See `programs.Program`; members have networks of one size."""
    keys = jax.random.split(key, 3)
    crowd = self._crowd
    members = jax.vmap(crowd.init, out_axes=_AXES)(
      jax.random.split(keys[0], self.size)
    )
    codes = traced.sample(self.space, keys[1], (self.size,))
    stage = rollout.start(self.agent.env, crowd, keys[2])
    return SEARLState(members, codes, stage)

  def step(
    self, state: SEARLState, key: Key[Array, '']
  ) -> tuple[SEARLState, dict[str, Array]]:
    """A generation: acting and learning, a tournament, mutations."""
    keys = jax.random.split(key, 3)
    members, stage, scores = self.lived(state, keys[0])
    parents = exploit.tournament(keys[1], scores, self.entrants)
    members = _mapped(lambda x: x[parents], members)
    codes = state.codes[parents]
    metrics = self._metrics(members, codes, scores)
    members, codes = self.mutated(members, codes, keys[2])
    return SEARLState(members, codes, stage), metrics

  def lived(
    self, state: SEARLState, key: Key[Array, '']
  ) -> tuple[off_policy.State, rollout.Stage, Float[Array, ' n']]:
    """The members and their lanes after acting and learning, and their scores.

    A score is the mean return of the episodes that ended in the member's lanes, or
    of the running ones where none did; NaN where a metric is not finite.
    """
    zeta = traced.zeta(self.space, state.codes)

    def learn(
      member: off_policy.State, zeta: dict, key: Array, seen: Any
    ) -> Any:
      return self.agent.with_settings(zeta).learn(member, seen, key)

    all_learn = jax.vmap(learn, (_AXES, 0, 0, None), (_AXES, 0))

    def iterate(carry: tuple, key: Array) -> tuple[tuple, tuple]:
      members, stage = carry
      act_key, learn_key = jax.random.split(key)
      acting = self._crowd.acting(members)
      stage, seen = rollout.collect(
        self.agent.env, self._crowd, acting, stage, act_key
      )
      keys = jax.random.split(learn_key, self.size)
      members, metrics = all_learn(members, zeta, keys, seen)
      is_sound = jnp.isfinite(jnp.stack([*metrics.values()])).all(axis=0)
      return (members, stage), (is_sound, *self._ended(seen))

    start = (state.members, state.stage)
    keys = jax.random.split(key, self.agent.iterations)
    (members, stage), (is_sound, total, count) = jax.lax.scan(
      iterate, start, keys
    )
    going = self._of_members(stage.env.stats.running_return).mean(axis=1)
    total, count = total.sum(axis=0), count.sum(axis=0)
    score = jnp.where(count > 0, total / jnp.maximum(count, 1), going)
    score = jnp.where(is_sound.all(axis=0), score, jnp.nan)
    return members, stage, inner_lib.sound(score)

  def _of_members(self, x: Array) -> Array:
    """Numbers of lanes, by member."""
    return x.reshape(self.size, -1)

  def _ended(self, seen: learner_lib.Trajectory) -> tuple[Array, Array]:
    """Of each member: returns of episodes that ended, summed; their number."""
    ended = (seen.terminated | seen.truncated) & seen.valid
    total = jnp.where(ended, seen.episode_return, 0).sum(axis=0)
    by_member = (self._of_members(x) for x in (total, ended.sum(axis=0)))
    return tuple(x.sum(axis=1) for x in by_member)

  def _metrics(
    self, members: off_policy.State, codes: Array, scores: Array
  ) -> dict[str, Array]:
    """Of a generation, and of its best member, which is the first."""
    units = _architecture(members.params)['units'][0]
    best = traced.zeta(self.space, codes[0])
    agent = self.agent
    return {
      'score': running.mean_score(scores),
      'best_score': running.mean_score(jnp.nanmax(scores)[None]),
      'failed': jnp.isnan(scores).mean(),
      'layers': (units > 0).sum().astype(jnp.float32),
      'units': units.sum(),
      **{name: x.astype(jnp.float32) for name, x in best.items()},
      programs.STEPS: jnp.float32(agent.steps),
    }

  def mutated(
    self, members: off_policy.State, codes: Float[Array, 'n d'], key: Array
  ) -> tuple[off_policy.State, Float[Array, 'n d']]:
    """The members and their settings after mutations; the first one stays.

    Args:
      members: after the tournament.
      codes: their settings.
      key: of the draws.
    """
    kind_key, key = jax.random.split(key)
    kinds = jax.random.randint(kind_key, (self.size,), 0, len(MUTATIONS))
    kinds = kinds.at[0].set(MUTATIONS.index('none'))
    params, codes = jax.vmap(self.mutation)(
      kinds, members.params, codes, jax.random.split(key, self.size)
    )
    is_new = (kinds > MUTATIONS.index('none')) & (
      kinds < MUTATIONS.index('settings')
    )
    pick = lambda new, old: jnp.where(
      is_new.reshape(-1, *[1] * (new.ndim - 1)), new, old
    )
    zeros = jax.tree.map(jnp.zeros_like, members.opt_state)
    members = members.replace(
      params=params,
      target=jax.tree.map(pick, params, members.target),
      opt_state=jax.tree.map(pick, zeros, members.opt_state),  # As Adam begins.
    )
    return members, codes

  def mutation(
    self, kind: Array, params: PyTree, codes: Float[Array, ' d'], key: Array
  ) -> tuple[PyTree, Float[Array, ' d']]:
    """Parameters and settings of one member after a mutation.

    Args:
      kind: place in `MUTATIONS`.
      params: with the architecture.
      codes: settings.
      key: of the draws.
    """
    network = _architecture(params)
    rebuilt = lambda one: {**params, growing.ARCHITECTURE: {'encoder': one}}
    noise = {'share': self.share, 'scale': self.noise}
    room = {
      'width': self.agent.algorithm.encoder.width,
      'new_layer': self.new_layer,
      'growth': self.growth,
    }
    branches = (
      lambda: (params, codes),
      lambda: (
        {**params, 'params': growing.noisy(key, params['params'], **noise)},
        codes,
      ),
      lambda: (rebuilt(growing.grown(key, network, **room)), codes),
      lambda: (rebuilt(growing.other_activation(key, network)), codes),
      lambda: (params, self._tuned(key, codes)),
    )
    return jax.lax.switch(kind, branches)

  def _tuned(self, key: Array, codes: Float[Array, ' d']) -> Array:
    """One setting changed as PBT changes it."""
    keys = jax.random.split(key)
    change = pbt.PBT(self.space, resample=0.0)
    changed = change.explore(keys[0], codes[None])[0]
    place = jax.random.randint(keys[1], (), 0, len(codes))
    return jnp.where(jnp.arange(len(codes)) == place, changed, codes)

  def evaluate(
    self, state: SEARLState, key: Key[Array, '']
  ) -> dict[str, Array]:
    """See `programs.Program`; of the best member of the last generation."""
    best = _mapped(lambda x: x[0], state.members)
    found = agents.AgentState(best, None, None)
    return {'episode_return': self.agent.evaluate(found, key)}


def _mapped(f: Any, members: off_policy.State) -> off_policy.State:
  """Applies a function to all arrays that members have of their own."""
  replay = members.replay
  shared = {'steps': replay.steps, 'inserted': replay.inserted}
  own = members.replace(replay=replay.replace(**dict.fromkeys(shared)))
  found = jax.tree.map(f, own)
  return found.replace(replay=found.replay.replace(**shared))


def _architecture(params: PyTree) -> growing.Architecture:
  return params[growing.ARCHITECTURE]['encoder']
