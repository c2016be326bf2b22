"""Learning rates of a small Performer, tuned by UFOM."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import optax

from hpo import ufom
from hpo.ufom import training
from hpo.ufom.tasks import performer_rates
from papers import claims, figures, rows, study
from papers.ufom import runs
from performer import attention
from performer.models import transformer

FIRST, LEARNT, SINGLE = 'initial rates', 'learnt rates', 'best single rate'


@dataclasses.dataclass(frozen=True)
class Setting:
  """Sizes of the experiment; those of `configs/hpo/ufom_performer_tiny.gin`."""

  family: performer_rates.PerformerRates  # Training runs.
  steps: int = 60  # Outer steps.
  q: float = 0.5  # Probability of exact gradients.
  rate: float = 0.1  # Outer step.
  tasks: int = 2  # Of an outer step.

  @property
  def inner(self) -> ufom.Inner:
    """A training run."""
    return ufom.Inner(self.family.inner_steps, 1.0, mode='store_phi')


def run(setting: Setting, *, seed: int) -> study.Record:
  """Learns rates of groups; the seed is of tasks and xi."""
  trainer = training.Trainer(
    setting.family,
    setting.inner,
    optax.sgd(setting.rate),
    setting.q,
    tasks_per_step=setting.tasks,
  )
  record, _ = runs.learn(
    trainer, judge='valid', seed=seed, steps=setting.steps, records=3
  )
  return record


def judge(setting: Setting, rate: float) -> study.Record:
  """Held-out bits after a run with one rate for all groups."""
  theta = dict.fromkeys(performer_rates.GROUPS, jnp.log(jnp.float32(rate)))
  return dict(setting.family.evaluators(setting.inner)['valid'](theta))


def studies(setting: Setting, grid: tuple[float, ...]) -> study.Study:
  """Learnt rates beside the initial ones and single ones of a grid."""
  fixed = {FIRST: functools.partial(judge, setting, setting.family.start)}
  fixed |= {f'rate {r:g}': functools.partial(judge, setting, r) for r in grid}
  return study.Study(run, {LEARNT: setting}, fixed=fixed)


def _family() -> performer_rates.PerformerRates:
  """Two layers of width 32 on windows of 32 bytes, 20 inner steps."""
  model = transformer.Transformer(
    vocab_size=256,
    max_length=32,
    attention=attention.Favor(kernel='elu1', projection=False, features=None),
    causal=True,
    num_layers=2,
    num_heads=2,
    d_model=32,
    d_ff=64,
    dropout=0.0,
  )
  return performer_rates.PerformerRates(
    model, inner_steps=20, batch_size=4, start=0.05, eval_runs=32
  )


def _singles(results: study.Results) -> dict[str, float]:
  """Bits of single rates, but those that diverged."""
  bits = {
    name: results(name, 'bits')[0]
    for name in results.study.fixed
    if name != FIRST
  }
  return {name: value for name, value in bits.items() if np.isfinite(value)}


def _explain(results: study.Results) -> str:
  singles = _singles(results)
  return (
    'A training run has 20 steps on bytes. All rates are 0.05 at first. The same '
    '32 runs judge all rates. The best single one is '
    f'{min(singles, key=singles.__getitem__)} of {len(singles)}, chosen on the '
    'text that judges.'
  )


def _figure(results: study.Results) -> list[figures.Panel]:
  first = results(FIRST, 'bits')
  bits = [np.r_[first, curve] for curve in results(LEARNT, 'bits')]
  at = np.linspace(0, results.settings[LEARNT].steps, len(bits[0]))
  groups = performer_rates.GROUPS
  return [
    figures.Lines(
      lines=[figures.Line('', at, curve) for curve in bits],
      xlabel='outer step',
      ylabel='bits per byte after a run',
    ),
    figures.lines(
      {group: results(LEARNT, f'rate_{group}') for group in groups},
      at[1:],
      yscale='log',
      xlabel='outer step',
      ylabel='rate',
    ),
  ]


ROWS = (
  rows.Row(
    id='performer-rates',
    claim='As a tuner UFOM learns rates for groups of parameters of a small '
    'Performer (bits per byte of held-out text after a training run; lower is '
    'better).',
    study=studies(Setting(_family()), grid=(0.1, 0.2, 0.4, 0.8)),
    ours=lambda results: (
      {
        FIRST: results(FIRST, 'bits'),
        LEARNT: results.last(LEARNT, 'bits'),
        SINGLE: min(_singles(results).values()),
      }
      | {
        f'rate of {group}': results.last(LEARNT, f'rate_{group}')
        for group in performer_rates.GROUPS
      }
    ),
    trend='learnt rates end lower than the initial ones',
    claims=(claims.below(LEARNT, than=FIRST),),
    figure=_figure,
    explain=_explain,
    headline=LEARNT,
  ),
)
