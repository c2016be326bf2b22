"""The fifteen corruptions of MNIST-C, made anew for pictures of any size.

Lengths are parts of a picture's side s (the shorter one), so that 28x28 MNIST
and 8x8 digits are harmed alike. Ink is 1, paper 0; what moves in from outside
is paper. The strength at severities 1 to 5:

  name           what happens                      strength       1 ... 5
  -------------  --------------------------------  -------------  --------------
  identity       nothing                           -              -
  shot_noise     a Poisson count of light per      photons at     20, 10, 5, 3,
                 pixel                             full ink       1.5
  impulse_noise  pixels become ink or paper, at    part of the    .05, .1, .17,
                 even odds                         pixels         .25, .35
  glass_blur     blur, every pixel taken from      farthest side  .02, .03, .045,
                 nearby at random, blur            step / s       .06, .075
  motion_blur    mean along a line of random       length / s     .07, .13, .2,
                 direction                                        .27, .35
  shear          rows slide along, to a random     slope          .15, .3, .45,
                 side                                             .6, .75
  scale          shrinks about the centre          factor         .9, .8, .7,
                                                                  .6, .5
  rotate         turns about the centre, to a      radians        .15, .3, .45,
                 random side                                      .6, .8
  brightness     all pixels gain light             gain           .2, .35, .5,
                                                                  .6, .7
  translate      moves in a random direction       distance / s   .05, .1, .15,
                                                                  .2, .25
  stripe         ink and paper trade places in     width / w,     1/12, 1/6,
                 bands at the left and the right   whole pixels   1/4, 1/3, 5/12
  fog            a cloud of several scales takes   part of the    .3, .4, .5,
                 the place of light                light          .6, .7
  spatter        drops of one random grey cover    part covered   .05, .1, .15,
                                                                  .2, .3
  dotted_line    dots on a random straight line    radius / s     .005, .01, .02,
                                                                  .03, .04
  zigzag         a random line that goes to and    half width /   .005, .01, .02,
                 fro                               s              .03, .04
  canny_edges    only the contours, by Canny's     blur / s       .02, .03, .04,
                 method                                           .055, .07

Names and kinds are the benchmark's. The methods and the strengths are this
file's: numbers measured here stand beside published ones, not in their place.

Source: arXiv:1906.02337.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rl import ranges
from rl.odetoode.images import corruptions_draw as draw
from rl.odetoode.images import corruptions_light as light
from rl.odetoode.images import corruptions_warp as warp

__all__ = ['NAMES', 'SEVERITIES', 'corrupt']

SEVERITIES = (1, 2, 3, 4, 5)

_BLOCK = 1024  # Pictures at a time: bounds memory, changes no result.
_STREAMS = 4  # Random arrays that a corruption may draw.

_Function = Callable[..., np.ndarray]
_TABLE: dict[str, tuple[_Function, Sequence[Any]]] = {
  'shot_noise': (light.shot_noise, (20.0, 10.0, 5.0, 3.0, 1.5)),
  'impulse_noise': (light.impulse_noise, (0.05, 0.1, 0.17, 0.25, 0.35)),
  'glass_blur': (warp.glass_blur, (0.02, 0.03, 0.045, 0.06, 0.075)),
  'motion_blur': (warp.motion_blur, (0.07, 0.13, 0.2, 0.27, 0.35)),
  'shear': (warp.shear, (0.15, 0.3, 0.45, 0.6, 0.75)),
  'scale': (warp.scale, (0.9, 0.8, 0.7, 0.6, 0.5)),
  'rotate': (warp.rotate, (0.15, 0.3, 0.45, 0.6, 0.8)),
  'brightness': (light.brightness, (0.2, 0.35, 0.5, 0.6, 0.7)),
  'translate': (warp.translate, (0.05, 0.1, 0.15, 0.2, 0.25)),
  'stripe': (light.stripe, (1 / 12, 1 / 6, 1 / 4, 1 / 3, 5 / 12)),
  'fog': (draw.fog, (0.3, 0.4, 0.5, 0.6, 0.7)),
  'spatter': (draw.spatter, (0.05, 0.1, 0.15, 0.2, 0.3)),
  'dotted_line': (draw.dotted_line, (0.005, 0.01, 0.02, 0.03, 0.04)),
  'zigzag': (draw.zigzag, (0.005, 0.01, 0.02, 0.03, 0.04)),
  'canny_edges': (light.canny_edges, (0.02, 0.03, 0.04, 0.055, 0.07)),
}

NAMES = ('identity', *_TABLE)


def corrupt(
  images: Float[np.ndarray, 'n h w'],
  name: str,
  *,
  seed: int,
  severity: int = 3,
) -> Float[np.ndarray, 'n h w']:
  """Corrupts pictures; the table of this module explains the names.

  Picture i comes out as a function of itself, i, the name, the seed and the
  severity, whatever the other pictures are and however many.

  Args:
    images: float32, in [0, 1].
    name: one of `NAMES`.
    seed: of all randomness, >= 0.
    severity: 1 to 5; `identity` has only one.

  Returns:
    float32, in [0, 1], a new array.

  Raises:
    ValueError: the name or the severity is unknown, the seed negative, or the
      pictures are of another type, shape or range.
  """
  if name not in NAMES:
    raise ValueError(f'name must be one of {NAMES}, got {name=}')
  if severity not in SEVERITIES:
    raise ValueError(f'severity must be one of {SEVERITIES}, got {severity=}')
  ranges.check_counts(severity=severity)
  if seed < 0:
    raise ValueError(f'seed must be >= 0, got {seed=}')
  _check(images)
  if name == 'identity':
    return images.copy()
  function, strengths = _TABLE[name]
  # Every array that is drawn has its own stream and pictures along its first
  # axis. So picture i meets the same draws in any company and any block.
  streams = np.random.SeedSequence([seed, *name.encode()]).spawn(_STREAMS)
  rngs = [np.random.default_rng(stream) for stream in streams]
  result = np.empty_like(images)
  for start in range(0, len(images), _BLOCK):
    block = slice(start, start + _BLOCK)
    harmed = function(images[block], rngs, strengths[severity - 1])
    result[block] = np.clip(harmed, 0, 1)
  return result


def _check(images: Float[np.ndarray, 'n h w']) -> None:
  """Raises ValueError unless these are pictures."""
  if images.dtype != np.float32 or images.ndim != 3 or 0 in images.shape[1:]:
    raise ValueError(
      'images must be float32 [n, h, w] with h, w >= 1,'
      f' got {images.dtype} {images.shape}'
    )
  if images.size and not (images.min() >= 0 and images.max() <= 1):
    raise ValueError(
      'images must lie in [0, 1],'
      f' got values from {images.min()} to {images.max()}'
    )
