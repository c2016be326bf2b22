"""The table of all kernels. A line here makes a kernel an option of `Favor`."""

import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from performer.attention import checks
from performer.attention.kernels import (
  activations,
  base,
  general,
  hybrids,
  oprf,
  positive,
  trigonometric,
)

__all__ = ['KERNELS', 'get']

_KERNELS: tuple[base.Kernel, ...] = (
  positive.Positive('softmax_pos'),
  positive.Positive('softmax_hyp', copies=2),
  positive.Regularized('softmax_pos_reg'),
  positive.Regularized('softmax_hyp_reg', copies=2),
  trigonometric.Trigonometric('softmax_trig'),
  oprf.Oprf('softmax_oprf'),
  general.General('softmax_general'),
  activations.Exponential('exp'),
  hybrids.Angular('softmax_angular'),
  hybrids.Gaussian('softmax_gaussian'),
  activations.Activation('relu', activation=jax.nn.relu),
  activations.Activation('sigmoid', activation=jax.nn.sigmoid),
  activations.Activation('abs', activation=jnp.abs),
  activations.Activation('requ', activation=activations.requ),
  activations.Activation('elu1', activation=activations.elu1),
  activations.Activation('square', activation=jnp.square),
  activations.Activation('tanh', activation=jnp.tanh, signed=True),
  activations.Activation('gelu', activation=activations.gelu, signed=True),
  activations.Activation('cos', activation=jnp.cos, signed=True),
  activations.Activation('sin', activation=jnp.sin, signed=True),
  activations.Activation(
    'identity', activation=activations.identity, signed=True
  ),
)

KERNELS: Mapping[str, base.Kernel] = types.MappingProxyType(
  {kernel.name: kernel for kernel in _KERNELS}
)


def get(name: str) -> base.Kernel:
  """Looks a kernel up.

  Args:
    name: a key of `KERNELS`.

  Returns:
    The kernel, with the defaults of its options.

  Raises:
    ValueError: if there is none, with the nearest names.
  """
  checks.check_choice('kernel', name, KERNELS)
  return KERNELS[name]
