"""Row of learning rates: a small Performer tuned by UFOM."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
import optax
import reproduce_common as common
import reproduce_ufom_training as training_runs

from hpo import ufom
from hpo.ufom import training
from hpo.ufom.tasks import performer_rates
from performer import attention
from performer.models import transformer
from runtime.record import verdicts

__all__ = ['Setting', 'rates_rows']

FIRST, LEARNT, SINGLE = 'initial rates', 'learnt rates', 'best single rate'


@dataclasses.dataclass(frozen=True)
class Setting:
  """Sizes of the experiment; those of `configs/hpo/ufom_performer_tiny.gin`.

  Attributes:
    family: training runs.
    steps: outer steps.
    grid: single rates that are tried beside, one for all groups.
    q: probability of exact gradients.
    rate: outer step.
    tasks: of an outer step.
  """

  family: performer_rates.PerformerRates
  steps: int = 60
  grid: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8)
  q: float = 0.5
  rate: float = 0.1
  tasks: int = 2


def setting() -> Setting:
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
  family = performer_rates.PerformerRates(
    model, inner_steps=20, batch_size=4, start=0.05, eval_runs=32
  )
  return Setting(family)


def rates_rows(
  scale: str, seeds: Sequence[int], *, sizes: Setting | None = None
) -> list[common.Finding]:
  """Learns rates of groups; held-out bits before, after and with one rate.

  Args:
    scale: makes no difference.
    seeds: of tasks and xi.
    sizes: in the place of the usual ones.
  """
  del scale
  sizes = sizes or setting()
  family = sizes.family
  inner = ufom.Inner(family.inner_steps, 1.0, mode='store_phi')
  judge = family.evaluators(inner)['valid']
  same = lambda rate: dict.fromkeys(
    performer_rates.GROUPS, jnp.log(jnp.float32(rate))
  )
  single = {rate: judge(same(rate))['bits'] for rate in sizes.grid}
  trainer = training.Trainer(
    family, inner, optax.sgd(sizes.rate), sizes.q, tasks_per_step=sizes.tasks
  )
  runs = [
    training_runs.learn(trainer, judge, seed=seed, steps=sizes.steps, records=3)
    for seed in seeds
  ]
  first = judge(same(family.start))['bits']
  return [_finding(runs, first, single, sizes)]


def _finding(
  runs: Sequence[training_runs.Run],
  first: float,
  single: Mapping[float, float],
  sizes: Setting,
) -> common.Finding:
  found = {k: v for k, v in single.items() if np.isfinite(v)}
  best = min(found, key=found.__getitem__)
  learnt = tuple(run.last('bits') for run in runs)
  rates = {
    f'rate of {group}': tuple(run.last(f'rate_{group}') for run in runs)
    for group in performer_rates.GROUPS
  }
  return common.Finding(
    {
      'id': 'performer-rates',
      'claim': 'As a tuner UFOM learns rates for groups of parameters of a small '
      'Performer (bits per byte of held-out text after a training run; lower is '
      'better).',
      'ours': {
        FIRST: (first,),
        LEARNT: learnt,
        SINGLE: (found[best],),
        **rates,
      },
      'published': 'not found',
      'trend': 'learnt rates end lower than the initial ones',
      'verdict': verdicts.verdict(learnt, [first], higher_is_better=False),
      'explanation': f'Training runs of {sizes.family.inner_steps} steps on bytes; '
      f'{sizes.steps} outer steps of {sizes.tasks} runs, q = {sizes.q:g}; all '
      f'rates are {sizes.family.start:g} at first. Judged by '
      f'{sizes.family.eval_runs} runs, the same for all. Best single rate: '
      f'{best:g} of {", ".join(f"{rate:g}" for rate in single)}, chosen on the '
      'text that judges.',
    },
    functools.partial(_draw, runs, first, sizes.steps),
  )


def _draw(
  runs: Sequence[training_runs.Run],
  first: float,
  steps: int,
  path: pathlib.Path,
) -> None:
  fig, (left, right) = common.new_axes(2)
  for color, run in zip(common.COLORS, runs, strict=False):
    at = np.linspace(0, steps, len(run.scores['bits']) + 1)
    left.plot(at, [first, *run.scores['bits']], color=color, lw=1)
  left.set(xlabel='outer step', ylabel='bits per byte after a run')
  for color, group in zip(common.COLORS, performer_rates.GROUPS, strict=False):
    for i, run in enumerate(runs):
      rates = run.scores[f'rate_{group}']
      at = np.linspace(0, steps, len(rates) + 1)[1:]
      label = group if i == 0 else None
      right.plot(at, rates, color=color, lw=1, label=label)
  right.set(xlabel='outer step', ylabel='rate', yscale='log')
  right.legend(frameon=False, fontsize='small')
  common.save(fig, path)
