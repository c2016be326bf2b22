"""Which options of `favor.Favor` go together."""

from typing import TYPE_CHECKING

from performer.attention import checks, kernels, projections

if TYPE_CHECKING:
  from performer.attention import favor as favor_lib

__all__ = ['DTYPES', 'STABILIZERS', 'check']

STABILIZERS = ('online', 'reference')
DTYPES = ('float32', 'bfloat16', 'float16')


def check(favor: 'favor_lib.Favor') -> None:
  """Rejects options that are unknown, out of range or contradictory.

  Args:
    favor: the options.

  Raises:
    ValueError: naming the options and the rule.
  """
  kernel = kernels.get(favor.kernel)
  checks.check_choice('ortho', favor.ortho, projections.ORTHO)
  checks.check_choice('stabilizer', favor.stabilizer, STABILIZERS)
  checks.check_choice('feature_dtype', favor.feature_dtype, DTYPES)
  if favor.norm is not None:
    checks.check_choice('norm', favor.norm, projections.NORMS)
  _check_projection_options(favor, kernel)
  _check_kernel_options(favor, kernel)
  _check_sizes(favor)


def _check_projection_options(
  favor: 'favor_lib.Favor', kernel: kernels.Kernel
) -> None:
  if favor.projection and favor.features is None:
    raise ValueError(
      f'kernel {favor.kernel!r} with projection=True needs features, got None'
    )
  if favor.projection:
    return
  if kernel.softmax:
    raise ValueError(f'kernel {favor.kernel!r} needs projection=True')
  if favor.features is not None:
    raise ValueError(
      'without a projection the features are those of the head; set '
      f'features=None, got {favor.features=} {favor.projection=}'
    )
  if favor.ortho != 'rorf' or favor.norm is not None or favor.per_head:
    raise ValueError(
      'ortho, norm and per_head describe a projection, got '
      f'{favor.projection=} {favor.ortho=} {favor.norm=} {favor.per_head=}'
    )


def _check_kernel_options(
  favor: 'favor_lib.Favor', kernel: kernels.Kernel
) -> None:
  if kernel.regularized and favor.norm == 'chi':
    raise ValueError(
      f'kernel {favor.kernel!r} implies norm sqrt_d, got {favor.norm=}'
    )
  if kernel.softmax and favor.kernel_epsilon is not None:
    raise ValueError(
      f'kernel {favor.kernel!r} has no epsilon, got {favor.kernel_epsilon=}'
    )
  if not kernel.softmax and favor.stabilizer == 'reference':
    raise ValueError(
      "stabilizer='reference' is defined for softmax kernels, "
      f'got {favor.kernel=}'
    )
  if favor.kernel_epsilon is not None and not favor.kernel_epsilon >= 0:
    raise ValueError(f'kernel_epsilon must be >= 0, got {favor.kernel_epsilon}')
  stabilized = kernel.softmax or kernel.log
  if favor.feature_dtype == 'float16' and not stabilized:
    raise ValueError(
      'features without a stabiliser overflow float16, got '
      f'{favor.kernel=} {favor.feature_dtype=}'
    )


def _check_sizes(favor: 'favor_lib.Favor') -> None:
  copies = kernels.get(favor.kernel).copies
  features = favor.features
  if features is not None and (features < 1 or features % copies):
    raise ValueError(
      f'features must be a positive multiple of {copies} for kernel '
      f'{favor.kernel!r}, got {features=}'
    )
  if favor.chunk < 1 or favor.chunk & (favor.chunk - 1):
    raise ValueError(f'chunk must be a power of two, got {favor.chunk=}')
  if favor.redraw_every is not None and favor.redraw_every < 1:
    raise ValueError(
      f'redraw_every must be positive or None, got {favor.redraw_every=}'
    )
