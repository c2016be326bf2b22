"""The options of `favor.Favor`, and which of them exclude each other."""

import dataclasses
import math
import warnings

from performer.attention import checks, kernels, projections

__all__ = ['DTYPES', 'IMPLEMENTATIONS', 'STABILIZERS', 'Options']

STABILIZERS = ('online', 'reference', 'none')
DTYPES = ('float32', 'bfloat16', 'float16')
IMPLEMENTATIONS = ('auto', 'xla', 'fused')
_MIX_ROWS = 4
_UNBIASED = ('softmax_oprf', *kernels.HYBRIDS)


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of random-feature attention.

  Attributes:
    kernel: a name in `kernels.KERNELS`.
    features: r, the feature dimension (even where a row of the projection
      gives two features); None exactly if `projection` is False.
    projection: whether inputs are projected by a random matrix; a generalised
      kernel without it applies its function to queries and keys themselves.
    ortho: 'rorf', 'horf' or 'gorf', orthogonal blocks, or 'iid' rows.
    norm: norms of the rows, 'chi' (unbiased for the softmax kernel) or
      'sqrt_d' (regularised: smaller variance, small bias). None means what the
      kernel implies: 'sqrt_d' for *_reg, else 'chi'.
    per_head: whether each head has a matrix of its own.
    redraw_every: steps between redrawings; None keeps the first draw.
    stabilizer: 'online', exact and causal; 'none', features as they are, whose
      plain sums can be taken back (`performer.slim`) and which over- and
      underflow at large norms; or 'reference', the published rule with its epsilons, for
      comparison only: it reads the future and loses attention mass at large
      norms.
    renormalize: whether rows are divided by their denominators.
    kernel_epsilon: added to each feature of a generalised kernel, in units of
      the feature; None means 1e-3. Softmax kernels have none.
    chunk: positions per chunk; 64 is the fastest on a CPU, 128 fills the
      matrix units of a TPU.
    feature_dtype: dtype to which stabilised features are rounded; sums are
      float32 always.
    oprf_mean_square: mean of |x + y|^2 that softmax_oprf is made for, x and y
      being q and k times d**-0.25; for example a running mean. None takes it
      from the queries and keys of each call, which only a bidirectional call
      without segments or states can do.
    mix_rows: n, random rows that estimate the coefficient of a hybrid kernel;
      None means 4.
    mix_bandwidth: g of softmax_gaussian, whose coefficient is
      1 - exp(-g^2 |x - y|^2 / 2); None means 1.
    mix_shared: whether both parts of a hybrid kernel share their rows.
    implementation: of whole calls (states are always 'xla'): 'xla' on any
      device; 'fused', GPU kernels, for which the projection is a constant, or
      an error where `fused.choice.obstacle` names one; 'auto', 'fused' on the
      devices of `fused.FASTER_ON` where it can, else 'xla'.

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
  chunk: int = 64
  feature_dtype: str = 'float32'
  oprf_mean_square: float | None = None
  mix_rows: int | None = None
  mix_bandwidth: float | None = None
  mix_shared: bool = True
  implementation: str = 'auto'

  def __post_init__(self) -> None:
    kernel = kernels.get(self.kernel)
    checks.check_choice('ortho', self.ortho, projections.ORTHO)
    checks.check_choice('stabilizer', self.stabilizer, STABILIZERS)
    checks.check_choice('feature_dtype', self.feature_dtype, DTYPES)
    checks.check_choice('implementation', self.implementation, IMPLEMENTATIONS)
    if self.norm is not None:
      checks.check_choice('norm', self.norm, projections.NORMS)
    _check_projection(self, kernel)
    _check_kernel(self, kernel)
    _check_stabilizer(self, kernel)
    _check_estimator(self, kernel)
    _check_sizes(self)
    if kernel.signed:
      warnings.warn(
        'watch attention.bad_denominator_fraction: kernel '
        f'{self.kernel!r} has signed features, so denominators can be zero or '
        'negative',
        stacklevel=4,  # `__init__` of `Favor` is wrapped once.
      )

  @property
  def spec(self) -> kernels.Kernel:
    """The kernel, with the features per row that these options give it."""
    kernel = kernels.get(self.kernel)
    if kernel.structure != 'mixture':
      return kernel
    return kernel.mixed(self.coefficient_rows)

  @property
  def coefficient_rows(self) -> int | None:
    """Rows n of a hybrid's coefficient; None for other kernels."""
    if self.kernel not in kernels.HYBRIDS:
      return None
    return _MIX_ROWS if self.mix_rows is None else self.mix_rows

  @property
  def rows(self) -> int | None:
    """Rows m of the projection; None without one."""
    if not self.projection:
      return None
    return self.features // self.spec.copies


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
  if kernel.name in _UNBIASED and options.norm == 'sqrt_d':
    raise ValueError(
      f'kernel {options.kernel!r} implies norm chi, got {options.norm=}'
    )
  if kernel.softmax and options.kernel_epsilon is not None:
    raise ValueError(
      f'kernel {options.kernel!r} has no epsilon, got {options.kernel_epsilon=}'
    )
  if options.kernel_epsilon is not None and not options.kernel_epsilon >= 0:
    raise ValueError(
      f'kernel_epsilon must be >= 0, got {options.kernel_epsilon}'
    )


def _check_stabilizer(options: Options, kernel: kernels.Kernel) -> None:
  published = kernel.softmax and kernel.structure == 'matrix'
  if options.stabilizer == 'reference' and (
    not published or kernel.name == 'softmax_oprf'
  ):
    raise ValueError(
      "stabilizer='reference' is defined for softmax kernels with one map of "
      f'a matrix, got {options.kernel=}'
    )
  if options.stabilizer == 'reference' and not options.renormalize:
    raise ValueError(
      "stabilizer='reference' needs renormalize=True, because its sums have no "
      f'known unit, got {options.renormalize=}'
    )
  if options.stabilizer == 'none' and not kernel.log:
    raise ValueError(
      "stabilizer='none' is for kernels whose features are exponentials, got "
      f'{options.kernel=}'
    )
  stabilized = kernel.softmax or kernel.log
  stabilized = stabilized and options.stabilizer != 'none'
  if options.feature_dtype == 'float16' and not stabilized:
    raise ValueError(
      'features without a stabiliser overflow float16, got '
      f'{options.kernel=} {options.feature_dtype=}'
    )


def _check_estimator(options: Options, kernel: kernels.Kernel) -> None:
  """Checks the options that belong to one estimator."""
  hybrid = kernel.structure == 'mixture'
  owners = {
    'oprf_mean_square': kernel.name == 'softmax_oprf',
    'mix_rows': hybrid,
    'mix_bandwidth': kernel.name == 'softmax_gaussian',
  }
  for name, owned in owners.items():
    value = getattr(options, name)
    if value is not None and not owned:
      raise ValueError(
        f'kernel {options.kernel!r} has no {name}, got {name}={value!r}'
      )
  if not options.mix_shared and not hybrid:
    raise ValueError(
      f'kernel {options.kernel!r} is no hybrid, got {options.mix_shared=}'
    )
  for name in ('oprf_mean_square', 'mix_bandwidth'):
    value = getattr(options, name)
    if value is not None and not 0 < value < math.inf:
      raise ValueError(f'{name} must be positive and finite, got {value!r}')


def _check_sizes(options: Options) -> None:
  for name in ('features', 'redraw_every', 'chunk', 'mix_rows'):
    value = getattr(options, name)
    optional = name != 'chunk' and value is None
    if not optional and not checks.is_integer(value):
      raise ValueError(f'{name} must be an integer, got {value!r}')
  for name in ('chunk', 'mix_rows'):
    value = getattr(options, name)
    if value is not None and value < 1:
      raise ValueError(f'{name} must be positive, got {name}={value}')
  copies = options.spec.copies
  features = options.features
  if features is not None and (features < 1 or features % copies):
    n = options.coefficient_rows
    hybrid = '' if n is None else f' with mix_rows={n}'
    raise ValueError(
      f'features must be a positive multiple of {copies} for kernel '
      f'{options.kernel!r}{hybrid}, got {features=}'
    )
  if options.redraw_every is not None and options.redraw_every < 1:
    raise ValueError(
      f'redraw_every must be positive or None, got {options.redraw_every=}'
    )
