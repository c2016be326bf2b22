"""Memory and work of gradients against L and C.

Memory is what the compiler plans besides inputs and outputs, so it needs no
seed; times are of turns with inputs of each seed. FLOPs are those of the matrix
products in the whole gradient, loops counted as often as they run.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import growth, harness, programs, slim_bars
from benchmarks import slim_forms as forms
from papers import claims, figures, rows, study
from performer.slim import model as model_lib
from runtime.devices import counting

KINDS, CHUNKS = ('subtract', 'checkpoint'), (16, 64, 256, 1024)
FORMS = tuple(forms.Form(k, c) for c in CHUNKS for k in KINDS)
ROOT = '2 sqrt(L)'
MIB = 2**20
_C = CHUNKS[1]  # Of the comparison of lengths.


@dataclasses.dataclass(frozen=True)
class Setting:
  """The gradient of one sequence."""

  model: model_lib.SlimTransformer  # Settings of the model.
  kind: str  # Strategy.
  chunk: int | str | None = None  # C, `ROOT`, or None for whole sequences.
  longest: int | None = None  # The greatest L at which it is compiled.

  def form(self, length: int) -> forms.Form:
    """The form at a length."""
    chunk = 2 * round(length**0.5) if self.chunk == ROOT else self.chunk
    return forms.Form(self.kind, chunk)


@functools.cache
def compiled(
  form: forms.Form, model: model_lib.SlimTransformer, length: int
) -> programs.Program:
  """A form at a length; the seed of its inputs is of parameters and tokens."""

  def inputs(seed: int) -> tuple:
    params, w = forms.parameters(model, seed)
    return params, forms.inputs(model.vocab_size, length, seed=seed), w

  return programs.compiled(forms.gradient(form, model), inputs)


def plan(setting: Setting, *, at: int) -> study.Record:
  """Temporary memory at a length, unless that is too long."""
  if setting.longest is not None and at > setting.longest:
    return {}
  return {
    'bytes': compiled(setting.form(at), setting.model, at).temporary_bytes
  }


def count(setting: Setting, *, at: int) -> study.Record:
  """FLOPs of the whole gradient."""
  model = setting.model
  shapes = jax.eval_shape(lambda: forms.parameters(model, 0)[0])
  batch = forms.inputs(model.vocab_size, at, seed=0)
  function = forms.gradient(setting.form(at), model)
  return {'FLOPs': counting.matmul_flops(function, shapes, batch, None)}


@dataclasses.dataclass(frozen=True)
class Turns:
  """Gradients that are compared side by side."""

  model: model_lib.SlimTransformer  # Settings of the model.
  length: int  # L.
  chosen: tuple[forms.Form, ...]  # Forms.
  turns: int = 3  # Of each form and seed.


def take_turns(setting: Turns, *, seed: int) -> study.Record:
  """Times over that of the first form, and its seconds.

  Raises:
    RuntimeError: if a form does not compute what it should.
  """
  built = {}
  for form in setting.chosen:
    wrong = forms.wrong(form, setting.model)
    if wrong is not None:
      raise RuntimeError(f'nothing to time: {form}: {wrong}')
    make = functools.partial(compiled, form, setting.model)
    built[harness.Form(form, make)] = make(setting.length)
  how = programs.Settings(rounds=setting.turns, seconds=120.0)
  measured = harness.measure(setting.length, built, how, seeds=(seed,))
  results, first = harness.Results(measured), setting.chosen[0]
  return {
    str(one.form): results.ratio(one.case, one.form, first).wall
    for one in measured
  } | {'seconds': measured[0].median('wall')}


def _plans(
  model: model_lib.SlimTransformer, lengths: Sequence[int]
) -> study.Study:
  arms = {'full': Setting(model, 'full', longest=16384)}
  arms |= {str(form): Setting(model, form.kind, form.chunk) for form in FORMS}
  arms[f'checkpoint C={ROOT}'] = Setting(model, 'checkpoint', ROOT)
  return study.Study(plan, arms, seeds=None, at=lengths)


_SCALES = {
  'tiny': (forms.build(forms.Sizes(vocab=64)), (1024, 4096, 16384)),
  'paper': (
    forms.build(forms.Sizes(1024, 16, 3, 4096, 256)),
    (1024, 4096, 16384, 65536, 262144),
  ),
}
_PLANS = {name: _plans(*scale) for name, scale in _SCALES.items()}


def _middle(lengths: Sequence[int]) -> int:
  """The length at which chunks are compared."""
  return lengths[len(lengths) // 2]


# Memory against L.

_FLAT, _GROWS = f'subtract C={_C}', f'checkpoint C={ROOT}'


def _lines(results: study.Results) -> dict[str, dict[int, float]]:
  """Bytes by length; those of `subtract` without possible copies of inputs."""
  lines = {
    arm: {at: x[0] for at, x in results.by_place(arm, 'bytes').items()}
    for arm in ('full', _FLAT, f'checkpoint C={_C}', _GROWS)
  }
  start, least = next(iter(lines[_FLAT].items()))
  lines[_FLAT] = {
    at: least + slim_bars.beyond_inputs(at, size, start, least)
    for at, size in lines[_FLAT].items()
  }
  return lines


def _explain_lines(results: study.Results) -> str:
  text = '; '.join(
    f'{arm}: ' + ', '.join(f'{v / MIB:.4g} at {n}' for n, v in line.items())
    for arm, line in _lines(results).items()
  )
  return f'Memory in MiB: {text}.'


_AGAINST_LENGTH = rows.Row(
  id='memory-against-length',
  claim='Memory is linear in L for whole sequences, constant by subtraction, and '
  'sub-linear with stored states whose chunk grows as sqrt(L) (exponent of L in '
  'temporary memory).',
  study=_PLANS,
  ours=lambda results: {
    arm: growth.slope(line) for arm, line in _lines(results).items()
  },
  trend=f'full: 1 +- 0.1; subtract: 0 +- 0.05, where {slim_bars.INPUT_BYTES} '
  f'bytes per position may be copies of inputs; checkpoint at C = {ROOT}: at most '
  '0.75',
  claims=(
    claims.close('full', to=1.0, within=0.1),
    claims.close(_FLAT, to=0.0, within=0.05),
    claims.below(_GROWS, than=0.75),
  ),
  figure=lambda results: figures.by_place(
    _lines(results),
    unit=MIB,
    xlabel='length L',
    ylabel='temporary memory (MiB)',
    xscale='log2',
    yscale='log',
  ),
  explain=_explain_lines,
  headline=_FLAT,
)

# FLOPs.

_EXPECTED = {'subtract': 4 / 3, 'checkpoint': 4 / 3, 'checkpoint2': 5 / 3}


def _counts(
  model: model_lib.SlimTransformer, lengths: Sequence[int]
) -> study.Study:
  arms = {kind: Setting(model, kind, _C) for kind in _EXPECTED}
  arms['full'] = Setting(model, 'full')
  return study.Study(count, arms, seeds=None, at=(_middle(lengths),))


def _flops(results: study.Results) -> dict[str, np.ndarray]:
  (at,) = results.study.at
  full = results('full', 'FLOPs', at=at)
  return {kind: results(kind, 'FLOPs', at=at) / full for kind in _EXPECTED}


_FLOPS = rows.Row(
  id='flops',
  claim='Chunks cost a constant factor: one more forward pass, two with two '
  'levels (FLOPs of matrix products over those of full).',
  study={name: _counts(*scale) for name, scale in _SCALES.items()},
  ours=_flops,
  trend='4/3 +- 10 % for subtract and checkpoint, 5/3 +- 10 % for checkpoint2',
  claims=[
    claims.close(kind, to=value, within=0.1 * value)
    for kind, value in _EXPECTED.items()
  ],
  figure=lambda results: figures.Bars(
    names=[*_EXPECTED],
    groups={'measured': [value[0] for value in _flops(results).values()]},
    marks={'expected': [*_EXPECTED.values()]},
    xlabel='FLOPs over those of full',
  ),
  explain=lambda results: (
    f'L={results.study.at[0]}, C={_C}. FLOPs are counted in the trace of the '
    'whole gradient.'
  ),
)

# Memory and time against C.


def _chunk_figure(
  values: Mapping[str, Sequence[float]], **axes: Any
) -> figures.Panel:
  """A line for each strategy over C, and the level of `full`."""
  means = {arm: np.mean(found) for arm, found in values.items()}
  return figures.lines(
    {kind: [means[f'{kind} C={c}'] for c in CHUNKS] for kind in KINDS},
    CHUNKS,
    style='o-',
    levels={'full': means['full']},
    xlabel='positions of a chunk C',
    xscale='log2',
    **axes,
  )


def _sizes(results: study.Results) -> dict[str, np.ndarray]:
  at = _middle(results.study.at)
  arms = [*map(str, FORMS), 'full']
  return {arm: results(arm, 'bytes', at=at) / MIB for arm in arms}


_SUBTRACT = [f'subtract C={chunk}' for chunk in CHUNKS]
_AGAINST_CHUNK = rows.Row(
  id='memory-against-chunk',
  claim='Smaller chunks need less memory (MiB of temporaries).',
  study=_PLANS,
  ours=_sizes,
  trend='subtract: rises with C; every C below full',
  claims=[
    claims.grows(_SUBTRACT, paired=False),
    *(claims.below(label, than='full') for label in _SUBTRACT),
  ],
  figure=lambda results: _chunk_figure(
    _sizes(results), ylabel='temporary memory (MiB)', yscale='log'
  ),
  explain=lambda results: f'L={_middle(results.study.at)}.',
)


def _turns(
  model: model_lib.SlimTransformer, lengths: Sequence[int]
) -> study.Study:
  chosen = (forms.Form('full'), *FORMS)
  return study.Study(
    take_turns, {'all': Turns(model, _middle(lengths), chosen)}
  )


_times = rows.numbers(*map(str, FORMS), form='{metric}')


_TIME = rows.Row(
  id='time-against-chunk',
  claim='Time rises as chunks become smaller, by a constant factor at usual sizes '
  '(time of a step over that of full).',
  study={name: _turns(*scale) for name, scale in _SCALES.items()},
  ours=_times,
  trend=f'{_SUBTRACT[0]} above {_SUBTRACT[-1]}; at most 1.6 for C >= 64',
  claims=[
    claims.above(_SUBTRACT[0], than=_SUBTRACT[-1], paired=True),
    *(claims.below(str(f), than=1.6) for f in FORMS if f.chunk >= 64),
  ],
  figure=lambda results: _chunk_figure(
    _times(results) | {'full': [1.0]},
    ylabel='time of a step over that of full',
    options={'ylim': (0, None)},
  ),
  explain=lambda results: (
    f'L={results.settings["all"].length}. Times are by the wall clock, medians '
    'over turns in one process. The time of full is '
    f'{1e3 * np.median(results("all", "seconds")):.0f} ms.'
  ),
)

ROWS = (_AGAINST_LENGTH, _FLOPS, _AGAINST_CHUNK, _TIME)
