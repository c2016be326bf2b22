"""The renderer of MuJoCo."""

import os

__all__ = ['RendererError', 'choose_renderer']


class RendererError(RuntimeError):
  """Nothing can draw on this machine."""


def choose_renderer() -> None:
  """Without a display, lets MuJoCo draw by software.

  MUJOCO_GL is read when MuJoCo's renderer is first imported; it stays as it is
  where it is set.
  """
  if 'DISPLAY' not in os.environ:
    os.environ.setdefault('MUJOCO_GL', 'osmesa')
