"""Pixels of dm_control's suite, rendered by software or a GPU.

From states the same tasks are EnvPool's (`envpool_env.EnvPoolVector`), which is
much faster; its own pixels need a GL loader that fails without a display.
"""

import concurrent.futures
import os
from typing import Any

import numpy as np
from jaxtyping import Shaped

from rl import ranges
from rl.envs import (
  foreign_spaces,
  host_vector,
  mujoco_distractions,
  rendering,
  spaces,
)
from runtime import optional

__all__ = ['DmControlPixels', 'draw_fast']


class DmControlPixels(host_vector.HostVector):
  """Lanes of one task, each a simulator; pictures are uint8.

  They are RGB, [size, size, 3], or with `depth` RGB-D, [size, size, 4].

  The step after an end shows the new episode and is not `valid`. Suite tasks
  end by their time limit, which truncates; where a task itself ends an episode
  (its discount is 0) it terminates.

  Pictures are drawn without shadows, reflections and antialiasing, which takes
  a fifth of the time; they differ a little from the suite's own. Without
  `fast`, they are the suite's.

  MUJOCO_GL chooses the renderer and is read when dm_control is first imported;
  where it is unset and there is no display, it is set to 'osmesa' here, which
  needs no GPU. With one, set it to 'egl'.

  Args:
    domain: of the suite, such as 'cheetah'.
    task: of the domain, such as 'run'.
    num_lanes: n.
    size: pixels along each side.
    camera: its number.
    action_repeat: simulator steps per step, whose rewards are summed.
    depth: the distance from the camera that is 255 in the fourth channel, in
      the model's units, metres in the suite; what is farther is 255 too. Each
      picture is then drawn twice. None: no such channel.
    fast: see above.
    distractions: changes of colours, background and camera, which advance with
      every simulator step; None: none.
    num_threads: over which lanes are spread; None: one per core.

  Raises:
    ImportError: if dm_control is not installed, naming the extra.
    ValueError: if a number is not positive, or the model has nothing that
      could be distracted.
  """

  def __init__(
    self,
    domain: str,
    task: str,
    num_lanes: int,
    *,
    size: int = 64,
    camera: int = 0,
    action_repeat: int = 1,
    depth: float | None = None,
    fast: bool = True,
    distractions: mujoco_distractions.Distractions | None = None,
    num_threads: int | None = None,
  ) -> None:
    threads = num_threads or min(num_lanes, os.cpu_count() or 1)
    ranges.check_counts(
      num_lanes=num_lanes,
      size=size,
      action_repeat=action_repeat,
      num_threads=threads,
    )
    if depth is not None:
      ranges.check_positive(depth=depth)
    self.picture_channels = 3 if depth is None else 4
    rendering.choose_renderer()
    suite = optional.load('dm_control.suite', extra='rl')
    self._repeat = action_repeat
    self._envs = [suite.load(domain, task) for _ in range(num_lanes)]
    if fast:
      for env in self._envs:
        draw_fast(env.physics.model, size)
    distractions = distractions or mujoco_distractions.Distractions()
    self._painters = [
      mujoco_distractions.Painter(
        env, distractions, size=size, camera=camera, depth=depth
      )
      for env in self._envs
    ]
    # A GL context belongs to the thread that made it.
    self._threads = [
      concurrent.futures.ThreadPoolExecutor(1) for _ in range(threads)
    ]
    spec = self._envs[0].action_spec()
    super().__init__(
      num_lanes=num_lanes,
      observation_space=spaces.pixels(size, self.picture_channels),
      action_space=foreign_spaces.convert(_ActionSpace(spec)),
      resets_at_once=False,
    )

  def _spread(self, run: Any, *arguments: Any) -> list[Any]:
    """Calls in all lanes, each in its thread."""
    jobs = [
      self._threads[i % len(self._threads)].submit(run, *values)
      for i, values in enumerate(
        zip(self._envs, self._painters, *arguments, strict=True)
      )
    ]
    return [job.result() for job in jobs]

  def _reset(self, seeds: list[int]) -> Any:
    return np.stack(self._spread(self._begin, seeds))

  def _begin(
    self, env: Any, painter: mujoco_distractions.Painter, seed: int
  ) -> np.ndarray:
    env.task.random.seed(seed)
    env.reset()
    painter.seed(seed)
    painter.begin()
    return painter.picture()

  def _step(self, action: Shaped[np.ndarray, 'n ...']) -> host_vector.Seen:
    rows = self._spread(self._advance, action.astype(np.float64))
    observation, reward, ended, discount = map(
      np.stack, zip(*rows, strict=True)
    )
    terminated = ended & (discount == 0)
    return host_vector.Seen(
      observation, reward, terminated, ended & ~terminated, {}
    )

  def _advance(
    self,
    env: Any,
    painter: mujoco_distractions.Painter,
    action: np.ndarray,
  ) -> tuple[Any, ...]:
    total = 0.0
    for _ in range(self._repeat):
      now = env.step(action)
      # None where the step resets.
      total += now.reward or 0.0
      if now.first():
        painter.begin()
      else:
        painter.advance()
      if now.first() or now.last():
        break
    discount = 1.0 if now.discount is None else now.discount
    return painter.picture(), total, now.last(), discount

  def _close(self) -> None:
    """Simulators and threads."""
    self._spread(lambda env, painter: env.close())
    # Contexts that outlive their threads complain when Python ends.
    self._envs, self._painters = [], []
    for thread in self._threads:
      thread.shutdown()


class _ActionSpace:
  """A bounded array of dm_env, by the attributes of a Gymnasium box."""

  def __init__(self, spec: Any) -> None:
    self.shape, self.dtype = spec.shape, spec.dtype
    self.low, self.high = (
      np.broadcast_to(bound, spec.shape)
      for bound in (spec.minimum, spec.maximum)
    )


def draw_fast(model: Any, size: int) -> None:
  """Without shadows, reflections and antialiasing; before the first picture.

  Args:
    model: MuJoCo's, or dm_control's of it.
    size: pixels along each side.
  """
  model.vis.quality.shadowsize = 0
  model.vis.quality.offsamples = 0
  model.vis.global_.offwidth = size
  model.vis.global_.offheight = size
  model.mat_reflectance[:] = 0
