"""What a search costs: CPU time of gradients, against IMPALA's network."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, programs
from nas.rl_darts import networks
from papers import claims, figures, rows, study
from rl import networks as rl_networks
from runtime.record import ledger

FUSED, NAIVE, IMPALA = 'fused', 'naive', 'IMPALA'


@dataclasses.dataclass(frozen=True)
class Setting:
  """Pictures and a network."""

  side: int  # Of pictures, pixels.
  depths: tuple[int, ...]  # Channels of the stages.
  batch: int = 64  # Pictures at once.
  rounds: int = 5  # Of which the median is taken; the forms take turns.


def _gradient(network: Any, setting: Setting) -> programs.Program:
  """Computes gradients of all parameters for a batch; a unit is a picture."""
  shape = (setting.batch, setting.side, setting.side, 3)
  x = jax.random.uniform(jax.random.key(0), shape)
  params = jax.jit(network.init)(jax.random.key(1), x[:1])
  loss = lambda params: jnp.sum(network.apply(params, x) ** 2)
  inputs = lambda seed: (params,)
  return programs.compiled(jax.grad(loss), inputs, units=setting.batch)


def run(setting: Setting, *, seeds: Sequence[int]) -> list[study.Record]:
  """CPU seconds and FLOPs per picture; each seed is one more measurement."""
  # XLA's convolutions, as in IMPALA's network; products are for loops on a CPU.
  micro = networks.Micro(depths=setting.depths, products=False)
  forms = {
    FUSED: micro,
    NAIVE: micro.clone(form='naive'),
    IMPALA: rl_networks.ImpalaCNN(setting.depths),
  }
  built = {
    harness.Form(name, _gradient): _gradient(network, setting)
    for name, network in forms.items()
  }
  flops = {
    f'{form.key} flops': program.call.cost_analysis()['flops'] / setting.batch
    for form, program in built.items()
  }
  how = programs.Settings(rounds=setting.rounds, seconds=60.0)
  return [
    flops
    | {
      one.form: one.median('cpu')
      for one in harness.measure(setting, built, how)
    }
    for _ in seeds
  ]


def _ratios(results: study.Results) -> dict[str, np.ndarray]:
  ratio = lambda arm, unit: (
    results(arm, FUSED + unit) / results(arm, IMPALA + unit)
  )
  return {
    **{f'{arm}: CPU time': ratio(arm, '') for arm in results.arms},
    **{f'{arm}: FLOPs': ratio(arm, ' flops') for arm in results.arms},
  }


def _explain(results: study.Results) -> str:
  times = '; '.join(
    f'{arm}: {np.mean(results(arm, NAIVE) / results(arm, FUSED)):.2f}'
    for arm in results.arms
  )
  return (
    'Gradients of all parameters in units of those of IMPALA at equal depths, '
    f'batches of 64, medians of 5. CPU time of the naive form over the fused: {times}.'
  )


_SIZES = {
  '10x10, [16]': Setting(10, (16,)),
  '16x16, [16, 16]': Setting(16, (16, 16)),
  '32x32, [8, 8, 8]': Setting(32, (8, 8, 8)),
}
ROWS = (
  rows.Row(
    id='search-cost',
    claim='Training a supernet costs about three times what training the baseline '
    'costs (gradient, times that of IMPALA).',
    study=study.Study(run, _SIZES, seeds=3, together=True),
    ours=_ratios,
    trend='fused gradients at most 4 times those of IMPALA (CPU time)',
    claims=[claims.below(f'{arm}: CPU time', 4.0) for arm in _SIZES],
    figure=figures.bars(
      {name: name for name in (FUSED, NAIVE, IMPALA)},
      factor=1e3,
      xlabel='CPU ms per gradient of a picture',
      xscale='log',
    ),
    published=ledger.Published(3.0, 'arXiv:2106.02229, abstract: about 3'),
    explain=_explain,
  ),
)
