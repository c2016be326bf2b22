"""Upright bars at both sides of a picture, which the task does not need."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree, UInt8

from rl.envs import levels, protocol, scenes

__all__ = ['Barred', 'BarredState']


class BarredState(NamedTuple):
  """Attributes: the environment's state, and the colour of the bars."""

  env: PyTree
  color: Float[Array, ' 3']


@dataclasses.dataclass(frozen=True)
class Barred(scenes.Wrapper):
  """A pixel environment between two bars; dynamics and rewards stay.

  The bars hide what lies behind them. Every episode draws a seed, from which their
  colour follows. Around `distractions.Distracted`, they stay where they are when
  the camera moves.

  Attributes:
    env: the pixel environment.
    width: of each bar over that of the picture, in [0, 0.5]; at 0 pictures are
      the environment's own, bit for bit. The Attention Agent was tested between
      bars of 75 of 1000 pixels.
    num_seeds: number of seeds; 0 for no limit.
    start_seed: the first one.

  Raises:
    ValueError: if the width or the range of seeds is wrong.

  Reference: arXiv:2003.08165, Section 4 (vertical frames).
  """

  env: scenes.PixelEnvironment
  width: float = 0.075
  num_seeds: int = 0
  start_seed: int = 0

  def __post_init__(self) -> None:
    if not 0 <= self.width <= 0.5:
      raise ValueError(f'width must be in [0, 0.5], got {self.width=!r}')
    levels.check_levels(self.num_seeds, self.start_seed)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[BarredState, UInt8[Array, 's s 3']]:
    """Resets the environment and draws a seed."""
    env, _ = self.env.reset(key)
    # Beside the environment's own use of the key, which must not change.
    draw = jax.random.fold_in(key, 0x0BA5)
    seed = levels.draw_level(draw, self.num_seeds, self.start_seed)
    color = jax.random.uniform(levels.level_key(seed, 7), (3,))
    state = BarredState(env, color)
    return state, scenes.picture(self, state)

  def step(
    self, state: BarredState, action: Any, key: Key[Array, '']
  ) -> tuple[BarredState, protocol.Step]:
    """Steps the environment."""
    env, step = self.env.step(state.env, action, key)
    state = state._replace(env=env)
    return state, step._replace(observation=scenes.picture(self, state))

  def scene(
    self, state: BarredState, points: Float[Array, 'h w 2']
  ) -> scenes.Scene:
    """The environment's scene, with the bars over all of it."""
    scene = self.env.scene(state.env, points)
    inner = 1 - 2 * self.width
    hidden = scenes.cover(
      inner - jnp.abs(points[..., 0]), scenes.pixel_width(points)
    )
    return scene._replace(
      coverage=jnp.concatenate([scene.coverage, hidden[None]]),
      palette=jnp.concatenate([scene.palette, state.color[None]]),
    )
