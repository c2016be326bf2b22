"""Bars for attention on a CPU with two cores, and the growth of times.

The bars are for B = 1, H = 8, d = 64, r = 256, float32. Wall clock decides; CPU
time stands beside it, which a busy machine disturbs less.
"""

from collections.abc import Callable, Iterator

from benchmarks import attention_forms as forms
from benchmarks import growth, harness, programs, record
from runtime.record import pictures

MATMUL = 'matmul '  # Before the framework, in the key of a form.
Kind = tuple[bool, bool]  # (causal, backward)
_EXACT, _RECIPE, _TORCH, _PYTORCH = (
  *('jax.nn exact', 'published JAX', 'torch sdpa', 'performer-pytorch'),
)
_FROM = 1024  # Shorter lengths hide the growth behind constant costs.


def timed(
  results: harness.Results, form: str, causal: bool, backward: bool
) -> dict[int, harness.Measured]:
  """The timed measurements of a form and kind, by length."""
  found = {
    case.length: m
    for case, m in results.of(form).items()
    if (case.causal, case.backward) == (causal, backward) and m.samples
  }
  return dict(sorted(found.items()))


class _Grid:
  """Numbers about two forms, by kind and length."""

  def __init__(self, sizes: forms.Sizes, results: harness.Results) -> None:
    self._sizes, self._results = sizes, results
    self.names = [n for n in forms.NAMES if results.of(n)]

  def _over_length(
    self, ratio: Callable, ours: str, peer: str, kind: Kind
  ) -> dict:
    """A ratio of the peer over ours, by length, where both were measured."""
    cases = (self._sizes.case(*kind, n) for n in self._sizes.lengths)
    found = {case.length: ratio(case, peer, ours) for case in cases}
    return {n: x for n, x in found.items() if x not in (None, (None, None))}

  def least_speedup(
    self, ours: str, peer: str, kind: Kind, length: int = 0
  ) -> programs.Clocks:
    """Factor by which ours is faster at a length, or the least from 1k on."""
    found = self._over_length(self._results.ratio, ours, peer, kind)
    chosen = [x for n, x in found.items() if n == length or n >= _FROM > length]
    return programs.Clocks(*map(min, zip(*chosen, strict=True)))

  def least_memory(self, ours: str, peer: str, kind: Kind) -> float | None:
    """Factor by which ours needs less memory, the least from 1k on."""
    found = self._over_length(self._results.memory_ratio, ours, peer, kind)
    return min((x for n, x in found.items() if n >= _FROM), default=None)

  def crossover(self, ours: str, peer: str, kind: Kind) -> programs.Clocks:
    """The length from which ours is faster than a peer."""
    found = self._over_length(self._results.ratio, ours, peer, kind)
    columns = zip(*found.values(), strict=True)
    points = [dict(zip(found, column, strict=True)) for column in columns]
    return programs.Clocks(*map(growth.crossover, points))

  def matmul_fraction(
    self, ours: str, kind: Kind, length: int
  ) -> programs.Clocks:
    """Rate of the method's products over that of a matrix product."""
    case, product = self._sizes.case(*kind, length), MATMUL + 'jax'
    times = self._results.ratio(case, product, ours)
    if times.wall is None:
      return times
    work = self._results.get(case, product).program.extras['flops']
    share = forms.make(ours, case).flops(case) / work
    return programs.Clocks(*(share * x for x in times))


def summary(
  sizes: forms.Sizes, results: harness.Results
) -> Iterator[record.Row]:
  """Growth with the length, and the bars of each form of ours."""
  grid = _Grid(sizes, results)
  for what, kind in forms.KINDS.items():
    yield from _growth(grid, results, what, kind)
  for ours in forms.OURS:
    for causal in (False, True) if ours in grid.names else ():
      yield from _against_others(grid, ours, causal)
    if ours in grid.names:
      yield from _memory_and_compilation(sizes, results, ours)


def _growth(
  grid: _Grid, results: harness.Results, what: str, kind: Kind
) -> Iterator[record.Row]:
  """Exponents of L, and lengths from which ours is faster."""
  for name in grid.names:
    long = {n: m for n, m in timed(results, name, *kind).items() if n >= _FROM}
    if len(long) < 2:
      continue
    slopes = [
      growth.slope({n: m.median(clock) for n, m in long.items()})
      for clock in programs.CLOCKS
    ]
    ends = f'L={min(long)}-{max(long)}'
    yield record.value_row(f'{what}, {name}, {ends}: exponent of L', slopes)
    # The bars have those of torch.
    for ours in forms.OURS if name not in (*forms.OURS, _TORCH) else ():
      yield record.value_row(
        f'{ours}, {what}: length from which faster than {name}',
        grid.crossover(ours, name, kind),
      )


def _against_others(
  grid: _Grid, ours: str, causal: bool
) -> Iterator[record.Row]:
  row = record.value_row
  length, wanted = (1024, 11) if causal else (4096, 2.5)
  kinds = {k: v for k, v in forms.KINDS.items() if v[0] == causal}
  for name, kind in kinds.items():
    what = f'{ours}, {name}'
    least = f'{what}, least over L >= 1k'
    yield row(
      f'{least}: times faster than {_RECIPE}',
      grid.least_speedup(ours, _RECIPE, kind),
      at_least=2.0 if kind[1] else 2.2,
    )
    yield row(
      f'{least}: times less memory than {_RECIPE}',
      grid.least_memory(ours, _RECIPE, kind),
      at_least=5,
    )
    yield row(
      f'{what}, L={length}: times faster than {_PYTORCH}',
      grid.least_speedup(ours, _PYTORCH, kind, length),
      at_least=wanted,
    )
    yield row(
      f'{what}: length from which faster than {_TORCH}',
      grid.crossover(ours, _TORCH, kind),
      at_most=1536 if causal else 1024,
    )
  yield row(
    f'{what}, L=4096: times faster than {_EXACT}',
    grid.least_speedup(ours, _EXACT, kind, 4096),
    at_least=12 if causal else 15,
  )
  forward = what.removesuffix('+backward')
  yield row(
    f'{forward}, L=16384: times faster than {_TORCH}',
    grid.least_speedup(ours, _TORCH, (causal, False), 16384),
    at_least=6 if causal else 15,
  )
  yield row(
    f'{what}, L=4096: fraction of the matmul rate',
    grid.matmul_fraction(ours, kind, 4096),
    at_least=0.45 if causal else 0.6,
  )


def _memory_and_compilation(
  sizes: forms.Sizes, results: harness.Results, ours: str
) -> Iterator[record.Row]:
  what = f'{ours}, causal forward+backward'
  for length, wanted in ((4096, 65.0), (65536, 900.0)):
    found = results.get(sizes.case(True, True, length), ours)
    yield record.value_row(
      f'{what}, L={length}: temporary memory, MB',
      found and found.bytes / 1e6,
      at_most=wanted,
    )
  seconds = [
    m.program.compile_s
    for case, m in results.of(ours).items()
    if case.causal and case.backward and case.length >= _FROM
  ]
  yield record.value_row(
    f'{what}, L >= 1k: slowest over fastest compilation',
    max(seconds) / min(seconds) if len(seconds) > 1 else None,
    at_most=1.5,
  )


def panels(results: harness.Results) -> list[pictures.LogPanel]:
  """Time of each kind, and temporary memory of gradients, over the length."""
  found = []
  for text, kind in forms.KINDS.items():
    lines = {name: timed(results, name, *kind) for name in forms.NAMES}
    values = {'time (ms)': lambda m: 1e3 * m.median('wall')}
    if kind[1]:  # Zeros have no place on a logarithmic scale.
      values['temporary memory (MB)'] = lambda m: (m.bytes or 0) / 1e6 or None
    for what, value in values.items():
      points = {
        name: {n: value(m) for n, m in line.items() if value(m)}
        for name, line in lines.items()
      }
      points = {name: line for name, line in points.items() if line}
      found.append(pictures.LogPanel(f'{text}: {what}', 'length L', points))
  return [panel for panel in found if panel.lines]
