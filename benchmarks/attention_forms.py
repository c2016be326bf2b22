"""Implementations of attention: ours, exact attention, other Performers.

An implementation says how it is called, what it should compute (a float64
definition that is quadratic in the length) and what it needs. Packages of
others are imported when they are asked for.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import attention_definitions as definitions
from benchmarks import programs
from performer import attention

OURS = ('ours pos', 'ours hyp')
TORCH = ('torch sdpa', 'performer-pytorch', 'flash-linear-attention')
PEERS = ('published JAX', *TORCH)  # They need packages of others.
NAMES = (*OURS, 'jax.nn exact', 'identity', *PEERS)
KINDS = {  # `causal` and `backward`, by direction and passes.
  'bidirectional forward': (False, False),
  'bidirectional forward+backward': (False, True),
  'causal forward': (True, False),
  'causal forward+backward': (True, True),
}
_ANY_KIND = {'causal': False, 'backward': False, 'length': 1}
Attend = Callable[[Any, Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """The case: one pass over batch x length x heads x width arrays."""

  causal: bool  # Whether row i sees keys 0..i only.
  backward: bool  # With gradients in q, k, v; or forward alone.
  length: int  # L, of queries and keys.
  batch: int = 1  # B.
  heads: int = 8  # H.
  width: int = 64  # d, of keys and values.
  features: int = 256  # r, of linear forms.
  dtype: str = 'float32'  # Of inputs and outputs.

  def __str__(self) -> str:
    kinds = {flags: name for name, flags in KINDS.items()}
    return f'{kinds[self.causal, self.backward]} L={self.length}'

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """Shape of q, k and v, [B, L, H, d]."""
    return self.batch, self.length, self.heads, self.width

  def inputs(self, seed: int, scale: float) -> tuple[np.ndarray, ...]:
    """Queries and keys N(0, scale^2), values and cotangents N(0, 1)."""
    rng = np.random.default_rng(seed)
    q, k, v, g = rng.standard_normal((4, *self.shape), np.float32)
    return q * np.float32(scale), k * np.float32(scale), v, g


@dataclasses.dataclass(frozen=True)
class Implementation:
  """The calls of one implementation of attention."""

  framework: str  # 'jax' or 'torch'.
  attend: Callable[[bool], Attend]  # Given `causal`, of (q, k, v).
  # The same in float64: (q, k, v, causal) in [b, l, h, d] to outputs.
  definition: Callable[..., jax.Array]
  linear: bool  # Whether time is linear in the length.
  # Of ours, for FLOPs: m of the projection, and positions of a causal chunk.
  rows: int = 0
  chunk: int = 0
  # Of memory at its worst, to leave out what does not fit.
  bytes_needed: Callable[[Case], int] = lambda case: 0
  heads_first: bool = False  # Whether arrays are [b, h, l, d].
  prepare: Callable[..., tuple] | None = None  # Of (q, k, v), before the time.

  def flops(self, case: Case) -> float:
    """Products that a linear form needs, 2 per multiplication and addition.

    Projections of q and k, K'^T V and Q' (K'^T V); causal ones also the two
    products inside chunks. The gradient costs twice the forward part, but once
    for projections, as W needs none. Recomputation is not counted.
    """
    length, d, r = case.length, case.width, case.features
    project, rest = 4 * length * self.rows * d, 4 * length * r * d
    if case.causal:
      rest += 2 * length * min(self.chunk, length) * (r + d)
    times = (2, 3) if case.backward else (1, 1)
    heads = case.batch * case.heads
    return heads * (times[0] * project + times[1] * rest)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  lengths: tuple[int, ...] = tuple(2**n for n in range(8, 15))
  compile_lengths: tuple[int, ...] = (65536,)  # Gradients of ours, not run.
  kinds: tuple[str, ...] = tuple(KINDS)
  forms: tuple[str, ...] = NAMES
  batch: int = 1
  heads: int = 8
  width: int = 64
  features: int = 256
  dtype: str = 'float32'
  scale: float = 1.0  # Standard deviation of q and k while timing.
  error_scales: tuple[float, ...] = (0.25, 0.5, 1.0)  # And for the errors.
  matmul: int = 2048  # Rows of the product that tells the machine's rate.
  # A form whose call should last longer or that needs more is left out.
  call_seconds: float = 15.0
  memory_bytes: int = 6 * 2**30

  def case(self, causal: bool, backward: bool, length: int) -> Case:
    """The case of a kind and length."""
    names = ('batch', 'heads', 'width', 'features', 'dtype')
    return Case(causal, backward, length, *(getattr(self, n) for n in names))


def make(name: str, case: Case) -> Implementation:
  """Makes an implementation for heads, width, features and dtype of a case.

  Raises:
    MissingError: if the peer cannot run here.
    ValueError: if the name is unknown.
  """
  if name not in NAMES:
    raise ValueError(f'unknown form {name!r} (known: {NAMES})')
  return _made(name, dataclasses.replace(case, **_ANY_KIND))


@functools.cache
def _made(name: str, case: Case) -> Implementation:
  makers: dict[str, Callable[[Case], Implementation]] = {
    'ours pos': functools.partial(_favor, 'softmax_pos'),
    'ours hyp': functools.partial(_favor, 'softmax_hyp'),
    'jax.nn exact': _exact,
    'identity': _identity,
    'published JAX': _recipe,
    'torch sdpa': _sdpa,
    'performer-pytorch': _performer_pytorch,
    'flash-linear-attention': _fla,
  }
  return makers[name](case)


def _favor(kernel: str, case: Case) -> Implementation:
  """Ours, with a kernel at r = `case.features`."""
  favor = attention.Favor(kernel=kernel, features=case.features)
  sizes = {'num_heads': case.heads, 'head_dim': case.width}
  w = favor.draw(jax.random.key(0), layer=0, step=0, **sizes)
  return Implementation(
    'jax',
    lambda causal: functools.partial(favor, projection=w, causal=causal),
    functools.partial(definitions.favor, w=np.asarray(w), kernel=kernel),
    linear=True,
    rows=w.shape[0],
    chunk=favor.chunk,
  )


def _exact(case: Case) -> Implementation:
  """On a GPU in half precision it is cuDNN's, which keeps no logits."""
  half = case.dtype != 'float32' and jax.default_backend() == 'gpu'
  attend = functools.partial(
    jax.nn.dot_product_attention, implementation='cudnn' if half else None
  )

  def needed(case: Case) -> int:
    # Logits and weights, and for the gradient their cotangents, in float32.
    pairs = case.batch * case.heads * case.length**2
    return 0 if half else pairs * 4 * (4 if case.backward else 2)

  return Implementation(
    'jax',
    lambda causal: functools.partial(attend, is_causal=causal),
    definitions.exact,
    linear=False,
    bytes_needed=needed,
  )


def _identity(case: Case) -> Implementation:
  """A copy, lest the compiler return its argument: the least that can be done."""
  del case
  copy = lambda q, k, v: jnp.copy(v)
  return Implementation(
    'jax', lambda causal: copy, lambda q, k, v, causal: v, linear=True
  )


def _recipe(case: Case) -> Implementation:
  module = programs.peer('fast_attention')

  @functools.cache
  def make_one(causal: bool) -> Attend:
    # Without its redrawing at each call, which would add a QR factorisation.
    return module.make_fast_softmax_attention(
      case.width,
      nb_features=case.features,
      unidirectional=causal,
      redraw_features=False,
      lax_scan_unroll=1 if jax.default_backend() == 'cpu' else 16,
    )

  w = np.asarray(make_one(True).__self__.projection_matrix)
  return Implementation(
    'jax',
    make_one,
    functools.partial(
      definitions.published, w=w, epsilon=1e-6, delta=1e-6, detach=False
    ),
    linear=True,
    bytes_needed=lambda c: 40 * c.batch * c.heads * c.length * c.features,
  )


def _sdpa(case: Case) -> Implementation:
  del case
  torch = programs.torch()
  function = torch.nn.functional.scaled_dot_product_attention
  return Implementation(
    'torch',
    lambda causal: functools.partial(function, is_causal=causal),
    definitions.exact,
    linear=False,
    heads_first=True,
  )


def _performer_pytorch(case: Case) -> Implementation:
  torch = programs.torch()
  performer_pytorch = programs.peer('performer_pytorch')

  @functools.cache
  def make_one(causal: bool) -> Attend:
    torch.manual_seed(0)
    one = performer_pytorch.FastAttention(
      case.width, nb_features=case.features, causal=causal
    )
    return one.to(torch_device(torch))

  def needed(case: Case) -> int:
    # The causal form keeps K'^T V of every position for the gradient, twice.
    size = case.batch * case.heads * case.features * case.width * 4
    if case.causal and case.backward:
      return 3 * size * case.length
    return 3 * size * -(-case.length // 128) if case.causal else 0

  w = make_one(True).projection_matrix.cpu().numpy()
  if not np.array_equal(w, make_one(False).projection_matrix.cpu().numpy()):
    raise programs.MissingError(
      'its two kinds drew different matrices from one seed'
    )
  return Implementation(
    'torch',
    make_one,
    functools.partial(
      definitions.published, w=w, epsilon=1e-4, sum_epsilon=1e-6, detach=True
    ),
    linear=True,
    bytes_needed=needed,
    heads_first=True,
  )


def _fla(case: Case) -> Implementation:
  """Its kernel fed with ready-made features: features are not timed."""
  torch = programs.torch()
  if not torch.cuda.is_available():
    raise programs.MissingError('flash-linear-attention needs a GPU')
  linear_attn = programs.peer('fla.ops.linear_attn')

  rng = np.random.default_rng(0)
  w = rng.standard_normal((case.features, case.width)).astype(np.float32)

  def features(q: Any, k: Any, v: Any) -> tuple:
    def one(x: np.ndarray) -> np.ndarray:
      u = (x * case.width**-0.25) @ w.T
      return np.exp(u - u.max(-1, keepdims=True))

    return one(q), one(k), v

  def attend(causal: bool) -> Attend:
    del causal
    return lambda q, k, v: linear_attn.chunk_linear_attn(
      q, k, v, scale=1.0, normalize=True
    )[0]

  return Implementation(
    'torch',
    attend,
    definitions.from_features,
    linear=True,
    prepare=features,
  )


def framework(name: str) -> str:
  """'jax' or 'torch', whichever computes the form of this name."""
  return 'torch' if name in TORCH else 'jax'


def torch_device(torch: Any) -> str:
  """Device of torch forms."""
  return 'cuda' if torch.cuda.is_available() else 'cpu'
