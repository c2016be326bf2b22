"""Pictures per second of supernets: fused and naive cells, and IMPALA's network.

Cases are three sizes of pictures and networks, each forward and with gradients of
all parameters. IMPALA's network of equal depths is the peer: what a search costs
more than training without one. A form must give the naive form's numbers.

One more case is updates inside `lax.scan`, as agents learn; see `convolutions` for
what makes loops fast on a CPU.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import harness, programs, record
from nas.rl_darts import networks
from rl import networks as rl_networks

FUSED, NAIVE, DISCRETE, IMPALA = 'fused', 'naive', 'discrete', 'IMPALA'
_UPDATES = 4  # Of a loop.
_TOLERANCE = 1e-3  # Of sums over all pictures, in float32.


class Case(NamedTuple):
  """Pictures of a size through a network: without gradients, with, in a loop."""

  side: int
  depths: tuple[int, ...]
  gradient: bool
  loop: bool = False

  def __str__(self) -> str:
    what = 'gradient' if self.gradient else 'forward'
    what = 'updates in a loop' if self.loop else what
    depths = ' '.join(map(str, self.depths))
    return f'{self.side}x{self.side}, [{depths}], {what}'


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the measurement."""

  batch: int = 64
  sides: tuple[int, ...] = (10, 16, 64)
  depths: tuple[tuple[int, ...], ...] = ((16,), (16, 16), (16, 32, 32))
  gradient_bars: tuple[float, ...] = (4.0, 3.0, 3.0)  # Times IMPALA's.
  looped: int = 0  # Which of them is also measured in a loop.


def _cases(sizes: Sizes) -> list[Case]:
  chosen = sizes.sides[sizes.looped], sizes.depths[sizes.looped]
  return [
    Case(side, depths, gradient)
    for side, depths in zip(sizes.sides, sizes.depths, strict=True)
    for gradient in (False, True)
  ] + [Case(*chosen, gradient=True, loop=True)]


def _network(name: str, case: Case) -> Any:
  if name == IMPALA:
    return rl_networks.ImpalaCNN(case.depths)
  micro = networks.Micro(depths=case.depths)
  if name == DISCRETE:
    p = {'edges': jnp.zeros((micro.space.num_edges, len(micro.space.ops)))}
    return micro.clone(architecture=micro.derive({'normal': p}))
  return micro.clone(form=name)


def _program(name: str, case: Case, batch: int) -> programs.Program:
  network = _network(name, case)
  shape = (batch, case.side, case.side, 3)
  dummy = jnp.zeros((1, *shape[1:]))
  params = jax.jit(network.init)(jax.random.key(0), dummy)

  def loss(params: Any, pictures: jax.Array) -> jax.Array:
    return jnp.sum(network.apply(params, pictures) ** 2)

  def inputs(seed: int) -> tuple:
    return params, jax.random.uniform(jax.random.key(seed), shape)

  def updates(params: Any, pictures: jax.Array) -> Any:
    def update(params: Any, _: None) -> tuple[Any, None]:
      grads = jax.grad(loss)(params, pictures)
      return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), None

    return jax.lax.scan(update, params, length=_UPDATES)[0]

  if case.loop:
    return programs.compiled(updates, inputs, units=_UPDATES * batch)
  run = jax.grad(loss) if case.gradient else network.apply
  return programs.compiled(run, inputs, units=batch)


def _check(case: Case, built: programs.Program, batch: int) -> str | None:
  """Says by how much the fused form differs from the naive one."""
  reference = _program(NAIVE, case, batch)
  found, expected = (p.call(*p.inputs(1)) for p in (built, reference))
  gaps = {'result': programs.disagreement(found, expected)}
  return programs.judged(gaps, _TOLERANCE)


def _forms(sizes: Sizes, case: Case) -> list[harness.Form]:
  make = lambda name: lambda case: _program(name, case, sizes.batch)
  check = lambda case, built: _check(case, built, sizes.batch)
  return [
    harness.Form(FUSED, make(FUSED), check, ours=True),
    *(harness.Form(name, make(name)) for name in (DISCRETE, NAIVE, IMPALA)),
  ]


def _summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  """Bars: how many times faster than naive, and dearer than IMPALA's."""
  for case in _cases(sizes):
    times = results.ratio(case, NAIVE, FUSED).cpu
    if times is not None:
      text = f'{case}: times faster than {NAIVE}'
      yield record.value_row(text, times, at_least=2.0)
    cost = results.ratio(case, FUSED, IMPALA).cpu
    if cost is not None:
      most = sizes.gradient_bars[sizes.sides.index(case.side)]
      bar = {'at_most': most} if case.gradient else {}
      yield record.value_row(f'{case}: cost in units of IMPALA', cost, **bar)
    for name in (FUSED, DISCRETE, NAIVE, IMPALA):
      seconds = results.median(case, name, 'wall')
      if seconds is not None:
        text = f'{case}, {name}: pictures per second'
        yield record.value_row(text, 1 / seconds)


SUBJECT = harness.Subject(
  'rl_darts',
  Sizes(),
  quick=Sizes(
    batch=2,
    sides=(6, 8),
    depths=((4,), (4, 4)),
    gradient_bars=(4.0, 3.0),
  ),
  cases=_cases,
  forms=_forms,
  summary=_summary,
  settings=programs.Settings(rounds=9, seconds=20.0),
  clock='cpu',
  unit='CPU ms per picture',
  packages=('jax', 'jaxlib', 'flax', 'numpy'),
)
