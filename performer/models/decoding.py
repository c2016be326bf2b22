"""Writing with a causal language model, at a constant cost per token.

The state of a layer is the sum over all keys so far, so a token costs O(r d)
per head wherever it stands, and memory does not grow. Sequences of one batch
may have prompts of different lengths, padded on the right, and may end at
different times.

The random matrices are arguments and must be the same from the first call to
the last, and those of the last training step: a state made with one matrix
means nothing to another.

Reference: arXiv:2009.14794, section B.1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from performer.attention.sums import state as state_lib
from performer.models import language_model

__all__ = ['Cache', 'Generated', 'decode_step', 'generate', 'prefill']


_START = (
  'to write from nothing, the prompt is the start token that the model was '
  "trained with: `data.codec.encode('')`, which is [vocabulary.BOS] for proteins "
  'and a line break for text'
)


class Cache(NamedTuple):
  """The state of a model after the tokens that it has read.

  Attributes:
    state: of all layers, stacked in front.
    lengths: tokens read of each sequence.
  """

  state: state_lib.State
  lengths: Int[Array, 'b']


class Generated(NamedTuple):
  """The tokens that `generate` wrote.

  Attributes:
    tokens: [b, max_new_tokens]; filled up with the stop token.
    lengths: new tokens of each sequence, its stop token included.
    cache: after everything written, stop tokens excluded.
  """

  tokens: Int[Array, 'b n']
  lengths: Int[Array, 'b']
  cache: Cache


class _Writing(NamedTuple):
  """The state of the writing loop."""

  time: Int[Array, '']
  logits: Float[Array, 'b vocab']
  cache: Cache
  tokens: Int[Array, 'b n']
  lengths: Int[Array, 'b']
  ended: Bool[Array, 'b']


def prefill(
  model: language_model.LanguageModel,
  params: PyTree,
  tokens: Int[Array, 'b l'],
  lengths: Int[Array, 'b'],
  *,
  projections: PyTree,
) -> tuple[Float[Array, 'b vocab'], Cache]:
  """Reads prompts, all positions at once.

  Args:
    model: a causal model with linear attention.
    params: its parameters.
    tokens: prompts, padded on the right with anything.
    lengths: of the prompts, 1..l. Where traced values are out of range, the
      logits are NaN.
    projections: the random matrices, `model.draw_projections`.

  Returns:
    Logits of the token after each prompt, and the cache.

  Raises:
    ValueError: if a prompt is empty or too long, or the model cannot decode.
  """
  width = tokens.shape[1]
  if width < 1:
    raise ValueError(
      f'prompts need at least one token, got shape {tokens.shape}; {_START}'
    )
  if model.max_length is not None and width > model.max_length:
    raise ValueError(
      'prompts must fit the positions of the model, '
      f'got {width=} {model.max_length=}'
    )
  valid = (lengths >= 1) & (lengths <= width)
  if not isinstance(valid, jax.core.Tracer) and not valid.all():
    raise ValueError(f'lengths must be in 1..{width}, got {lengths}; {_START}')
  columns = jnp.arange(width)
  logits, state = model.apply(
    {'params': params},
    tokens,
    positions=jnp.broadcast_to(columns, tokens.shape),
    mask=columns < lengths[:, None],
    projections=projections,
    at=lengths - 1,
    method='extend',
  )
  logits = jnp.where(valid[:, None], logits[:, 0], jnp.nan)
  return logits, Cache(state, lengths)


def decode_step(
  model: language_model.LanguageModel,
  params: PyTree,
  token: Int[Array, 'b'],
  cache: Cache,
  *,
  projections: PyTree,
  active: Bool[Array, 'b'] | None = None,
) -> tuple[Float[Array, 'b vocab'], Cache]:
  """Reads one more token of each sequence.

  Args:
    model: as in `prefill`.
    params: its parameters.
    token: the next token of each sequence.
    cache: of the tokens before.
    projections: as in `prefill`.
    active: False = the sequence has ended: its part of the cache stays, its
      logits mean nothing. None: all are active.

  Returns:
    Logits of the token after, and the cache. Logits beyond the positions of
    the model are NaN.
  """
  if active is None:
    active = jnp.ones(token.shape, bool)
  logits, state = model.apply(
    {'params': params},
    token[:, None],
    positions=cache.lengths[:, None],
    mask=active[:, None],
    projections=projections,
    state=cache.state,
    method='extend',
  )
  return logits[:, 0], Cache(state, cache.lengths + active)


def generate(
  model: language_model.LanguageModel,
  params: PyTree,
  prompts: Int[Array, 'b l'],
  lengths: Int[Array, 'b'],
  *,
  projections: PyTree,
  max_new_tokens: int,
  temperature: float = 0.0,
  key: Key[Array, ''] | None = None,
  stop_token: int | None = None,
) -> Generated:
  """Continues prompts, greedily or by sampling.

  Stops when all sequences have ended. Under `jax.jit`, model, max_new_tokens,
  temperature and stop_token are static.

  Args:
    model: as in `prefill`.
    params: its parameters.
    prompts: padded on the right with anything. A model that was trained on
      shifted inputs expects its start token in front, which alone is the
      prompt from which it writes freely: `data.codec.encode('')`.
    lengths: of the prompts, 1..l.
    projections: as in `prefill`.
    max_new_tokens: the most to write to each sequence.
    temperature: 0: the most likely token; else logits are divided by it and
      sampled.
    key: for sampling; None without it.
    stop_token: ends a sequence; None: nothing does.

  Returns:
    The new tokens.

  Raises:
    ValueError: if the tokens would not fit the positions of the model, options
      contradict each other, or as `prefill`.
  """
  _check(model, prompts.shape[1], max_new_tokens, temperature, key)
  batch = prompts.shape[0]
  filler = 0 if stop_token is None else stop_token

  def choose(logits: Array, time: Array) -> Array:
    if key is None:
      return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    noise = jax.random.fold_in(key, time)
    return jax.random.categorical(noise, logits / temperature).astype(jnp.int32)

  def write(now: _Writing) -> _Writing:
    token = jnp.where(now.ended, filler, choose(now.logits, now.time))
    ended = now.ended
    if stop_token is not None:
      ended = ended | (token == stop_token)
    logits, cache = decode_step(
      model, params, token, now.cache, projections=projections, active=~ended
    )
    return _Writing(
      now.time + 1,
      logits,
      cache,
      now.tokens.at[:, now.time].set(token),
      now.lengths + ~now.ended,
      ended,
    )

  logits, cache = prefill(
    model, params, prompts, lengths, projections=projections
  )
  start = _Writing(
    jnp.int32(0),
    logits,
    cache,
    jnp.full((batch, max_new_tokens), filler, jnp.int32),
    jnp.zeros(batch, jnp.int32),
    jnp.zeros(batch, bool),
  )
  end = jax.lax.while_loop(
    lambda now: (now.time < max_new_tokens) & ~now.ended.all(), write, start
  )
  return Generated(end.tokens, end.lengths, end.cache)


def _check(
  model: language_model.LanguageModel,
  width: int,
  max_new_tokens: int,
  temperature: float,
  key: Array | None,
) -> None:
  limit = model.max_length
  too_long = limit is not None and width + max_new_tokens > limit
  if max_new_tokens < 1 or too_long:
    raise ValueError(
      'prompt and new tokens must fit the positions of the model, got '
      f'{width=} {max_new_tokens=} {model.max_length=}'
    )
  if temperature < 0 or (temperature > 0) != (key is not None):
    raise ValueError(
      'sampling needs temperature > 0 and a key, greedy decoding neither, got '
      f'{temperature=} key={"None" if key is None else "given"}'
    )
