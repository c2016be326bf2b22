"""What every candidate operation of a cell offers, and how it is computed.

An operation serves all edges that leave one node. For T target nodes its
parameters have an axis of targets, and its result has one beside the channels:
[..., C] -> [..., T, C]. Every target has parameters of its own. An operation
without parameters is a `Feature`, computed once for all targets. Pictures are
padded so that a stride s turns H rows into ceil(H / s).

`weight`, one per target, multiplies the result. Operations that are linear in
their parameters, or positively homogeneous after such a one (ReLU), multiply the
parameters instead of the pictures. So weights must not be negative.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

__all__ = [
  'Feature',
  'Form',
  'Operation',
  'Parameter',
  'Params',
  'kernel',
  'zeros',
]

Params = Mapping[str, Array | np.ndarray]


class Form(NamedTuple):
  """How an operation is computed; static.

  Attributes:
    stride: of pictures, along both sides.
    products: whether convolutions are always products of patches. On a CPU choose
      them where `vmap` gives each network its own kernels; left to themselves these
      are products too, but with slower gradients.
  """

  stride: int = 1
  products: bool = False


class Parameter(NamedTuple):
  """Shape and first values of a parameter."""

  shape: tuple[int, ...]
  init: nn.initializers.Initializer


@runtime_checkable
class Operation(Protocol):
  """One candidate with parameters; a frozen dataclass."""

  def parameters(self, channels: int, targets: int) -> dict[str, Parameter]:
    """Parameters for T targets, by name; each with an axis T before the last."""

  def __call__(
    self,
    params: Params,
    x: Float[Array, '... c'],
    weight: Float[Array, ' t'],
    form: Form,
  ) -> Float[Array, '... t c']:
    """Applies the operation and multiplies by the weights."""


@runtime_checkable
class Feature(Protocol):
  """One candidate without parameters, the same for all targets."""

  def value(
    self, x: Float[Array, '... c'], stride: int
  ) -> Float[Array, '... c']:
    """Applies the operation, without weights."""


def kernel(shape: tuple[int, ...], fan_in: Sequence[int]) -> Parameter:
  """A kernel [..., T, C], at first of a truncated normal, variance 1 / fan in.

  Args:
    shape: the last two axes are targets and outputs.
    fan_in: axes of the inputs; the others that are left are receptive fields.
  """
  init = nn.initializers.variance_scaling(
    1.0,
    'fan_in',
    'truncated_normal',
    in_axis=fan_in,
    out_axis=(len(shape) - 2, len(shape) - 1),
  )
  return Parameter(shape, init)


def zeros(*shape: int) -> Parameter:
  """A bias."""
  return Parameter(shape, nn.initializers.zeros_init())
