"""Distractions in pictures of dm_control: colours, backgrounds, cameras.

Ranges and rates are those of the Distracting Control Suite (arXiv:2101.02722).
Beside it, everything follows from a seed, cameras of any direction turn
without poles, and what is changed for a picture is changed back after it, so
that the physics cannot depend on it.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rl.envs import clips as clips_lib
from rl.envs import levels
from runtime import optional

__all__ = ['Distractions', 'Painter', 'graded', 'orbit']

# Opacities of the floor; others have 0.3.
_GROUND = {'reacher': 0.0, 'walker': 1.0, 'cheetah': 1.0}
_SKYBOX = 2  # mjTEXTURE_SKYBOX
_FLOOR = 'grid'

Pose = tuple[Float[np.ndarray, ' 3'], Float[np.ndarray, '3 3']]


@dataclasses.dataclass(frozen=True)
class Distractions:
  """The changes of pictures; dynamics and rewards stay.

  At 0 a distraction is left out, and with all three at 0 pictures are the
  task's own, bit for bit. With scale s of colours or the camera:

  - color: to each material's red, green and blue a shift from U(-s, s), within
    [0, 1]. Dynamic: and N(0, (0.03 s)^2) per step, within the same range.
  - background: the sky becomes (1 - background) times itself plus background
    times a clip; the floor's opacity is multiplied by `ground`.
  - camera: it turns about what it looks at, by U(-s pi / 2, s pi / 2) to the
    side and upwards, not below the horizontal; rolls by as much; and has
    U(1 - s / 2, 1 + 3 s / 2) times its distance. Dynamic: velocities in
    space, in distances per step, are walks with N(0, (s / 40)^2) of norm at
    most s / 10, those of roll N(0, (s pi / 300)^2) of at most s pi / 50;
    all of it stops at its bounds. (The released code has 0.1 s and 0.4 s times
    a quarter of the distance.)

  Every episode draws a seed, from which all of it follows, whatever the
  actions are.

  Attributes:
    color: scale, in [0, 1].
    background: opacity of the clips, in [0, 1].
    camera: scale, in [0, 1].
    ground: in [0, 1], where there are backgrounds.
    dynamic: whether distractions change within an episode.
    clips: of the background.
    num_seeds: number of seeds; 0 for no limit.
    start_seed: the first one.

  Raises:
    ValueError: if a number or the range of seeds is wrong.
  """

  color: float = 0.0
  background: float = 0.0
  camera: float = 0.0
  ground: float = 1.0
  dynamic: bool = True
  clips: clips_lib.Clips = dataclasses.field(
    default_factory=clips_lib.Procedural
  )
  num_seeds: int = 0
  start_seed: int = 0

  def __post_init__(self) -> None:
    for name in ('color', 'background', 'camera', 'ground'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(
          f'{name} must be in [0, 1], got {name}={getattr(self, name)!r}'
        )
    levels.check_levels(self.num_seeds, self.start_seed)


def graded(domain: str, intensity: float, **settings: Any) -> Distractions:
  """The published distractions: intensity 0.1 is easy, 0.2 medium, 0.3 hard.

  Backgrounds hide the sky and, by domain, the floor at every intensity but 0;
  what is graded in them is their number, 4, 8 and all 60 of DAVIS's training
  clips: that is up to `clips`.

  Args:
    domain: of the suite, such as 'cheetah'.
    intensity: scale of colours and camera; 0: no distraction at all.
    **settings: of `Distractions`, such as dynamic or clips.

  Raises:
    ValueError: as `Distractions`.
  """
  defaults = {
    'color': intensity,
    'background': float(intensity > 0),
    'camera': intensity,
    'ground': _GROUND.get(domain, 0.3),
  }
  return Distractions(**{**defaults, **settings})


def orbit(pose: Pose, distance: float, turn: Float[np.ndarray, ' 4']) -> Pose:
  """A camera turned about the point it looks at.

  Args:
    pose: its position, and its axes as columns: right, up and backwards.
    distance: of the point.
    turn: to the side about the vertical and upwards, in radians; zoom - 1;
      roll, in radians. It does not go below the point, or its first height if
      that is lower.
  """
  position, axes = pose
  side, up, zoom, roll = turn
  height = np.arcsin(np.clip(axes[2, 2], -1.0, 1.0))
  up = max(up, min(height, 0.0) - height)
  # Upwards is backwards over its own right axis: no pole stands in the way.
  axes = _turned(2, side) @ axes @ _turned(0, -up)
  target = position - distance * pose[1][:, 2]
  moved = target + (1 + zoom) * distance * axes[:, 2]
  return moved, axes @ _turned(2, roll)


def _turned(axis: int, angle: float) -> Float[np.ndarray, '3 3']:
  """Rotation about an axis."""
  one, two = (axis + 1) % 3, (axis + 2) % 3
  matrix = np.eye(3)
  matrix[one, one] = matrix[two, two] = np.cos(angle)
  matrix[two, one], matrix[one, two] = np.sin(angle), -np.sin(angle)
  return matrix


class _Colors:
  """The colours of all materials, walking."""

  def __init__(
    self,
    scale: float,
    original: Float[np.ndarray, 'm 3'],
    random: np.random.Generator,
  ) -> None:
    self._low = np.clip(original - scale, 0, 1)
    self._high = np.clip(original + scale, 0, 1)
    self._spread, self._random = 0.03 * scale, random
    self.now = random.uniform(self._low, self._high)

  def advance(self) -> None:
    """One step of the walk."""
    step = self._spread * self._random.standard_normal(self.now.shape)
    self.now = np.clip(self.now + step, self._low, self._high)


class _Camera:
  """The present turn of a camera, as `orbit` takes it."""

  def __init__(
    self, scale: float, moving: bool, random: np.random.Generator
  ) -> None:
    wide = scale * np.pi / 2
    self._high = np.array([wide, wide, 1.5 * scale, wide])
    self._low = np.array([-wide, -wide, -0.5 * scale, -wide])
    self._scale, self._random = scale, random
    self.now = random.uniform(self._low, self._high)
    self._velocity = np.zeros(4)
    if moving:
      direction = random.standard_normal(3)
      direction *= random.uniform(0, scale / 10) / np.linalg.norm(direction)
      roll = random.uniform(-1, 1) * scale * np.pi / 50
      self._velocity = np.append(direction, roll)

  def advance(self) -> None:
    """One step with the velocity, which changes."""
    most = self._scale * np.array([1 / 10, np.pi / 50])
    push = self._random.standard_normal(4)
    push *= self._scale * np.array([1 / 40] * 3 + [np.pi / 300])
    velocity = self._velocity + push
    norm = np.linalg.norm(velocity[:3])
    velocity[:3] *= min(1, most[0] / max(norm, 1e-12))
    velocity[3] = np.clip(velocity[3], -most[1], most[1])
    # Across the line of sight, angles are lengths over the distance.
    lengths = np.array([1 + self.now[2], 1 + self.now[2], 1, 1])
    now = self.now + velocity / lengths
    now = np.clip(now, self._low, self._high)
    self._velocity, self.now = (now - self.now) * lengths, now


class Painter:
  """Draws the pictures of one simulator, distracted.

  Args:
    env: of dm_control's suite.
    distractions: which ones.
    size: pixels along each side.
    camera: its number.
    depth: the distance that is 255 in a fourth channel, in units of the model;
      None: no such channel.

  Raises:
    ValueError: if there is no sky or floor to change.
  """

  def __init__(
    self,
    env: Any,
    distractions: Distractions,
    *,
    size: int,
    camera: int,
    depth: float | None = None,
  ) -> None:
    self._env, self._settings = env, distractions
    self._size, self._camera_id, self._depth = size, camera, depth
    self._original = env.physics.model.mat_rgba.copy()
    self._sky = None
    if distractions.background:
      self._sky = _Sky(env.physics.model, 2 * size)
      names = env.physics.named.model.mat_rgba.axes.row.names
      if _FLOOR not in names:
        raise ValueError(
          f'backgrounds need a material {_FLOOR!r}, got only {names}'
        )
      self._floor = names.index(_FLOOR)
    self.seed(0)

  def seed(self, seed: int) -> None:
    """Sets the source of the seeds of all following episodes."""
    self._random = np.random.default_rng([0x0D15, seed])

  def begin(self) -> None:
    """Draws the distractions of an episode, which has just begun."""
    settings, physics = self._settings, self._env.physics
    number = levels.draw_on_host(
      self._random, settings.num_seeds, settings.start_seed
    )
    # One stream each, so that none depends on which others there are.
    streams = [np.random.default_rng([number, i]) for i in range(3)]
    self._time, self._shown = 0, None
    self._colors = _Colors(settings.color, self._original[:, :3], streams[0])
    self._camera = _Camera(settings.camera, settings.dynamic, streams[1])
    if self._sky is not None:
      self._clip = settings.clips.clip(
        streams[2], self._sky.size, settings.dynamic
      )
    away = physics.data.cam_xpos[self._camera_id] - physics.data.subtree_com[1]
    self._distance = float(np.linalg.norm(away))

  def advance(self) -> None:
    """One step later."""
    if self._settings.dynamic:
      self._time += 1
      self._colors.advance()
      self._camera.advance()

  def picture(self) -> UInt8[np.ndarray, 's s c']:
    """The present picture: red, green, blue, and depth if there is one."""
    physics, settings = self._env.physics, self._settings
    if self._sky is not None and self._shown != self._time:
      self._sky.show(physics, self._clip(self._time), settings.background)
      self._shown = self._time
    with self._changed(physics):
      draw = functools.partial(
        physics.render, self._size, self._size, camera_id=self._camera_id
      )
      color = draw()
      if self._depth is None:
        return color
      share = np.minimum(draw(depth=True) / self._depth, 1)
    far = np.rint(255 * share).astype(np.uint8)
    return np.concatenate([color, far[..., None]], axis=-1)

  @contextlib.contextmanager
  def _changed(self, physics: Any) -> Iterator[None]:
    """Colours, floor and camera, for as long as it takes to draw them."""
    colors = physics.model.mat_rgba
    position = physics.data.cam_xpos[self._camera_id]
    axes = physics.data.cam_xmat[self._camera_id]
    before = colors.copy(), position.copy(), axes.copy()
    if self._settings.color:
      colors[:, :3] = self._colors.now
    if self._sky is not None:
      colors[self._floor, 3] *= self._settings.ground
    if self._settings.camera:
      pose = position.copy(), axes.reshape(3, 3).copy()
      pose = orbit(pose, self._distance, self._camera.now)
      position[:], axes[:] = pose[0], pose[1].reshape(-1)
    try:
      yield
    finally:
      colors[:], position[:], axes[:] = before


class _Sky:
  """The cube around a model that is its background.

  Args:
    model: of the simulator; its sky is made smaller.
    most: pixels along each side, unless it has fewer.
  """

  def __init__(self, model: Any, most: int) -> None:
    found = np.flatnonzero(model.tex_type == _SKYBOX)
    if not found.size:
      raise ValueError(f'backgrounds need a sky, got {model.tex_type=}')
    self._texture = int(found[0])
    width = int(model.tex_width[self._texture])
    self.size = min(most, width)
    start = int(model.tex_adr[self._texture])
    faces = model.tex_data[start : start + 6 * 3 * width**2]
    faces = faces.reshape(6, width, width, 3)
    near = (np.arange(self.size) * width) // self.size
    self._faces = faces[:, near][:, :, near].astype(np.float32)
    self._data = slice(start, start + 6 * 3 * self.size**2)
    model.tex_width[self._texture] = self.size
    model.tex_height[self._texture] = 6 * self.size

  def show(
    self, physics: Any, picture: UInt8[np.ndarray, 's s 3'], opacity: float
  ) -> None:
    """Blends a picture into each side and loads it into the renderer."""
    faces = (1 - opacity) * self._faces + opacity * picture
    physics.model.tex_data[self._data] = np.rint(faces).reshape(-1)
    bindings = 'dm_control.mujoco.wrapper.mjbindings'
    library = optional.load(bindings, extra='rl').mjlib
    contexts = physics.contexts
    with contexts.gl.make_current() as context:
      context.call(
        library.mjr_uploadTexture,
        physics.model.ptr,
        contexts.mujoco.ptr,
        self._texture,
      )
