"""Bars that training in sub-linear memory should clear, and its pictures.

Bytes come from the compiler, times from the wall clock. Notation: C positions
of a chunk, N = L / C chunks, sigma bytes of the state of all layers.
"""

from collections.abc import Callable, Iterable, Iterator

from benchmarks import growth, harness, record
from benchmarks import slim_forms as forms
from runtime.record import pictures

# Per position: tokens and targets, which may be copied once into chunks, and
# their weights and mask.
INPUT_BYTES = 16
_FROM = 2048
_CHUNKED = ('subtract', 'anchored', 'checkpoint', 'checkpoint2')
_FULL = forms.Form('full')
_WHERE_FULL_FITS = forms.Case(16384)
Measured = harness.Measured


def summary(
  chunks: Iterable[int], sigma: int, results: harness.Results
) -> Iterator[record.Row]:
  """A row per bar, with the worst value found; C in `chunks` have all lengths."""
  by_form = {
    (kind, c): results.of(forms.Form(kind, c))
    for kind in _CHUNKED
    for c in chunks
  }
  for chunk in chunks:
    subtract, stored = by_form['subtract', chunk], by_form['checkpoint', chunk]
    yield from _memory(chunk, sigma, subtract, stored)
  full = results.get(_WHERE_FULL_FITS, _FULL)
  found = [line.get(_WHERE_FULL_FITS) for line in by_form.values()]
  found = [full.bytes / m.bytes for m in found if full and m]
  yield record.value_row(
    f'{_WHERE_FULL_FITS}: times less memory than full, least of all',
    min(found, default=None),
    at_least=20,
  )
  for (kind, chunk), line in by_form.items():
    ratios = [
      results.ratio(case, m.form, _FULL).wall for case, m in line.items()
    ]
    yield _worst(
      f'{kind} C={chunk}: time over that of full, worst length',
      [x for x in ratios if x is not None],
      1.6,
    )
  yield from _compilation(results, by_form)


def beyond_inputs(at: int, bytes_at: int, start: int, start_bytes: int) -> int:
  """Growth of temporaries less what copies of the inputs may explain.

  Args:
    at: a length.
    bytes_at: temporaries there.
    start: a shorter length.
    start_bytes: temporaries there.

  Returns:
    Bytes; 0 if the growth is between nothing and `INPUT_BYTES` per position,
    negative if memory shrinks.
  """
  grown = bytes_at - start_bytes
  return grown - min(max(grown, 0), INPUT_BYTES * (at - start))


def _worst(case: str, found: Iterable[float], at_most: float) -> record.Row:
  return record.value_row(case, max(found, default=None), at_most=at_most)


def _memory(
  chunk: int,
  sigma: int,
  subtract: dict[forms.Case, Measured],
  stored: dict[forms.Case, Measured],
) -> Iterator[record.Row]:
  start = subtract.get(forms.Case(_FROM))
  long = [case for case in subtract if case.length > _FROM]
  yield _worst(
    f'subtract C={chunk}, L > {_FROM}: memory apart from that at {_FROM},'
    f' less {INPUT_BYTES} bytes per position (share)',
    [
      abs(beyond_inputs(c.length, subtract[c].bytes, _FROM, start.bytes))
      / start.bytes
      for c in (long if start else ())
    ],
    0.05,
  )
  yield _worst(
    f'checkpoint less subtract, C={chunk}, L > {_FROM}: memory apart from'
    ' sigma N (share)',
    [
      abs((stored[c].bytes - subtract[c].bytes) * chunk / c.length / sigma - 1)
      for c in long
      if c in stored
    ],
    0.1,
  )


def _compilation(
  results: harness.Results, by_form: dict[tuple[str, int], dict]
) -> Iterator[record.Row]:
  """Exponents of L and of C, by CPU time and by size of the program."""
  measures: dict[str, Callable[[Measured], float]] = {
    'time to compile': lambda m: m.program.compile_s,
    'compiled program': lambda m: m.program.extras['instructions'],
  }
  for what, value in measures.items():
    for kind in _CHUNKED:
      lines = [x for (k, _), x in by_form.items() if k == kind and len(x) > 1]
      yield _worst(
        f'{what}, {kind}: exponent of L',
        [_exponent({c.length: value(m) for c, m in x.items()}) for x in lines],
        0.1,
      )
      swept = _most([m for m in results if m.form.kind == kind])
      points = {m.form.chunk: value(m) for m in swept}
      slopes = [_exponent(points)] if len(points) > 1 else []
      yield _worst(f'{what}, {kind}: exponent of C', slopes, 0.1)


def _most(measured: list[Measured]) -> list[Measured]:
  """Measurements of the case with most forms: the sweep over chunks."""
  cases = [m.case for m in measured]
  most = max(cases, key=cases.count, default=None)
  return [m for m in measured if m.case == most]


def _exponent(points: dict[int, float]) -> float:
  """Size of p in value ~ x^p."""
  return abs(growth.slope(points))


def panels(results: harness.Results) -> list[pictures.LogPanel]:
  """Memory over L, and memory and time over C where most chunks are."""
  mib = lambda m: m.bytes / 2**20
  over_length = {
    str(form): {case.length: mib(m) for case, m in results.of(form).items()}
    for form in dict.fromkeys(m.form for m in results)
  }
  lines = {name: line for name, line in over_length.items() if len(line) > 1}
  swept = _most(list(results))
  at = swept[0].case
  value = lambda m: 1e3 * m.median('wall')
  timed = [m for m in swept if m.samples]
  return [
    pictures.LogPanel('temporary memory (MiB)', 'length L', lines),
    _over_chunk(f'temporary memory (MiB), {at}', swept, mib, log_y=True),
    _over_chunk(f'time of a step (ms), {at}', timed, value, log_y=False),
  ]


def _over_chunk(
  title: str,
  measured: list[Measured],
  value: Callable[[Measured], float],
  *,
  log_y: bool,
) -> pictures.LogPanel:
  """Lines over C; a form without chunks is a level."""
  chunks = [m.form.chunk for m in measured if m.form.chunk] or [1, 2]
  lines: dict[str, dict[int, float]] = {}
  for m in measured:
    at = (m.form.chunk,) if m.form.chunk else (min(chunks), max(chunks))
    lines.setdefault(m.form.kind, {}).update(dict.fromkeys(at, value(m)))
  return pictures.LogPanel(title, 'positions of a chunk C', lines, log_y)
