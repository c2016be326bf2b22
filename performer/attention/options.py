"""Which options of `favor.Favor` go together."""

import dataclasses
import warnings

from performer.attention import checks, kernels, projections

__all__ = ['DTYPES', 'STABILIZERS', 'Options']

STABILIZERS = ('online', 'reference')
DTYPES = ('float32', 'bfloat16', 'float16')


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of random-feature attention.

  Attributes:
    kernel: a name in `kernels.KERNELS`.
    features: r, the feature dimension (even where a row of the projection
      gives two features); None exactly if `projection` is False.
    projection: whether inputs are projected by a random matrix; a generalised
      kernel without it applies its function to queries and keys themselves.
    ortho: 'rorf', orthogonal blocks, or 'iid' rows.
    norm: norms of the rows, 'chi' (unbiased for the softmax kernel) or
      'sqrt_d' (regularised: smaller variance, small bias). None means what the
      kernel implies: 'sqrt_d' for *_reg, else 'chi'.
    per_head: whether each head has a matrix of its own.
    redraw_every: steps between redrawings; None keeps the first draw.
    stabilizer: 'online', exact and causal; or 'reference', the published rule
      with its epsilons, for comparison only: it reads the future and loses
      attention mass at large norms.
    renormalize: whether rows are divided by their denominators.
    kernel_epsilon: added to each feature of a generalised kernel, in units of
      the feature; None means 1e-3. Softmax kernels have none.
    chunk: positions per chunk, a power of two.
    feature_dtype: dtype to which stabilised features are rounded; sums are
      float32 always.

  Raises:
    ValueError: if an option is unknown, out of range or contradicts another.
  """

  kernel: str = 'softmax_hyp'
  features: int | None = 256
  projection: bool = True
  ortho: str = 'rorf'
  norm: str | None = None
  per_head: bool = False
  redraw_every: int | None = 1000
  stabilizer: str = 'online'
  renormalize: bool = True
  kernel_epsilon: float | None = None
  chunk: int = 128
  feature_dtype: str = 'float32'

  def __post_init__(self) -> None:
    kernel = kernels.get(self.kernel)
    checks.check_choice('ortho', self.ortho, projections.ORTHO)
    checks.check_choice('stabilizer', self.stabilizer, STABILIZERS)
    checks.check_choice('feature_dtype', self.feature_dtype, DTYPES)
    if self.norm is not None:
      checks.check_choice('norm', self.norm, projections.NORMS)
    _check_projection(self, kernel)
    _check_kernel(self, kernel)
    _check_sizes(self)
    if kernel.signed:
      warnings.warn(
        f'kernel {self.kernel!r} has signed features: denominators can be '
        'zero or negative; watch diagnostics.bad_denominator_fraction',
        stacklevel=3,
      )


def _check_projection(options: Options, kernel: kernels.Kernel) -> None:
  if options.projection and options.features is None:
    raise ValueError(
      f'kernel {options.kernel!r} with projection=True needs features, got None'
    )
  if options.projection:
    return
  if kernel.softmax:
    raise ValueError(f'kernel {options.kernel!r} needs projection=True')
  if options.features is not None:
    raise ValueError(
      'without a projection the features are those of the head; set '
      f'features=None, got {options.features=} {options.projection=}'
    )
  if options.ortho != 'rorf' or options.norm is not None or options.per_head:
    raise ValueError(
      'ortho, norm and per_head describe a projection, got '
      f'{options.projection=} {options.ortho=} {options.norm=} {options.per_head=}'
    )


def _check_kernel(options: Options, kernel: kernels.Kernel) -> None:
  if kernel.regularized and options.norm == 'chi':
    raise ValueError(
      f'kernel {options.kernel!r} implies norm sqrt_d, got {options.norm=}'
    )
  if kernel.softmax and options.kernel_epsilon is not None:
    raise ValueError(
      f'kernel {options.kernel!r} has no epsilon, got {options.kernel_epsilon=}'
    )
  if not kernel.softmax and options.stabilizer == 'reference':
    raise ValueError(
      "stabilizer='reference' is defined for softmax kernels, "
      f'got {options.kernel=}'
    )
  if options.kernel_epsilon is not None and not options.kernel_epsilon >= 0:
    raise ValueError(
      f'kernel_epsilon must be >= 0, got {options.kernel_epsilon}'
    )
  stabilized = kernel.softmax or kernel.log
  if options.feature_dtype == 'float16' and not stabilized:
    raise ValueError(
      'features without a stabiliser overflow float16, got '
      f'{options.kernel=} {options.feature_dtype=}'
    )


def _check_sizes(options: Options) -> None:
  for name in ('features', 'redraw_every', 'chunk'):
    value = getattr(options, name)
    optional = name != 'chunk' and value is None
    if not optional and (not isinstance(value, int) or value is True):
      raise ValueError(f'{name} must be an integer, got {value!r}')
  copies = kernels.get(options.kernel).copies
  features = options.features
  if features is not None and (features < 1 or features % copies):
    raise ValueError(
      f'features must be a positive multiple of {copies} for kernel '
      f'{options.kernel!r}, got {features=}'
    )
  if options.chunk < 1 or options.chunk & (options.chunk - 1):
    raise ValueError(f'chunk must be a power of two, got {options.chunk=}')
  if options.redraw_every is not None and options.redraw_every < 1:
    raise ValueError(
      f'redraw_every must be positive or None, got {options.redraw_every=}'
    )
