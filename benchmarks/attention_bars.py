"""What attention should reach on a CPU with two cores, and how times grow.

The bars are for B = 1, H = 8, d = 64, r = 256, float32. Wall clock decides; CPU
time stands beside it, which a busy machine disturbs less.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import attention_forms as forms
from benchmarks import growth, harness, programs, record

__all__ = ['MATMUL', 'Grid', 'panels', 'summary']

MATMUL = 'matmul '  # Before the framework, in the key of a form.
Case = forms.Case
Results = harness.Results
Kind = tuple[bool, bool]  # (causal, backward)
_EXACT, _RECIPE, _TORCH, _PYTORCH = (
  *('jax.nn exact', 'published JAX', 'torch sdpa', 'performer-pytorch'),
)
_FROM = 1024  # Shorter lengths hide the growth behind constant costs.
_LENGTHS = (1024, 2048, 4096, 8192, 16384)


class Grid:
  """Results by kind and length.

  Args:
    results: of one choice of sizes.
  """

  def __init__(self, results: Results) -> None:
    self.results = results
    self._cases = {
      (m.case.causal, m.case.backward, m.case.length): m.case for m in results
    }

  def case(self, causal: bool, backward: bool, length: int) -> Case | None:
    """The case, if it was measured."""
    return self._cases.get((causal, backward, length))

  def kinds(self) -> list[tuple[bool, bool]]:
    """The (causal, backward) that were measured."""
    return list(dict.fromkeys(key[:2] for key in self._cases))

  def names(self) -> list[str]:
    """Forms of attention in the order of their appearance."""
    found = dict.fromkeys(m.form for m in self.results)
    return [name for name in found if not name.startswith(MATMUL)]

  def timed(
    self, form: str, causal: bool, backward: bool
  ) -> list[harness.Measured]:
    """Timed measurements of a form, by length."""
    kind = (causal, backward)
    found = [
      m
      for m in self.results
      if (m.form, m.case.causal, m.case.backward) == (form, *kind) and m.samples
    ]
    return sorted(found, key=lambda m: m.case.length)

  def least_speedup(
    self,
    ours: str,
    peer: str,
    kind: Kind,
    lengths: Sequence[int],
  ) -> programs.Clocks:
    """How many times faster ours is; the least over the lengths."""
    found = [
      self.results.ratio(self.case(*kind, n), peer, ours) for n in lengths
    ]
    found = [x for x in found if x.wall is not None]
    if not found:
      return programs.Clocks()
    return programs.Clocks(*map(min, zip(*found, strict=True)))

  def least_memory(
    self, ours: str, peer: str, kind: Kind, lengths: Sequence[int]
  ) -> float | None:
    """How many times less memory ours needs; the least over the lengths."""
    found = [
      self.results.memory_ratio(self.case(*kind, n), peer, ours)
      for n in lengths
    ]
    return min((x for x in found if x is not None), default=None)

  def crossover(self, ours: str, peer: str, kind: Kind) -> programs.Clocks:
    """The length from which ours is faster than a peer."""
    lengths = [m.case.length for m in self.timed(peer, *kind)]
    ratios = {
      n: self.results.ratio(self.case(*kind, n), peer, ours) for n in lengths
    }
    known = {n: x for n, x in ratios.items() if x.wall is not None}
    columns = zip(*known.values(), strict=True) if known else ((), ())
    return programs.Clocks(*(growth.crossover(list(known), x) for x in columns))

  def matmul_fraction(self, form: str, case: Case | None) -> programs.Clocks:
    """Rate of the method's products over that of a matrix product."""
    product = MATMUL + forms.framework(form)
    times = self.results.ratio(case, product, form)
    if times.wall is None:
      return programs.Clocks()
    work = self.results.get(case, product).extras['flops']
    share = forms.make(form, case).flops(case) / work
    return programs.Clocks(*(share * x for x in times))


def summary(sizes: Any, results: Results) -> Iterator[record.Row]:
  """Growth with the length, and the bars of each form of ours."""
  del sizes
  grid = Grid(results)
  yield from _growth(grid)
  for ours in grid.names():
    if ours in forms.OURS:
      for causal in (False, True):
        yield from _against_others(grid, ours, causal)
      yield from _memory_and_compilation(grid, ours)


def _growth(grid: Grid) -> Iterator[record.Row]:
  """Exponents of L, and lengths from which ours is faster."""
  for kind in grid.kinds():
    for name in grid.names():
      long = [m for m in grid.timed(name, *kind) if m.case.length >= _FROM]
      if len(long) < 2:
        continue
      lengths = [m.case.length for m in long]
      yield record.value_row(
        f'{long[0].case.kind}, {name}, L={lengths[0]}-{lengths[-1]}: exponent '
        'of L',
        [
          growth.slope(lengths, [m.median(clock) for m in long])
          for clock in programs.CLOCKS
        ],
      )
      # The bars have those of torch.
      for ours in forms.OURS if name not in (*forms.OURS, _TORCH) else ():
        yield record.value_row(
          f'{long[0].case.kind}: length from which {ours} is faster than {name}',
          grid.crossover(ours, name, kind),
        )


def _against_others(
  grid: Grid, ours: str, causal: bool
) -> Iterator[record.Row]:
  direction = 'causal' if causal else 'bidirectional'
  for backward in (False, True):
    kind = (causal, backward)
    what = f'{ours}, {Case(*kind, 1).kind}'
    least = f'{what}, least over L >= 1k'
    yield record.value_row(
      f'{least}: times faster than {_RECIPE}',
      grid.least_speedup(ours, _RECIPE, kind, _LENGTHS),
      at_least=2.0 if backward else 2.2,
    )
    yield record.value_row(
      f'{least}: times less memory than {_RECIPE}',
      grid.least_memory(ours, _RECIPE, kind, _LENGTHS),
      at_least=5,
    )
    length, wanted = (1024, 11) if causal else (4096, 2.5)
    yield record.value_row(
      f'{what}, L={length}: times faster than {_PYTORCH}',
      grid.least_speedup(ours, _PYTORCH, kind, [length]),
      at_least=wanted,
    )
    yield record.value_row(
      f'{what}: length from which faster than {_TORCH}',
      grid.crossover(ours, _TORCH, kind),
      at_most=1536 if causal else 1024,
    )
  gradient = f'{ours}, {direction} forward+backward, L=4096'
  yield record.value_row(
    f'{gradient}: times faster than {_EXACT}',
    grid.least_speedup(ours, _EXACT, (causal, True), [4096]),
    at_least=12 if causal else 15,
  )
  yield record.value_row(
    f'{ours}, {direction} forward, L=16384: times faster than {_TORCH}',
    grid.least_speedup(ours, _TORCH, (causal, False), [16384]),
    at_least=6 if causal else 15,
  )
  yield record.value_row(
    f'{gradient}: fraction of the matmul rate',
    grid.matmul_fraction(ours, grid.case(causal, True, 4096)),
    at_least=0.45 if causal else 0.6,
  )


def _memory_and_compilation(grid: Grid, ours: str) -> Iterator[record.Row]:
  what = f'{ours}, causal forward+backward'
  for length, wanted in ((4096, 65.0), (65536, 900.0)):
    found = grid.results.get(grid.case(True, True, length), ours)
    yield record.value_row(
      f'{what}, L={length}: temporary memory, MB',
      found and found.temporary_bytes / 1e6,
      at_most=wanted,
    )
  seconds = [
    m.compile_s
    for m in grid.results
    if m.form == ours
    and (m.case.causal, m.case.backward) == (True, True)
    and m.case.length >= _FROM
  ]
  yield record.value_row(
    f'{what}, L >= 1k: slowest over fastest compilation',
    max(seconds) / min(seconds) if len(seconds) > 1 else None,
    at_most=1.5,
  )


def panels(results: Results) -> list[record.Panel]:
  """Time of both passes, then temporary memory, over the length."""
  grid = Grid(results)
  found = []
  for causal in dict.fromkeys(causal for causal, _ in grid.kinds()):
    passes = [b for c, b in grid.kinds() if c == causal]
    for backward in passes:
      lines = {
        name: [
          (m.case.length, 1e3 * m.median('wall'))
          for m in grid.timed(name, causal, backward)
        ]
        for name in grid.names()
      }
      what = Case(causal, backward, 1).kind
      found.append(_panel(f'{what}: time (ms)', lines))
    lines = {
      name: [
        (m.case.length, m.temporary_bytes / 1e6)
        for m in results
        if (m.form, m.case.causal, m.case.backward)
        == (name, causal, passes[-1])
        and m.temporary_bytes  # Zero has no place on a logarithmic scale.
      ]
      for name in grid.names()
    }
    found.append(_panel(f'{what}: temporary memory (MB)', lines))
  return found


def _panel(
  title: str, lines: dict[str, list[tuple[int, float]]]
) -> record.Panel:
  return record.Panel(
    title,
    'length L',
    [
      record.Line(
        name, *zip(*points, strict=True), '-' if name in forms.OURS else '--'
      )
      for name, points in lines.items()
      if points
    ],
  )
