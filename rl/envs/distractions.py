"""Changes of colour, background and camera that the task does not need.

After the Distracting Control Suite (arXiv:2101.02722), with plane geometry
instead of a simulator's camera and procedural backgrounds instead of videos.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from rl.envs import levels, protocol, scenes

__all__ = ['BACKGROUNDS', 'Distracted', 'DistractedState', 'Distraction']

BACKGROUNDS = ('waves', 'blobs')
_WAVES = 6
_BLOBS = 6
_MATERIALS = 16


class Distraction(NamedTuple):
  """The random draws of a seed, and their values now.

  Attributes:
    seed: its number.
    time: steps since the episode began.
    start: shifts of colours in each channel, the ground's last.
    color: the same, now.
    camera: x, y, roll (radians), zoom - 1.
    velocity: of x, y and roll, per step.
  """

  seed: Int[Array, '']
  time: Int[Array, '']
  start: Float[Array, 'm 3']
  color: Float[Array, 'm 3']
  camera: Float[Array, ' 4']
  velocity: Float[Array, ' 3']


class DistractedState(NamedTuple):
  """Attributes: the environment's state and its distraction."""

  env: PyTree
  distraction: Distraction


@dataclasses.dataclass(frozen=True)
class Distracted(scenes.Wrapper):
  """A pixel environment under distractions; dynamics and rewards stay.

  Each scale s lies in [0, 1]; the published easy, medium and hard settings are
  0.1, 0.2 and 0.3. At 0 that distraction is left out, and with all three at 0
  pictures and trajectories are the environment's own, bit for bit.

  - color: to each material and the ground a shift from U(-s, s) per channel.
    Dynamic: a random walk with N(0, (0.03 s)^2) per step, within +-s of the
    first shift.
  - background: the ground becomes (1 - s) times itself plus s times a
    picture: six plane waves of at most 3 cycles across, or six soft blobs.
    Dynamic: it moves steadily.
  - camera: shift from U(-s / 2, s / 2) in x and y, roll from U(-s pi / 2,
    s pi / 2), zoom out from U(1 - s / 2, 1 + 3 s / 2). Dynamic: velocities are
    random walks with N(0, (s / 20)^2) in shifts, at most s / 5, and
    N(0, (s pi / 300)^2) in roll, at most s pi / 50; shift and roll stop at
    their bounds.

  Everything follows from the distraction's seed and the step, so one seed
  shows the same distraction with any actions. Ranges of seeds that do not
  overlap keep training and test apart.

  Attributes:
    env: the pixel environment.
    color: scale.
    background: scale.
    camera: scale.
    dynamic: whether distractions change within an episode.
    background_kind: one of BACKGROUNDS.
    num_seeds: number of seeds; 0 for no limit.
    start_seed: the first one.

  Raises:
    ValueError: if a scale, the kind or the range of seeds is wrong.
  """

  env: scenes.PixelEnvironment
  color: float = 0.0
  background: float = 0.0
  camera: float = 0.0
  dynamic: bool = True
  background_kind: str = 'waves'
  num_seeds: int = 0
  start_seed: int = 0

  def __post_init__(self) -> None:
    for name in ('color', 'background', 'camera'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f'{name} must be in [0, 1], got {name}={getattr(self, name)!r}'
        )
    if self.background_kind not in BACKGROUNDS:
      raise ValueError(
        f'background_kind must be one of {BACKGROUNDS}, '
        f'got {self.background_kind!r}'
      )
    levels.check_levels(self.num_seeds, self.start_seed)

  def reset(
    self, key: Key[Array, '']
  ) -> tuple[DistractedState, UInt8[Array, 's s 3']]:
    """Resets the environment and draws a seed."""
    env, _ = self.env.reset(key)
    # Beside the environment's own use of the key, which must not change.
    draw = jax.random.fold_in(key, 0x0D15)
    seed = levels.draw_level(draw, self.num_seeds, self.start_seed)
    state = DistractedState(env, self.begin(seed))
    return state, scenes.picture(self, state)

  def step(
    self, state: DistractedState, action: Any, key: Key[Array, '']
  ) -> tuple[DistractedState, protocol.Step]:
    """Steps the environment, then the distraction."""
    env, step = self.env.step(state.env, action, key)
    state = DistractedState(env, self.advance(state.distraction))
    image = scenes.picture(self, state)
    return state, step._replace(observation=image)

  def begin(self, seed: Int[Array, '']) -> Distraction:
    """The distraction of a seed at the start of an episode."""
    paint, place = jax.random.split(levels.level_key(seed, 3))
    color, camera = jnp.zeros((_MATERIALS, 3)), jnp.zeros(4)
    if self.color:
      color = jax.random.uniform(paint, color.shape, minval=-1.0)
      color = self.color * color
    if self.camera:
      # Zoom: U(-1/2, 3/2) s, the rest symmetric.
      unit = jax.random.uniform(place, (4,), minval=-1.0)
      unit = unit + jnp.array([0.0, 0.0, 0.0, 0.5])
      camera = self.camera * jnp.array([0.5, 0.5, jnp.pi / 2, 1.0]) * unit
    time = jnp.zeros((), jnp.int32)
    seed = seed.astype(jnp.int32)
    return Distraction(seed, time, color, color, camera, jnp.zeros(3))

  def advance(self, now: Distraction) -> Distraction:
    """One step later; the same distraction if it is not dynamic."""
    if not self.dynamic:
      return now
    now = now._replace(time=now.time + 1)
    key = jax.random.fold_in(levels.level_key(now.seed, 4), now.time)
    paint, move = jax.random.split(key)
    if self.color:
      walk = 0.03 * self.color * jax.random.normal(paint, now.color.shape)
      away = now.color + walk - now.start
      away = jnp.clip(away, -self.color, self.color)
      now = now._replace(color=now.start + away)
    if self.camera:
      now = self._travel(now, move)
    return now

  def _travel(self, now: Distraction, key: Key[Array, '']) -> Distraction:
    """Moves the camera by its velocity, and changes that."""
    rates = self.camera * jnp.array([0.05, 0.05, jnp.pi / 300])
    limits = self.camera * jnp.array([0.2, 0.2, jnp.pi / 50])
    bounds = self.camera * jnp.array([0.5, 0.5, jnp.pi / 2])
    velocity = now.velocity + rates * jax.random.normal(key, (3,))
    velocity = jnp.clip(velocity, -limits, limits)
    place = jnp.clip(now.camera[:3] + velocity, -bounds, bounds)
    camera = jnp.concatenate([place, now.camera[3:]])
    return now._replace(camera=camera, velocity=velocity)

  def scene(
    self, state: DistractedState, points: Float[Array, 'h w 2']
  ) -> scenes.Scene:
    """The environment's scene, distracted."""
    now = state.distraction
    if self.camera:
      points = _look(points, now.camera)
    scene = self.env.scene(state.env, points)
    ground, palette = scene.ground, scene.palette
    if self.color:
      count = palette.shape[0]
      palette = jnp.clip(palette + now.color[:count], 0.0, 1.0)
      ground = jnp.clip(ground + now.color[-1], 0.0, 1.0)
    if self.background:
      behind = backdrop(self.background_kind, now.seed, now.time, points)
      ground = (1 - self.background) * ground + self.background * behind
    return scenes.Scene(ground, scene.coverage, palette)


def _look(
  points: Float[Array, 'h w 2'], camera: Float[Array, ' 4']
) -> Float[Array, 'h w 2']:
  """The points that the picture shows through a camera."""
  cos, sin = jnp.cos(camera[2]), jnp.sin(camera[2])
  x, y = points[..., 0], points[..., 1]
  turned = jnp.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)
  return (1 + camera[3]) * turned + camera[:2]


def backdrop(
  kind: str,
  seed: Int[Array, ''],
  time: Int[Array, ''],
  points: Float[Array, 'h w 2'],
) -> Float[Array, 'h w 3']:
  """A background of a seed at a time, in [0, 1].

  Args:
    kind: one of BACKGROUNDS.
    seed: from which it is drawn.
    time: in steps.
    points: of the image plane.
  """
  time = time.astype(jnp.float32)
  paint = _waves if kind == 'waves' else _blobs
  return paint(levels.level_key(seed, 5), time, points)


def _waves(
  key: Key[Array, ''], time: Float[Array, ''], points: Float[Array, 'h w 2']
) -> Float[Array, 'h w 3']:
  """Plane waves in random directions, of half to three cycles across."""
  lines, tint = jax.random.split(key)
  cycles, angle, phase, drift = jax.random.uniform(lines, (4, _WAVES))
  angle = 2 * jnp.pi * angle
  wave = jnp.pi * (0.5 + 2.5 * cycles)
  wave = wave * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
  shift = 2 * jnp.pi * phase + time * (0.05 + 0.15 * drift)
  x, y = points[..., 0, None], points[..., 1, None]
  height = jnp.cos(x * wave[0] + y * wave[1] + shift)
  color = jax.random.uniform(tint, (_WAVES, 3), minval=-1.0)
  return jnp.clip(0.5 + 0.3 * (height @ color), 0.0, 1.0)


def _blobs(
  key: Key[Array, ''], time: Float[Array, ''], points: Float[Array, 'h w 2']
) -> Float[Array, 'h w 3']:
  """Soft spots that circle; each adds its colour to a common one."""
  place, tint, base = jax.random.split(key, 3)
  x, y, phase, turn, radius = jax.random.uniform(place, (5, _BLOBS))
  angle = 2 * jnp.pi * phase + time * (0.02 + 0.06 * turn)
  x = points[..., 0, None] - (2 * x - 1 + 0.4 * jnp.cos(angle))
  y = points[..., 1, None] - (2 * y - 1 + 0.4 * jnp.sin(angle))
  away = x**2 + y**2
  height = jnp.exp(-away / (2 * (0.15 + 0.3 * radius) ** 2))
  color = jax.random.uniform(tint, (_BLOBS, 3), minval=-0.8, maxval=0.8)
  common = jax.random.uniform(base, (3,), minval=0.2, maxval=0.8)
  return jnp.clip(common + height @ color, 0.0, 1.0)
