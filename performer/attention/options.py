"""The options of `favor.Favor`, and what follows from them alone.

Letters: b batch, h heads, d width of a key, v of a value, m rows of the
projection.
"""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from performer.attention import checks
from performer.attention.kernels import base, projections, structures, table
from performer.attention.sums import state as state_lib

__all__ = ['DTYPES', 'IMPLEMENTATIONS', 'STABILIZERS', 'Options']

STABILIZERS = ('online', 'reference', 'none')
DTYPES = ('float32', 'bfloat16', 'float16')
IMPLEMENTATIONS = ('auto', 'xla', 'fused')


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of random-feature attention.

  Attributes:
    kernel: a name in `attention.KERNELS`.
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
    checks.check_choice('ortho', self.ortho, projections.ORTHO)
    checks.check_choice('stabilizer', self.stabilizer, STABILIZERS)
    checks.check_choice('feature_dtype', self.feature_dtype, DTYPES)
    checks.check_choice('implementation', self.implementation, IMPLEMENTATIONS)
    if self.norm is not None:
      checks.check_choice('norm', self.norm, projections.NORMS)
    # Here, so that the calls of the mechanism look nothing up.
    kernel = self.spec
    _check_projection(self, kernel)
    _check_stabilizer(self, kernel)
    _check_sizes(self, kernel)
    if kernel.signed:
      warnings.warn(
        'watch attention.bad_denominator_fraction: kernel '
        f'{self.kernel!r} has signed features, so denominators can be zero or '
        'negative',
        stacklevel=4,  # `__init__` of `Favor` is wrapped once.
      )

  def __getstate__(self) -> dict[str, Any]:
    # Without what is derived: the functions of some kernels have no pickle.
    fields = dataclasses.fields(self)
    return {field.name: getattr(self, field.name) for field in fields}

  @functools.cached_property
  def spec(self) -> base.Kernel:
    """The kernel, with the options that it has."""
    kernel = table.get(self.kernel)
    if not (self.mix_shared or hasattr(kernel, 'mix_shared')):
      raise ValueError(
        f'kernel {self.kernel!r} is no hybrid, got {self.mix_shared=}'
      )
    return kernel.with_options(
      norm=self.norm,
      kernel_epsilon=self.kernel_epsilon,
      oprf_mean_square=self.oprf_mean_square,
      mix_rows=self.mix_rows,
      mix_bandwidth=self.mix_bandwidth,
      mix_shared=None if self.mix_shared else False,
    )

  @functools.cached_property
  def rows(self) -> int | None:
    """Rows m of the projection; None without one."""
    if not self.projection:
      return None
    return self.features // self.spec.copies

  @property
  def plain_sums(self) -> bool:
    """Whether states are plain sums, without a running maximum as unit."""
    direct = not (self.spec.log or self.spec.softmax)
    return self.stabilizer == 'none' or direct

  def draw(
    self,
    key: Key[Array, ''],
    *,
    layer: int | Int[Array, ''],
    step: int | Int[Array, ''],
    num_heads: int,
    head_dim: int,
  ) -> structures.Projection | None:
    """Draws the projection of a layer at a step.

    A pure function of its arguments, hence the same on every replica and after
    a restart; it changes when step // redraw_every does. Layer and step may be
    traced (under vmap, lax.cond). For evaluation and decoding pass the last
    training step.

    Args:
      key: the run's key for projections.
      layer: index of the layer; layers draw independently.
      step: training step, >= 0.
      num_heads: h.
      head_dim: d.

    Returns:
      W, float32, [m, d] or (per_head) [h, m, d]; a pytree of `structures` for
      'horf', hybrids and softmax_general; None without a projection.

    Raises:
      ValueError: if a number is negative, or a size not positive.

    Reference: arXiv:2009.14794, sections 4.3 and D.2.
    """
    checks.check_least(0, layer=layer, step=step)
    checks.check_least(1, num_heads=num_heads, head_dim=head_dim)
    if not self.projection:
      return None
    epoch = 0 if self.redraw_every is None else step // self.redraw_every
    key = jax.random.fold_in(jax.random.fold_in(key, layer), epoch)
    if not self.per_head:
      return self._draw(key, head_dim)
    keys = jax.random.split(key, num_heads)
    return jax.vmap(lambda key: self._draw(key, head_dim))(keys)

  def _draw(self, key: Array, size: int) -> structures.Projection:
    """Draws one projection, independent of layer and step."""

    def draw(key: Array, rows: int, *, few: bool = False) -> structures.Matrix:
      # Of few rows the structured matrices have nothing to save.
      ortho = 'rorf' if few and self.ortho != 'iid' else self.ortho
      return projections.draw(key, rows, size, ortho=ortho, norm=self.spec.norm)

    return self.spec.draw(draw, key, self.rows, size)

  def empty_state(
    self,
    *,
    batch: int,
    num_heads: int,
    head_dim: int,
    value_dim: int | None = None,
    dtype: Any = jnp.float32,
  ) -> state_lib.State:
    """The state of no keys, which `extend` takes for None.

    Args:
      batch: b.
      num_heads: h.
      head_dim: d, width of a query or key.
      value_dim: v, width of a value; None: d.
      dtype: of the inputs; the state is float32, or float64 for float64.

    Returns:
      A state with sums of zero, [b, h, v, r] and [b, h, r].

    Raises:
      ValueError: with the reference stabiliser, which has no state.
    """
    self.check_has_state()
    like = jnp.zeros((batch, num_heads, value_dim or head_dim), dtype)
    log = self.spec.log and self.stabilizer == 'online'
    count = self.features if self.projection else head_dim
    state = state_lib.empty(like, count, like.shape[-1], log)
    if not self.plain_sums:
      return state
    # In the unit that all its keys will have, so that it has a gradient.
    return state._replace(c=jnp.zeros_like(state.c))

  def check_has_state(self) -> None:
    """Refuses states of the reference stabiliser.

    Raises:
      ValueError: if it is that.
    """
    if self.stabilizer == 'reference':
      raise ValueError(
        "stabilizer='reference' needs all keys at once, so it has no state"
      )

  def check_separable(self) -> None:
    """Refuses packed sequences where one would depend on another.

    Raises:
      ValueError: naming what couples them.
    """
    if self.stabilizer == 'reference':
      raise ValueError(
        "stabilizer='reference' excludes segment_ids, because its maximum "
        'couples segments'
      )
    if self.spec.needs_all:
      raise ValueError(
        'segment_ids need a number as oprf_mean_square, because a mean square '
        'measured over a row couples its sequences, got '
        f'{self.oprf_mean_square=}'
      )


def _check_projection(options: Options, kernel: base.Kernel) -> None:
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


def _check_stabilizer(options: Options, kernel: base.Kernel) -> None:
  if options.stabilizer == 'reference' and not kernel.published:
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


def _check_sizes(options: Options, kernel: base.Kernel) -> None:
  for name in ('features', 'redraw_every', 'chunk'):
    value = getattr(options, name)
    optional = name != 'chunk' and value is None
    if not optional and not checks.is_integer(value):
      raise ValueError(f'{name} must be an integer, got {value!r}')
  if options.chunk < 1:
    raise ValueError(f'chunk must be positive, got chunk={options.chunk}')
  copies, features = kernel.copies, options.features
  if features is not None and (features < 1 or features % copies):
    n = getattr(kernel, 'mix_rows', None)
    hybrid = '' if n is None else f' with mix_rows={n}'
    raise ValueError(
      f'features must be a positive multiple of {copies} for kernel '
      f'{options.kernel!r}{hybrid}, got {features=}'
    )
  if options.redraw_every is not None and options.redraw_every < 1:
    raise ValueError(
      f'redraw_every must be positive or None, got {options.redraw_every=}'
    )
