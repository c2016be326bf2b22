"""Exact attention where it is faster, linear attention elsewhere.

Exact attention costs lq * lk products per head, linear attention a multiple of
(lq + lk) * r. They are equal where the harmonic mean of the lengths,
2 lq lk / (lq + lk), is a certain multiple of r; for lq = lk it is the length at
which the curves cross. Below it, exact attention is both faster and without
error.

Reference: arXiv:2009.14794, sections 2.1 (cost) and 4.1 (crossover).
"""

import dataclasses

import jax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from performer.attention import calls, checks, exact
from performer.attention import favor as favor_lib
from performer.attention.sums import state as state_lib

__all__ = ['CROSSOVER', 'CROSSOVER_FEATURES', 'Auto', 'crossover', 'use_exact']

# Lengths by (backend, causal), for heads of width 64 and the features below.
# cpu: benchmarks/results/attention.json, against jax.nn.dot_product_attention:
# forward alone crosses at 390 and 500-540, with the backward pass at 256 or
# less and at 400-425. gpu: not measured; fused exact attention gains most from
# the hardware, users of random features report crossings near 18 d ln(d) = 4800
# tokens, and the figure keeps a margin. tpu: not measured, taken as gpu.
CROSSOVER = {
  ('cpu', False): 384,
  ('cpu', True): 512,
  ('gpu', False): 8192,
  ('gpu', True): 8192,
  ('tpu', False): 8192,
  ('tpu', True): 8192,
}
CROSSOVER_FEATURES = 256


def crossover(*, causal: bool, backend: str, features: int) -> int:
  """Length from which linear attention is the faster one.

  Args:
    causal: whether row i sees keys 0..i only.
    backend: 'cpu', 'gpu' or 'tpu', as `jax.default_backend` says.
    features: r; the cost of linear attention is proportional to it.

  Returns:
    The table's length for 256 features, scaled to r.

  Raises:
    ValueError: if the backend is not in the table.
  """
  if (backend, causal) not in CROSSOVER:
    known = sorted({name for name, _ in CROSSOVER})
    raise ValueError(
      f'no crossover is known for {backend=} (known: {known}); '
      'give Auto(exact_below=...)'
    )
  return CROSSOVER[backend, causal] * features // CROSSOVER_FEATURES


def use_exact(lq: int, lk: int, *, exact_below: int) -> bool:
  """The rule: exact if the harmonic mean of the lengths is below a threshold.

  Args:
    lq: number of queries.
    lk: number of keys.
    exact_below: the threshold; 0 means never.

  Returns:
    Whether to attend exactly.
  """
  return 2 * lq * lk < exact_below * (lq + lk)


@checks.named_options
@dataclasses.dataclass(frozen=True)
class Auto:
  """Chooses between exact and random-feature attention by length.

  The choice is made from shapes when a call is traced, so it costs nothing.
  `extend`, `summarize` and `read` are linear always, because only linear
  attention has a state: below the threshold, decoding equals a call to the
  approximation and not to this object.

  Attributes:
    favor: the linear mechanism; it must estimate the softmax kernel and
      normalise, so that both choices mean the same.
    exact_below: lengths below it are exact; None: `crossover` of the backend
      at hand. 0: never exact.

  Raises:
    ValueError: if the two mechanisms would compute different functions, or the
      threshold is negative.
  """

  favor: favor_lib.Favor = dataclasses.field(default_factory=favor_lib.Favor)
  exact_below: int | None = None

  def __post_init__(self) -> None:
    if not self.favor.spec.softmax or not self.favor.renormalize:
      raise ValueError(
        'auto mode exchanges exact softmax attention for its estimate, got '
        f'{self.favor.kernel=} {self.favor.renormalize=}'
      )
    below = self.exact_below
    if below is not None and not (checks.is_integer(below) and below >= 0):
      raise ValueError(f'exact_below must be an integer >= 0, got {below!r}')

  @property
  def redraw_every(self) -> int | None:
    """See the linear mechanism."""
    return self.favor.redraw_every

  @property
  def per_head(self) -> bool:
    """See the linear mechanism."""
    return self.favor.per_head

  def choose(
    self, lq: int, lk: int, *, causal: bool
  ) -> favor_lib.Favor | exact.Exact:
    """The mechanism that a call with these lengths uses.

    Args:
      lq: number of queries.
      lk: number of keys.
      causal: whether row i sees keys 0..i only.

    Returns:
      `Exact()` or the linear mechanism.
    """
    below = self.exact_below
    if below is None:
      below = crossover(
        causal=causal,
        backend=jax.default_backend(),
        features=self.favor.features,
      )
    return exact.Exact() if use_exact(lq, lk, exact_below=below) else self.favor

  def draw(
    self,
    key: Key[Array, ''],
    *,
    layer: int | Int[Array, ''],
    step: int | Int[Array, ''],
    num_heads: int,
    head_dim: int,
  ) -> PyTree:
    """Draws the projection of the linear mechanism; see `Favor.draw`."""
    return self.favor.draw(
      key, layer=layer, step=step, num_heads=num_heads, head_dim=head_dim
    )

  def __call__(
    self,
    q: Float[Array, 'b lq h d'],
    k: Float[Array, 'b lk h d'],
    v: Float[Array, 'b lk h v'],
    *,
    projection: PyTree,
    causal: bool,
    key_mask: Bool[Array, 'b lk'] | None = None,
    segment_ids: Int[Array, 'b lk'] | None = None,
  ) -> Float[Array, 'b lq h v']:
    """Attends; see `Favor`.

    Args:
      q: queries, unscaled.
      k: keys.
      v: values.
      projection: result of `draw`; required at every length, although
        exact attention does without, so that a model is right at all of them.
      causal: whether row i sees keys 0..i only.
      key_mask: True = keep.
      segment_ids: packed sequences: positions attend within runs of equal ids.

    Returns:
      Outputs in the dtype of v.

    Raises:
      ValueError: if ranks, shapes or dtypes disagree, or without projection.
    """
    if projection is None:
      raise ValueError('auto mode needs a projection (see draw), got None')
    calls.check_inputs(q, k, v, causal=causal, key_mask=key_mask)
    self.favor.check_projection(projection, q)
    mechanism = self.choose(q.shape[1], k.shape[1], causal=causal)
    if mechanism is not self.favor:
      projection = None
    packed = {} if segment_ids is None else {'segment_ids': segment_ids}
    return mechanism(
      q,
      k,
      v,
      projection=projection,
      causal=causal,
      key_mask=key_mask,
      **packed,
    )

  def extend(
    self,
    q: Float[Array, 'b l h d'],
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b l'] | None = None,
    segment_ids: Int[Array, 'b l'] | None = None,
    state: state_lib.State | None = None,
  ) -> tuple[Float[Array, 'b l h v'], state_lib.State]:
    """Continues causal attention from a state, linearly: `Favor.extend`."""
    return self.favor.extend(
      q,
      k,
      v,
      projection=projection,
      key_mask=key_mask,
      segment_ids=segment_ids,
      state=state,
    )

  def summarize(
    self,
    k: Float[Array, 'b l h d'],
    v: Float[Array, 'b l h v'],
    *,
    projection: PyTree,
    key_mask: Bool[Array, 'b l'] | None = None,
  ) -> state_lib.State:
    """Sums a source once, for `read`: `Favor.summarize`."""
    return self.favor.summarize(k, v, projection=projection, key_mask=key_mask)

  def read(
    self,
    q: Float[Array, 'b l h d'],
    state: state_lib.State,
    *,
    projection: PyTree,
  ) -> Float[Array, 'b l h v']:
    """Attends to the keys of a state, linearly: `Favor.read`."""
    return self.favor.read(q, state, projection=projection)
