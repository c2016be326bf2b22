"""Training in the regimes of the paper: FULL, in chunks, FINE-TUNE.

FULL computes the gradient of all positions at once. The second regime computes
it by subtraction in chunks of C positions from the start. FINE-TUNE trains as
FULL for the first half of the steps and in chunks after that, with the same
optimiser state: pre-training on a server, tuning on a small device. Runs of one
seed share parameters at the start, data and order.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array, PyTree

from benchmarks import slim_forms as forms
from papers import study
from papers import training as papers_training
from performer import training
from performer.data import copying, text
from performer.slim import model as model_lib
from performer.slim import options as slim_options
from runtime import loop

FULL, CONTROL = 'FULL', 'CONTROL'
_NAT = 1 / math.log(2)  # In bits.
_WHOLE = slim_options.Slim('full')
_AT_ONCE = 64  # Windows of an evaluation.


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run."""

  data: copying.Copying | text.Text  # Source of sequences.
  model: model_lib.SlimTransformer  # Model to train.
  batch: int  # Sequences of a step.
  steps: int  # Of the run.
  rate: float  # Of Adam.
  # Step from which the rate is a tenth; None: never.
  drop_at: int | None = None
  every: int = 200  # Steps between evaluations.
  # Form of gradients in the first half of the steps.
  first: slim_options.Slim = _WHOLE
  second: slim_options.Slim = _WHOLE  # The same in the second half.
  # Parameters at the start are changed by about a rounding error.
  nudged: bool = False
  # Ways to compute the loss that are compared half way.
  probed: tuple[forms.Form, ...] = ()

  def trainer(self, slim: slim_options.Slim) -> training.LanguageModelTrainer:
    """Trains with gradients computed in a certain way."""
    drops = {} if self.drop_at is None else {self.drop_at: 0.1}
    rate = optax.piecewise_constant_schedule(self.rate, drops)
    return training.LanguageModelTrainer(
      self.model,
      self.data,
      optax.adam(rate),
      self.batch,
      eval_batch_size=_AT_ONCE,
      slim=slim,
    )

  def phases(self) -> list[tuple[slim_options.Slim, int]]:
    """Ways to compute gradients, each with its number of steps."""
    half = self.steps // 2
    if self.first == self.second:
      return [(self.first, self.steps)]
    return [(self.first, half), (self.second, self.steps - half)]


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains; the seed is of parameters and data.

  Returns:
    Bits per target of every step's batch, before the step; the numbers of steps
    after which the run was judged, and there bits per target and accuracy on
    validation; and by form of `probed` the relative change of the loss half way.
  """
  state, position, batches, rows, jumps = None, None, None, [], {}
  for slim, steps in setting.phases():
    trainer = setting.trainer(slim)
    with papers_training.opened(
      trainer, seed=seed, judges=('valid',)
    ) as opened:
      if position is None:
        # The optimiser starts with zeros, whatever the parameters.
        state = jax.jit(opened.init)().replace(params=_start(setting, seed))
      else:
        jumps = _jumps(setting, state.params, next(batches))
        opened.batches.set_state(position)
      judge = functools.partial(_judge, setting, opened.evaluators['valid'])
      opened = dataclasses.replace(opened, evaluators={'valid': judge})
      driven = loop.drive(opened, steps, steps, state=state)
      state, batches = driven.state, opened.batches
      position = batches.get_state()
      rows += driven.rows
  judged = [row for row in rows if 'eval/valid/loss' in row]
  return {
    'train': [_NAT * row['train/loss'] for row in rows],
    'steps': [i for i, row in enumerate(rows, 1) if 'eval/valid/loss' in row],
    'valid': [_NAT * row['eval/valid/loss'] for row in judged],
    'accuracy': [row['eval/valid/accuracy'] for row in judged],
  } | jumps


def _start(setting: Setting, seed: int) -> PyTree:
  """Parameters before the first step."""
  params, _ = forms.parameters(setting.model, seed)
  if not setting.nudged:
    return params
  rng = np.random.default_rng(seed)

  def nudge(x: Array) -> Array:
    signs = rng.choice((-1.0, 1.0), x.shape)
    return (x * (1 + np.finfo(x.dtype).eps * signs)).astype(x.dtype)

  return jax.tree.map(nudge, params)


def _judge(
  setting: Setting, evaluate: Callable[[Any], Mapping[str, float]], state: Any
) -> Mapping[str, float]:
  """Evaluates at the interval of the setting, and at the end."""
  step = int(state.step)
  due = step % setting.every == 0 or step == setting.steps
  return evaluate(state) if due else {}


def _jumps(
  setting: Setting, params: PyTree, batch: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Relative change of the loss when the strategy changes."""
  losses = [
    float(jax.jit(forms.gradient(form, setting.model))(params, batch, None)[0])
    for form in (forms.Form('full'), *setting.probed)
  ]
  return {
    f'jump {form}': abs(loss / losses[0] - 1)
    for form, loss in zip(setting.probed, losses[1:], strict=True)
  }


def regimes(
  setting: Setting, chunks: Sequence[int], **options: Any
) -> study.Study:
  """All regimes of a setting: 'FULL', 'C=8', 'FINE-TUNE C=8', ..., 'CONTROL'.

  Args:
    setting: of FULL.
    chunks: C of the regimes in chunks.
    **options: of the study.
  """
  arms = {FULL: setting}
  for chunk in chunks:
    slim = slim_options.Slim('subtract', chunk)
    change = functools.partial(dataclasses.replace, setting, second=slim)
    arms |= {f'C={chunk}': change(first=slim), f'FINE-TUNE C={chunk}': change()}
  arms[CONTROL] = dataclasses.replace(setting, nudged=True)
  return study.Study(run, arms, **options)


def described(setting: Setting) -> str:
  """The sizes of an experiment in words."""
  m = setting.model
  drop = ''
  if setting.drop_at is not None:
    drop = f', a tenth of that from step {setting.drop_at} on'
  return (
    f'L={setting.data.max_length}, d={m.d_model}, h={m.num_heads}, '
    f's={m.num_layers}, f={m.d_ff}, V={m.vocab_size}, batch {setting.batch}. '
    f'Training has {setting.steps} steps of Adam at {setting.rate:g}{drop}.'
  )
