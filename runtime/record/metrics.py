"""Metrics of training steps, collected without stalling the device.

A step returns a `clu.metrics.Collection` for its own batch. `pack` turns it
into one small vector inside the compiled step; `StepMetrics` keeps the vectors,
fetches them when a row is due, and merges them in order, so that a resumed run
writes the same numbers as one that was never stopped.
"""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics
from jaxtyping import Array, Float

__all__ = [
  'Average',
  'Latest',
  'NonFiniteError',
  'Packing',
  'Perplexity',
  'StepMetrics',
]


@flax.struct.dataclass
class Average(clu_metrics.Metric):
  """A weighted mean, kept as total and weight (both float32 scalars)."""

  total: Float[Array, '']
  weight: Float[Array, '']

  @classmethod
  def of(
    cls, values: Float[Array, '...'], weights: Float[Array, '...'] | None = None
  ) -> 'Average':
    """Mean of `values` under `weights` of the same shape (default: ones)."""
    values = jnp.asarray(values, jnp.float32)
    if weights is None:
      weights = jnp.ones_like(values)
    return cls(total=jnp.sum(values * weights), weight=jnp.sum(weights))

  @classmethod
  def empty(cls) -> 'Average':
    """The neutral element of `merge`."""
    return cls(total=jnp.float32(0), weight=jnp.float32(0))

  def merge(self, other: 'Average') -> 'Average':
    """Pools two means."""
    return type(self)(
      total=self.total + other.total, weight=self.weight + other.weight
    )

  def compute(self) -> Any:
    """The mean; NaN if all weights are 0."""
    with np.errstate(invalid='ignore', divide='ignore'):
      return self.total / self.weight


@flax.struct.dataclass
class Latest(clu_metrics.Metric):
  """The last value of a scalar, such as a counter or the best so far."""

  value: Any

  @classmethod
  def of(cls, value: Float[Array, ''] | float) -> 'Latest':
    """Of a number, in float32."""
    return cls(jnp.asarray(value, jnp.float32))

  def merge(self, other: 'Latest') -> 'Latest':
    """The later one."""
    return other

  def compute(self) -> Any:
    """The value."""
    return self.value


@flax.struct.dataclass
class Perplexity(Average):
  """exp of the weighted mean of negative log-likelihoods, in nats."""

  def compute(self) -> Any:
    """The perplexity; not clipped."""
    return np.exp(Average.compute(self))


class NonFiniteError(FloatingPointError):
  """A step gave a metric that is not finite."""


class Packing:
  """How a metric collection lies in one float32 vector.

  Learnt when the step is traced; the same object then unpacks on the host.
  """

  def __init__(self) -> None:
    self._treedef: Any = None
    self._dtypes: list[np.dtype] = []

  def pack(self, collection: clu_metrics.Collection) -> Float[Array, ' n']:
    """Packs scalar leaves, in the order of the tree (traced)."""
    leaves, self._treedef = jax.tree.flatten(collection)
    if any(jnp.ndim(leaf) for leaf in leaves):
      shapes = [jnp.shape(leaf) for leaf in leaves]
      raise ValueError(f'step metrics must be made of scalars, got {shapes}')
    self._dtypes = [jnp.result_type(leaf) for leaf in leaves]
    return jnp.stack([jnp.asarray(leaf, jnp.float32) for leaf in leaves])

  def unpack(self, vector: np.ndarray) -> clu_metrics.Collection:
    """The inverse of `pack`, with numpy leaves."""
    leaves = [
      dtype.type(value)
      for dtype, value in zip(self._dtypes, vector, strict=True)
    ]
    return jax.tree.unflatten(self._treedef, leaves)

  def to_vector(self, collection: clu_metrics.Collection) -> np.ndarray:
    """As `pack`, on the host."""
    return np.asarray(jax.tree.leaves(collection), np.float32)


class StepMetrics:
  """The metrics of the steps since the last row."""

  def __init__(self, packing: Packing, saved: list[float] | None = None):
    """Starts empty, or from the `state()` of an earlier process."""
    self._packing = packing
    self._pending: list[tuple[int, jax.Array]] = []
    self._merged: np.ndarray | None = None
    if saved is not None:
      self._merged = np.asarray(saved, np.float32)

  def add(self, step: int, vector: jax.Array) -> None:
    """Notes the metrics of one step; starts their way to the host."""
    vector.copy_to_host_async()
    self._pending.append((step, vector))

  def drain(self) -> None:
    """Waits for all noted steps and merges them, in order.

    Raises:
      NonFiniteError: if a metric of a step is not finite.
    """
    if not self._pending:
      return
    rows = np.stack([np.asarray(vector) for _, vector in self._pending])
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
      first = int(np.argmin(finite))
      self._raise(self._pending[first][0], rows[first])
    total = None if self._merged is None else self._packing.unpack(self._merged)
    for row in rows:
      update = self._packing.unpack(row)
      total = update if total is None else total.merge(update)
    self._merged = self._packing.to_vector(total)
    self._pending.clear()

  def _raise(self, step: int, row: np.ndarray) -> None:
    values = self._packing.unpack(row).compute()
    bad = {k: float(v) for k, v in values.items() if not np.isfinite(v)}
    raise NonFiniteError(f'step {step} gave metrics that are not finite: {bad}')

  def pop(self) -> Mapping[str, float]:
    """Metrics over all steps since the last `pop`; forgets them.

    Metrics without a sample are left out, such as returns when no episode ended.
    """
    self.drain()
    if self._merged is None:
      return {}
    values = self._packing.unpack(self._merged).compute()
    self._merged = None
    return {
      name: float(value)
      for name, value in values.items()
      if not np.isnan(value)
    }

  def state(self) -> list[float] | None:
    """The part of an unfinished row that a checkpoint must keep."""
    self.drain()
    return None if self._merged is None else [float(x) for x in self._merged]
