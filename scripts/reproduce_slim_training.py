"""Training in the regimes of the SLiM paper: FULL, in chunks, FINE-TUNE.

FULL computes the gradient of all positions at once. The second regime computes
it by subtraction in chunks of C positions from the start. FINE-TUNE trains as
FULL for the first half of the steps and in chunks after that, with the same
optimiser state: pre-training on a server, tuning on a small device. Runs of one
seed share parameters at the start, data and order.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from benchmarks import slim_forms as forms
from performer import objective
from performer.data import copying as copying_lib
from performer.data import text as text_lib

__all__ = [
  'CONTROL',
  'FULL',
  'Curve',
  'Setting',
  'State',
  'begin',
  'nudged',
  'regimes',
  'resume',
  'train',
]

FULL, CONTROL = 'FULL', 'CONTROL'
_NAT = 1 / math.log(2)  # In bits.
Data = copying_lib.Copying | text_lib.Text


@dataclasses.dataclass(frozen=True)
class Setting:
  """An experiment.

  Attributes:
    data: where sequences come from.
    sizes: of the model.
    batch: sequences of a step.
    steps: of a run.
    rate: of Adam.
    drop_at: step from which the rate is a tenth; None: never.
    chunks: C of the regimes in chunks.
    every: steps between evaluations.
    eval_batches: of at most 64 windows.
  """

  data: Data
  sizes: forms.Sizes
  batch: int
  steps: int
  rate: float
  chunks: tuple[int, ...]
  drop_at: int | None = None
  every: int = 200
  eval_batches: int = 8

  @functools.cached_property
  def optimizer(self) -> optax.GradientTransformation:
    """Adam."""
    drops = {} if self.drop_at is None else {self.drop_at: 0.1}
    return optax.adam(optax.piecewise_constant_schedule(self.rate, drops))


class State(NamedTuple):
  """Parameters and what the optimiser keeps."""

  params: PyTree
  optimizer: PyTree


@dataclasses.dataclass(frozen=True)
class Curve:
  """How a run went.

  Attributes:
    train: bits per target of every step's batch, before the step.
    steps: at which it was evaluated: after so many steps.
    valid: bits per target there.
    accuracy: there.
  """

  train: np.ndarray
  steps: np.ndarray
  valid: np.ndarray
  accuracy: np.ndarray

  def joined(self, later: 'Curve') -> 'Curve':
    """This run and its continuation."""
    pairs = zip(
      dataclasses.astuple(self), dataclasses.astuple(later), strict=True
    )
    return Curve(*(np.concatenate(pair) for pair in pairs))


def regimes(
  setting: Setting, seed: int, *, log: Callable[[str], None] = print
) -> dict[str, Curve]:
  """Trains in all regimes.

  Args:
    setting: the experiment.
    seed: of parameters and data.
    log: told what is done.

  Returns:
    Curves by regime: 'FULL', 'C=8', 'FINE-TUNE C=8', ..., 'CONTROL'.
  """
  half = setting.steps // 2
  full = forms.Form('full')
  start = begin(setting, seed)
  middle, first = train(setting, full, start, seed, (0, half))
  _, second = train(setting, full, middle, seed, (half, setting.steps))
  curves = {FULL: first.joined(second)}
  for chunk in setting.chunks:
    form = forms.Form('subtract', chunk)
    _, curve = train(setting, form, start, seed, (0, setting.steps))
    curves[f'C={chunk}'] = curve
    _, curve = train(setting, form, middle, seed, (half, setting.steps))
    curves[f'FINE-TUNE C={chunk}'] = first.joined(curve)
  start = nudged(start, seed)
  _, curves[CONTROL] = train(setting, full, start, seed, (0, setting.steps))
  for name, curve in curves.items():
    log(f'seed {seed}, {name}: {curve.valid[-1]:.4f} bits')
  return curves


def begin(setting: Setting, seed: int) -> State:
  """The state before the first step."""
  params, _ = forms.parameters(_model(setting), seed)
  return State(params, setting.optimizer.init(params))


def nudged(state: State, seed: int) -> State:
  """A state whose parameters are changed by about a rounding error."""
  rng = np.random.default_rng(seed)

  def nudge(x: Array) -> Array:
    signs = rng.choice((-1.0, 1.0), x.shape)
    return (x * (1 + np.finfo(x.dtype).eps * signs)).astype(x.dtype)

  return state._replace(params=jax.tree.map(nudge, state.params))


def train(
  setting: Setting,
  form: forms.Form,
  state: State,
  seed: int,
  span: tuple[int, int],
) -> tuple[State, Curve]:
  """Takes steps.

  Args:
    setting: the experiment.
    form: how gradients are computed.
    state: before the first of these steps.
    seed: of the data.
    span: number of the first step, and one more than that of the last.

  Returns:
    The state after them, and the curve.

  Raises:
    FloatingPointError: if a loss is not finite.
  """
  step, losses, scores = _step(setting, form), [], []
  batches = resume(setting, seed, span[0])
  for done in range(span[0] + 1, span[1] + 1):
    state, loss = step(state, next(batches))
    losses.append(loss)
    if done % setting.every == 0 or done == setting.steps:
      scores.append((done, *_evaluate(setting, state.params)))
  values = np.asarray(jax.device_get(losses), np.float64) * _NAT
  if not np.isfinite(values).all():
    raise FloatingPointError(f'{form!s}: a loss is not finite, {seed=}')
  table = np.asarray(scores, np.float64).reshape(-1, 3)
  return state, Curve(values, *table.T)


def resume(
  setting: Setting, seed: int, step: int
) -> Iterator[Mapping[str, np.ndarray]]:
  """The batches of a run from a step on."""
  batches = setting.data.train_iterator(batch_size=setting.batch, seed=seed)
  return itertools.islice(batches, step, None)


@functools.cache
def _model(setting: Setting) -> Any:
  return forms.build(setting.sizes)


@functools.cache
def _step(setting: Setting, form: forms.Form) -> Callable[..., Any]:
  gradient = forms.gradient(form, _model(setting))

  @jax.jit
  def step(state: State, batch: Mapping[str, Array]) -> tuple[State, Array]:
    loss, grads, _ = gradient(state.params, batch, None)
    updates, kept = setting.optimizer.update(grads, state.optimizer)
    return State(optax.apply_updates(state.params, updates), kept), loss

  return step


@functools.cache
def _scorer(setting: Setting) -> Callable[..., Array]:
  @jax.jit
  def score(params: PyTree, batch: Mapping[str, Array]) -> Array:
    """Sums over targets: nats, hits, weights."""
    logits = _model(setting).apply(
      {'params': params},
      batch['tokens'],
      mask=batch['mask'],
      projections=None,
    )
    losses = objective.token_losses(logits, batch['targets'])
    hits = jnp.argmax(logits, axis=-1) == batch['targets']
    weights = batch['weights']
    return jnp.stack([(x * weights).sum() for x in (losses, hits, 1.0)])

  return score


@functools.cache
def _held_out(setting: Setting) -> Sequence[Mapping[str, np.ndarray]]:
  batches = setting.data.eval_batches('valid', batch_size=64)
  return tuple(itertools.islice(batches, setting.eval_batches))


def _evaluate(setting: Setting, params: PyTree) -> tuple[float, float]:
  """Bits per target and accuracy on the validation split."""
  score = _scorer(setting)
  nats, hits, count = sum(
    np.asarray(score(params, batch), np.float64) for batch in _held_out(setting)
  )
  return nats / count * _NAT, hits / count
