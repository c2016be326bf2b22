"""Constrained decoding: candidates that are legal by construction.

A history is encoded and read once for each study. Its n candidates then write D
parameters, each drawn from its legal bins alone, and `*`, whose next-token
distribution over the bins is the prediction of the objective. All of that is one
compiled scan; only the Q rows of bins of the output layer are computed.

Shapes are rounded up to buckets, so that a growing study compiles a handful of
times.

Reference: arXiv:2205.13320, Sections 4.3 and 4.4.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from hpo.optformer import legality, models, relative

__all__ = [
  'Candidates',
  'History',
  'advance',
  'bucket',
  'extend',
  'propose',
  'read',
]

# Tokens that are read at once when a known history grows.
_PIECE = 16
_CAPACITY = 128  # Least positions of a cache.


class Candidates(NamedTuple):
  """Continuations of b histories, n each.

  Attributes:
    tokens: bins or indices of the parameters; 0 beyond those of the study.
    log_probs: of the tokens, all together, among legal ones at temperature 1.
    objective: logits of the objective over the bins.
  """

  tokens: Int[Array, 'b n d']
  log_probs: Float[Array, 'b n']
  objective: Float[Array, 'b n q']


class History(NamedTuple):
  """Histories of one length that have been read, and can be read on from.

  Attributes:
    metadata: ids of the texts.
    tokens: ids that have been read.
    legal: codes of the legal tokens of the parameters.
    capacity: positions of the cache.
    prefix: the state of the model.
  """

  metadata: Int[np.ndarray, 'b s']
  tokens: Int[np.ndarray, 'b l']
  legal: Int[np.ndarray, 'b d']
  capacity: int
  prefix: models.Prefix


def bucket(size: int) -> int:
  """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that holds a size."""
  power = 1 << max(size - 1, 0).bit_length()
  return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power


@functools.partial(jax.jit, static_argnames=('model', 'capacity'))
def read(
  model: models.OptFormer,
  variables: PyTree,
  metadata: Int[Array, 'b s'],
  tokens: Int[Array, 'b l'],
  lengths: Int[Array, ' b'],
  legal: Int[Array, 'b d'],
  *,
  capacity: int,
  projections: PyTree,
) -> models.Prefix:
  """Compiled `models.OptFormer.start`."""
  return model.apply(
    variables,
    metadata,
    tokens,
    lengths,
    capacity=capacity,
    legal=legal,
    projections=projections,
    method='start',
  )


@functools.partial(jax.jit, static_argnames='model')
def extend(
  model: models.OptFormer,
  variables: PyTree,
  prefix: models.Prefix,
  tokens: Int[Array, 'b l'],
  lengths: Int[Array, ' b'],
  *,
  projections: PyTree,
) -> models.Prefix:
  """Compiled `models.OptFormer.extend`."""
  return model.apply(
    variables, prefix, tokens, lengths, projections=projections, method='extend'
  )


def advance(
  model: models.OptFormer,
  variables: PyTree,
  metadata: Int[np.ndarray, 'b s'],
  tokens: Int[np.ndarray, 'b l'],
  legal: Int[np.ndarray, 'b d'],
  *,
  projections: PyTree,
  history: History | None = None,
) -> History:
  """Reads histories, from where earlier ones end if those are their beginning.

  Whatever changes earlier tokens (a new extreme objective, which moves all
  bins; another order of parameters; other metadata) makes it start anew.

  Args:
    model: reads.
    variables: its parameters.
    metadata: ids of the texts.
    tokens: ids of the histories.
    legal: codes of the legal tokens of the parameters, 0 beyond them.
    projections: random matrices.
    history: read before; None: nothing.

  Returns:
    The histories, with room for some more trials.
  """
  batch, length = tokens.shape
  known = 0 if history is None else history.tokens.shape[1]
  continues = (
    0 < known <= length
    and length + _PIECE <= history.capacity
    and np.array_equal(history.metadata, metadata)
    and np.array_equal(history.legal, legal)
    and np.array_equal(history.tokens, tokens[:, :known])
  )
  if not continues:
    return _anew(model, variables, metadata, tokens, legal, projections)
  prefix = history.prefix
  for start in range(known, length, _PIECE):
    piece = tokens[:, start : start + _PIECE]
    prefix = extend(
      model,
      variables,
      prefix,
      _filled(piece, _PIECE),
      jnp.full(batch, piece.shape[1]),
      projections=projections,
    )
  return History(metadata, tokens, legal, history.capacity, prefix)


def _anew(
  model: models.OptFormer,
  variables: PyTree,
  metadata: Int[np.ndarray, 'b s'],
  tokens: Int[np.ndarray, 'b l'],
  legal: Int[np.ndarray, 'b d'],
  projections: PyTree,
) -> History:
  batch, length = tokens.shape
  # Doublings: each capacity is compiled, which takes longer than reading.
  capacity = max(1 << (length + 2 * _PIECE - 1).bit_length(), _CAPACITY)
  prefix = read(
    model,
    variables,
    jnp.asarray(metadata),
    _filled(tokens, capacity),
    jnp.full(batch, length),
    jnp.asarray(legal),
    capacity=capacity,
    projections=projections,
  )
  return History(metadata, tokens, legal, capacity, prefix)


def _filled(ids: Int[np.ndarray, 'b l'], length: int) -> Int[Array, 'b n']:
  """Rows, filled up to a length."""
  return jnp.asarray(np.pad(ids, ((0, 0), (0, length - ids.shape[1]))))


@functools.partial(jax.jit, static_argnames=('model', 'star', 'count'))
def propose(
  model: models.OptFormer,
  variables: PyTree,
  prefix: models.Prefix,
  legal: Int[Array, 'b d'],
  given: Int[Array, 'b n d'] | None,
  keys: Key[Array, ' b'],
  *,
  star: int,
  count: int,
  projections: PyTree,
  temperature: Float[Array, ''] | float = 1.0,
) -> Candidates:
  """Writes and scores candidates.

  Args:
    model: the model.
    variables: its parameters.
    prefix: histories, each up to the `|` of its last trial.
    legal: code of the legal tokens of each parameter, see `legality`; 0 beyond
      the parameters of the study, at the end.
    given: parameters that are not to be drawn, at least 0; None: all are drawn.
    keys: of each study.
    star: id of `*`.
    count: n.
    projections: random matrices.
    temperature: of the draws.

  Returns:
    The candidates.
  """
  model = model.clone(attention=relative.Branches(model.attention))
  run = functools.partial(model.apply, variables)
  batch, slots = legal.shape
  widths = (legal > 0).sum(axis=1)
  branch = run(prefix, count, slots + 1, method='fork')
  first = run(prefix.last, prefix, method='bin_logits')
  logits = jnp.broadcast_to(first[:, None], (batch, count, model.bins))

  def write(carry: Any, slot: Array) -> tuple[Any, Array]:
    branch, logits, log_probs, objective = carry
    column = jnp.minimum(slot, slots - 1)
    allowed = _among(logits, legal[:, column])
    if given is None:
      token = _drawn(allowed, keys, slot, temperature)
    else:
      token = given[:, :, column]
    writes = (slot < widths)[:, None]
    token = jnp.where(writes, token, 0)
    found = jnp.take_along_axis(nn.log_softmax(allowed), token[..., None], -1)
    log_probs += jnp.where(writes, found[..., 0], 0.0)
    ids = jnp.where(writes, model.first_bin + token, star)
    x, branch = run(
      prefix, branch, ids, projections=projections, method='branch'
    )
    logits = run(x, prefix, branch, method='bin_logits')
    is_star = (slot == widths)[:, None, None]
    objective = jnp.where(is_star, logits, objective)
    return (branch, logits, log_probs, objective), token

  start = (branch, logits, jnp.zeros((batch, count)), jnp.zeros_like(logits))
  end, tokens = jax.lax.scan(write, start, jnp.arange(slots + 1))
  _, _, log_probs, objective = end
  return Candidates(jnp.moveaxis(tokens[:-1], 0, -1), log_probs, objective)


def _among(
  logits: Float[Array, 'b n q'], codes: Int[Array, ' b']
) -> Float[Array, 'b n q']:
  """Logits with all but the legal bins hidden, at least one of which stays."""
  allowed = legality.is_legal(jnp.maximum(codes, 1), logits.shape[-1])
  return jnp.where(allowed[:, None], logits, -jnp.inf)


def _drawn(
  allowed: Float[Array, 'b n q'],
  keys: Key[Array, ' b'],
  slot: Int[Array, ''],
  temperature: Float[Array, ''] | float,
) -> Int[Array, 'b n']:
  """A bin of each row; the largest logit is 0, so none of them overflows."""
  shifted = allowed - allowed.max(axis=-1, keepdims=True)
  shifted /= jnp.maximum(temperature, jnp.finfo(shifted.dtype).tiny)
  # Once more: what is infinite times an inverse that underflows is NaN.
  shifted = jnp.where(jnp.isneginf(allowed), -jnp.inf, shifted)
  draw = lambda key, rows: jax.random.categorical(
    jax.random.fold_in(key, slot), rows
  )
  return jax.vmap(draw)(keys, shifted).astype(jnp.int32)
