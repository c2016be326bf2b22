"""Pictures of any lanes, made smaller or stacked: in JAX and on the host."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree, Shaped

from rl import ranges
from rl.envs import checks, lanes, protocol, spaces

__all__ = ['Downscaled', 'Stacked', 'StackedState', 'picture_channels']

Arrays = Shaped[Array | np.ndarray, 'n ...']


def picture_channels(env: protocol.VectorEnvironment) -> int:
  """Channels of one picture of a stack: RGB, unless lanes say otherwise."""
  return getattr(env, 'picture_channels', 3)


class _Wrapper:
  """Base class of lanes over other lanes."""

  def __init__(self, env: protocol.VectorEnvironment) -> None:
    self.env = env
    self.num_lanes = env.num_lanes
    self.action_space = env.action_space
    self.pure = env.pure
    self.resets_at_once = env.resets_at_once
    self.picture_channels = picture_channels(env)
    self._numpy = jnp if env.pure else np

  def close(self) -> None:
    """Closes the lanes below."""
    self.env.close()


def _check_pictures(space: spaces.Space) -> None:
  if not isinstance(space, spaces.Box) or len(space.shape) != 3:
    raise ValueError(
      f'env must observe pictures [height, width, channels], got {space}'
    )


class Downscaled(_Wrapper):
  """Lanes whose uint8 pictures are averaged over squares of pixels.

  Means are rounded to the nearest integer, halves up.

  Args:
    env: the lanes.
    factor: pixels along each side of a square; divides height and width.

  Raises:
    ValueError: if observations are not uint8 pictures or the factor does not
      divide their sides.
  """

  def __init__(self, env: protocol.VectorEnvironment, factor: int) -> None:
    super().__init__(env)
    _check_pictures(env.observation_space)
    height, width, channels = env.observation_space.shape
    if env.observation_space.dtype != 'uint8':
      raise ValueError(f'pictures must be uint8, got {env.observation_space}')
    if factor < 1 or height % factor or width % factor:
      raise ValueError(
        f'factor must divide both sides, got {factor=} {height=} {width=}'
      )
    self.factor = factor
    shape = (height // factor, width // factor, channels)
    self.observation_space = spaces.Box(shape, 0, 255, 'uint8')

  def reset(self, keys: Key[Array, ' n']) -> tuple[PyTree, Arrays]:
    """Resets the lanes below."""
    state, observation = self.env.reset(keys)
    return state, self._smaller(observation)

  def step(
    self, state: PyTree, action: Arrays
  ) -> tuple[PyTree, protocol.Transition]:
    """Steps the lanes below."""
    state, seen = self.env.step(state, action)
    smaller = self._smaller(seen.observation)
    final = smaller
    if seen.final_observation is not seen.observation:
      final = self._smaller(seen.final_observation)
    return state, seen._replace(observation=smaller, final_observation=final)

  def _smaller(self, pictures: Arrays) -> Arrays:
    """Sums of whole rows first: NumPy's sum over short axes is slow."""
    f = self.factor
    # Sums of up to 16 x 16 bytes fit in 16 bits, which take half the time.
    wide = 'uint16' if f <= 16 else 'uint32'
    rows = sum(pictures[:, i::f].astype(wide) for i in range(f))
    total = sum(rows[:, :, i::f] for i in range(f))
    return ((total + f * f // 2) // (f * f)).astype('uint8')


class StackedState(NamedTuple):
  """Attributes: state of the lanes below, and the pictures in view."""

  env: PyTree
  observation: Any

  @property
  def stats(self) -> lanes.EpisodeStats:
    """Statistics of the lanes below."""
    return self.env.stats


class Stacked(_Wrapper):
  """Lanes that show their last pictures together, the newest last.

  Channels are joined: [height, width, count channels]. The first picture of an
  episode fills the whole stack: none of the episode before is left in it. The
  final observation is the stack that the step itself led to.

  Args:
    env: the lanes, which reset themselves.
    count: pictures in a stack.

  Raises:
    ValueError: if observations are no pictures, count < 1, or the lanes wait
      at the ends of episodes.
  """

  def __init__(self, env: protocol.VectorEnvironment, count: int) -> None:
    super().__init__(env)
    space = env.observation_space
    _check_pictures(space)
    ranges.check_counts(count=count)
    checks.check_resets(env)
    self.count = count
    *sides, channels = space.shape
    low, high = (_tiled(bound, count) for bound in space.bounds)
    shape = (*sides, channels * count)
    self.observation_space = spaces.Box(shape, low, high, space.dtype)

  def reset(self, keys: Key[Array, ' n']) -> tuple[StackedState, Arrays]:
    """Resets the lanes below."""
    state, picture = self.env.reset(keys)
    stack = self._filled(picture)
    return StackedState(state, stack), stack

  def step(
    self, state: StackedState, action: Arrays
  ) -> tuple[StackedState, protocol.Transition]:
    """Steps the lanes below."""
    xp = self._numpy
    env, seen = self.env.step(state.env, action)
    channels = seen.observation.shape[-1]
    older = state.observation[..., channels:]
    begins = seen.terminated | seen.truncated
    if not self.resets_at_once:
      begins = ~seen.valid
    begins = begins[:, None, None, None]
    longer = xp.concatenate([older, seen.final_observation], axis=-1)
    stack = xp.where(begins, self._filled(seen.observation), longer)
    final = longer if self.resets_at_once else stack
    seen = seen._replace(observation=stack, final_observation=final)
    return StackedState(env, stack), seen

  def _filled(self, picture: Arrays) -> Arrays:
    return self._numpy.concatenate([picture] * self.count, axis=-1)


def _tiled(bound: np.ndarray, count: int) -> spaces.Bound:
  """Repeats a bound along channels; hashable, one number where all agree."""
  if (bound == bound.flat[0]).all():
    return bound.flat[0].item()
  nested = lambda x: tuple(map(nested, x)) if isinstance(x, list) else x
  return nested(np.tile(bound, count).tolist())
