r"""Writes with a trained language model, from its workdir or its file alone.

  python -m performer.generate --prompt MKT
  python -m performer.generate runs/protein_causal_tiny
  python -m performer.generate runs/slim_text_tiny --prompt 'To be' --temperature 0.7
  python -m performer.generate protein.msgpack --temperature 0

The first writes a protein with the model that comes with the package.
The text appears as it is written. A token costs the same at every position: the
model keeps sums over all tokens so far, not the tokens (arXiv:2009.14794, B.1).
"""

import argparse
import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

import runtime
from performer import shipped, training
from performer.data import dataset
from performer.models import decoding, language_model
from runtime import commands, restored

__all__ = ['blocks', 'main']

_BLOCK = 16  # Tokens written between two looks at the clock.
_UNREADABLE = '\ufffd'  # Stands for bytes that are no character.


def blocks(
  model: language_model.LanguageModel,
  params: dict,
  projections: Array | None,
  prompt: Int[np.ndarray, 'n'],
  *,
  max_new_tokens: int,
  temperature: float,
  key: Key[Array, ''],
) -> Iterator[Int[np.ndarray, 'm']]:
  """Continues a prompt, some tokens at a time.

  Args:
    model: a causal model with linear attention.
    params: its parameters.
    projections: its random matrices.
    prompt: tokens that it reads first, at least one.
    max_new_tokens: number of tokens to write.
    temperature: divides the logits; 0: the most likely token.
    key: of the sampling.

  Yields:
    The next tokens; at most `max_new_tokens` in all.

  Raises:
    ValueError: if the tokens would not fit the positions of the model, or it
      cannot decode; see `decoding.prefill`.
  """
  if model.max_length is not None:
    room = model.max_length - len(prompt)
    if max_new_tokens > room:
      raise ValueError(
        f'the model has {model.max_length} positions, of which the prompt takes '
        f'{len(prompt)}: max_new_tokens must be at most {room}, '
        f'got {max_new_tokens=}'
      )

  @jax.jit
  def write(
    logits: Float[Array, '1 v'], cache: decoding.Cache, key: Key[Array, '']
  ) -> tuple[Array, decoding.Cache, Array]:
    def one(carry: tuple, key: Key[Array, '']) -> tuple[tuple, Array]:
      logits, cache = carry
      if temperature:
        token = jax.random.categorical(key, logits / temperature)
      else:
        token = jnp.argmax(logits, -1)
      token = token.astype(jnp.int32)
      after = decoding.decode_step(
        model, params, token, cache, projections=projections
      )
      return after, token[0]

    (logits, cache), tokens = jax.lax.scan(
      one, (logits, cache), jax.random.split(key, _BLOCK)
    )
    return logits, cache, tokens

  prefill = jax.jit(functools.partial(decoding.prefill, model))
  logits, cache = prefill(
    params, prompt[None], jnp.array([len(prompt)]), projections=projections
  )
  for start in range(0, max_new_tokens, _BLOCK):
    # The last block may run past the last position; its tokens there are cut.
    logits, cache, tokens = write(logits, cache, jax.random.fold_in(key, start))
    yield np.asarray(tokens)[: max_new_tokens - start]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
  parser = commands.of_run(
    __doc__,
    workdir='folder of the run, or a file of performer.pack; unless given, '
    'the protein model of the package',
    default=str(shipped.SHIPPED),
  )
  parser.add_argument('--prompt', default='', help='text to continue')
  parser.add_argument(
    '--max_new_tokens', type=int, help='default: all that fit'
  )
  parser.add_argument('--temperature', type=float, default=1.0)
  parser.add_argument('--seed', type=int, default=0, help='of the sampling')
  return parser.parse_args(argv)


def _check_run(run: restored.Restored) -> training.LanguageModelTrainer:
  """The trainer; refuses runs of other trainers."""
  if not isinstance(run.trainer, training.LanguageModelTrainer):
    raise ValueError(
      f'{run.workdir} holds no language model, but a run of '
      f'{type(run.trainer).__name__}'
    )
  return run.trainer


class _Writer(NamedTuple):
  """All that writing needs."""

  model: language_model.LanguageModel
  params: PyTree
  projections: PyTree
  codec: dataset.Codec


def _writer(
  path: str | pathlib.Path,
  model: language_model.LanguageModel,
  state: tuple[PyTree, PyTree],
  data: dataset.DataSet,
) -> _Writer:
  """Refuses models that cannot write text."""
  if data.task != 'causal':
    raise ValueError(
      f'{path} holds a masked language model, which sees both sides of a '
      "token; writing needs TASK = 'causal'"
    )
  codec = data.codec
  if codec is None:
    raise ValueError(
      f'the tokens of {type(data).__name__} cannot be written as text'
    )
  return _Writer(model, *state, codec)


@contextlib.contextmanager
def _opened(options: argparse.Namespace) -> Iterator[_Writer]:
  """Opens a file of `performer.pack`, or a run."""
  if pathlib.Path(options.workdir).is_file():
    if options.step != 'latest' or options.gin_param or options.allow_module:
      raise ValueError(
        f'{options.workdir} is a file, which has one model: --step, --gin_param '
        'and --allow_module are for the folder of a run'
      )
    found = shipped.load(options.workdir)
    state = found.params, found.projections
    yield _writer(options.workdir, found.model, state, found.data)
    return
  with runtime.restore(
    options.workdir,
    step=options.step,
    params=options.gin_param,
    allow_module=options.allow_module,
    devices=jax.devices()[:1],
  ) as run:
    trainer = _check_run(run)
    state = run.state.eval_params, run.state.projections
    yield _writer(run.workdir, trainer.model, state, trainer.data)


def main(argv: Sequence[str] | None = None) -> None:
  """Runs the command.

  Args:
    argv: arguments of the command; None: those of the process.
  """
  options = _arguments(argv)
  for name in ('temperature', 'max_new_tokens'):
    value = getattr(options, name)
    if value is not None and not value >= 0:  # Nor NaN.
      raise ValueError(f'{name} must not be negative, got {value}')
  with _opened(options) as writer:
    codec = writer.codec
    prompt = codec.encode(options.prompt)
    count = options.max_new_tokens
    if count is None:
      count = (writer.model.max_length or 1024) - len(prompt)
    written = blocks(
      writer.model,
      writer.params,
      writer.projections,
      prompt,
      max_new_tokens=count,
      temperature=options.temperature,
      key=jax.random.key(options.seed),
    )
    print(options.prompt, end='', flush=True)
    seconds = _stream(written, codec, prompt)
  _tell(seconds, sys.stderr)


def _stream(
  written: Iterator[Int[np.ndarray, 'm']],
  codec: dataset.Codec,
  prompt: Int[np.ndarray, 'n'],
) -> list[float]:
  """Prints tokens as they come; returns seconds per token of every block.

  What a token reads as may depend on its neighbours: a character may have several
  bytes, and a piece of a word loses the space before it where a text begins. So
  the whole text is decoded, and what is new of it printed.
  """
  text = codec.decode(prompt)
  shown, ids = len(text), prompt
  seconds, start = [], time.perf_counter()
  for tokens in written:
    now = time.perf_counter()
    seconds.append((now - start) / len(tokens))
    ended = np.flatnonzero(tokens == codec.stop_token)
    ids = np.append(ids, tokens[: ended[0]] if ended.size else tokens)
    text = codec.decode(ids)
    # The last character may be whole after the next block.
    whole = text.rstrip(_UNREADABLE)
    print(whole[shown:], end='', flush=True)
    shown = max(shown, len(whole))
    if ended.size:
      break
    start = time.perf_counter()
  print(text[shown:])
  return seconds


def _tell(seconds: Sequence[float], stream: object) -> None:
  """Tells the rate of the first and the second half, without compilation."""
  timed = seconds[1:]
  if len(timed) < 2:
    return
  half = len(timed) // 2
  first, second = (1 / np.median(part) for part in (timed[:half], timed[half:]))
  print(
    f'{first:.0f} tokens/s in the first half, {second:.0f} in the second',
    file=stream,
  )


if __name__ == '__main__':
  commands.run(main)
