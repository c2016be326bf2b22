"""Bars that training in sub-linear memory should clear, and its pictures.

Bytes come from the compiler, times from the wall clock. Notation: C positions
of a chunk, N = L / C chunks, sigma bytes of the state of all layers.
"""

from collections.abc import Callable, Iterator, Sequence

from benchmarks import growth, harness, record

__all__ = ['INPUT_BYTES', 'beyond_inputs', 'panels', 'summary']

# Per position: tokens and targets, which may be copied once into chunks, and
# their weights and mask.
INPUT_BYTES = 16
_FROM = 2048
_CHUNKED = ('subtract', 'anchored', 'checkpoint', 'checkpoint2')
_WHERE_FULL_FITS = 16384
_STYLES = ('-', '--', ':', '-.')
Measured = harness.Measured
Kinds = dict[str, list[Measured]]


def summary(measured: Sequence[Measured], sigma: int) -> Iterator[record.Row]:
  """Compares what was measured with the bars.

  Args:
    measured: all forms.
    sigma: bytes of a state.

  Yields:
    A row per bar, with the worst value that was found.
  """
  by_kind: Kinds = {}
  for one in measured:
    by_kind.setdefault(one.form.kind, []).append(one)
  for chunk in _chunks(by_kind.get('subtract', [])):
    yield from _memory(by_kind, chunk, sigma)
  yield _against_full(by_kind)
  yield from _times(by_kind, harness.Results(measured))
  yield from _compilation(by_kind)


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
  growth_bytes = bytes_at - start_bytes
  return growth_bytes - min(max(growth_bytes, 0), INPUT_BYTES * (at - start))


def _chunks(measured: Sequence[Measured]) -> list[int]:
  """Chunks that were measured at several lengths."""
  lengths: dict[int, set[int]] = {}
  for one in measured:
    lengths.setdefault(one.form.chunk, set()).add(one.case.length)
  return sorted(chunk for chunk, found in lengths.items() if len(found) > 1)


def _by_length(
  measured: Sequence[Measured], chunk: int | None
) -> dict[int, Measured]:
  return {m.case.length: m for m in measured if m.form.chunk == chunk}


def _worst(case: str, found: Sequence[float], at_most: float) -> record.Row:
  return record.value_row(case, max(found, default=None), at_most=at_most)


def _memory(by_kind: Kinds, chunk: int, sigma: int) -> Iterator[record.Row]:
  subtract = _by_length(by_kind['subtract'], chunk)
  stored = _by_length(by_kind.get('checkpoint', []), chunk)
  start = subtract.get(_FROM)
  flat = [
    abs(beyond_inputs(n, m.temporary_bytes, _FROM, start.temporary_bytes))
    / start.temporary_bytes
    for n, m in subtract.items()
    if start is not None and n > _FROM
  ]
  yield _worst(
    f'subtract C={chunk}, L > {_FROM}: memory apart from that at {_FROM},'
    f' less {INPUT_BYTES} bytes per position (share)',
    flat,
    0.05,
  )
  states = [
    abs((stored[n].temporary_bytes - m.temporary_bytes) * chunk / n / sigma - 1)
    for n, m in subtract.items()
    if n > _FROM and n in stored
  ]
  yield _worst(
    f'checkpoint less subtract, C={chunk}, L > {_FROM}: memory apart from'
    ' sigma N (share)',
    states,
    0.1,
  )


def _against_full(by_kind: Kinds) -> record.Row:
  full = _by_length(by_kind.get('full', []), None).get(_WHERE_FULL_FITS)
  found = [
    full.temporary_bytes / one.temporary_bytes
    for kind in _CHUNKED
    for one in by_kind.get(kind, [])
    if full is not None
    and one.case == full.case
    and one.form.chunk in _chunks(by_kind[kind])
  ]
  return record.value_row(
    f'L={_WHERE_FULL_FITS}: times less memory than full, least of all',
    min(found, default=None),
    at_least=20,
  )


def _times(by_kind: Kinds, results: harness.Results) -> Iterator[record.Row]:
  full = _by_length(by_kind.get('full', []), None)
  for kind in _CHUNKED:
    for chunk in _chunks(by_kind.get(kind, [])):
      ratios = [
        results.ratio(m.case, m.form, full[n].form).wall
        for n, m in _by_length(by_kind[kind], chunk).items()
        if n in full
      ]
      yield _worst(
        f'{kind} C={chunk}: time over that of full, worst length',
        [x for x in ratios if x is not None],
        1.6,
      )


def _compilation(by_kind: Kinds) -> Iterator[record.Row]:
  """Exponents of L and of C, by CPU time and by size of the program."""
  measures: dict[str, Callable[[Measured], float]] = {
    'time to compile': lambda m: m.compile_s,
    'compiled program': lambda m: m.extras['instructions'],
  }
  for what, value in measures.items():
    for kind in _CHUNKED:
      measured = by_kind.get(kind, [])
      of_length = [
        _exponent(
          {m.case.length: value(m) for m in measured if m.form.chunk == chunk}
        )
        for chunk in _chunks(measured)
      ]
      yield _worst(f'{what}, {kind}: exponent of L', of_length, 0.1)
      # At the length of the sweep over chunks.
      lengths = [m.case.length for m in measured]
      at = max(set(lengths), key=lengths.count, default=None)
      points = {m.form.chunk: value(m) for m in measured if m.case.length == at}
      of_chunk = [_exponent(points)] if len(points) > 1 else []
      yield _worst(f'{what}, {kind}: exponent of C', of_chunk, 0.1)


def _exponent(points: dict[int, float]) -> float:
  """Size of p in value ~ x^p."""
  return abs(growth.slope(list(points), list(points.values())))


def panels(measured: Sequence[Measured]) -> list[record.Panel]:
  """Memory over L, and memory and time over C where most chunks are."""
  mib = lambda m: m.temporary_bytes / 2**20
  forms = list(dict.fromkeys(m.form for m in measured))
  chunks = sorted({form.chunk for form in forms if form.chunk})
  lines = []
  for form in forms:
    line = {m.case.length: mib(m) for m in measured if m.form == form}
    if len(line) > 1:
      style = _STYLES[chunks.index(form.chunk) % 4 if form.chunk else 0]
      x = sorted(line)
      y = [line[n] for n in x]
      lines.append(record.Line(str(form), x, y, style, form.kind))
  found = [record.Panel('temporary memory (MiB)', 'length L', lines)]
  cases = [m.case for m in measured]
  most = max(cases, key=cases.count)
  at = [m for m in measured if m.case == most]
  timed = [m for m in at if m.samples]
  title = f'(MiB), {most}'
  found.append(_over_chunk(f'temporary memory {title}', at, mib, log_y=True))
  if timed:
    value = lambda m: 1e3 * m.median('wall')
    title = f'time of a step (ms), {most}'
    found.append(_over_chunk(title, timed, value, log_y=False))
  return found


def _over_chunk(
  title: str,
  measured: Sequence[Measured],
  value: Callable[[Measured], float],
  *,
  log_y: bool,
) -> record.Panel:
  """Lines over C; a form without chunks is a level."""
  chunks = sorted({m.form.chunk for m in measured if m.form.chunk})
  lines = []
  for kind in dict.fromkeys(m.form.kind for m in measured):
    line = {m.form.chunk: value(m) for m in measured if m.form.kind == kind}
    if None in line:
      ends = [chunks[0], chunks[-1]] if chunks else [1, 2]
      lines.append(record.Line(kind, ends, 2 * [line[None]], ':'))
    else:
      x = sorted(line)
      lines.append(record.Line(kind, x, [line[c] for c in x]))
  return record.Panel(title, 'positions of a chunk C', lines, log_y)
