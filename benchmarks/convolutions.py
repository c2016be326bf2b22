"""Learning from pictures in a loop, as agents do: our convolutions beside JAX's.

Cases are the networks of agents: pictures of their size, updates inside `lax.scan`.
JAX's gradients of convolutions are slow there on a CPU. Outside of loops both are
the same programs. On other devices both are JAX's.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from benchmarks import harness, programs, record
from rl import convolutions, networks

OURS, JAX = 'ours', 'JAX'
_UPDATES = 2  # Of a loop.
_RATE = 1e-6  # Of learning.
_TOLERANCE = 1e-2  # Of small steps of parameters, in float32.
_NETWORKS: dict[str, tuple[nn.Module, tuple[int, int, int]]] = {
  'IMPALA [16], 10x10': (networks.ImpalaCNN((16,)), (10, 10, 3)),
  'IMPALA [16, 16], 16x16': (networks.ImpalaCNN((16, 16)), (16, 16, 3)),
  'IMPALA [16, 32, 32], 64x64': (networks.ImpalaCNN(), (64, 64, 3)),
  'Nature, 84x84': (networks.NatureCNN(), (84, 84, 4)),
}


class Case(NamedTuple):
  """Updates of a network, in a loop or one at a time."""

  network: str
  loop: bool

  def __str__(self) -> str:
    return f'{self.network}, {"in a loop" if self.loop else "one update"}'


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the measurement."""

  batch: int = 16
  networks: tuple[str, ...] = tuple(_NETWORKS)


def _updates(case: Case) -> Callable[[Any, jax.Array], Any]:
  network, _ = _NETWORKS[case.network]

  def loss(params: Any, pictures: jax.Array) -> jax.Array:
    return jnp.sum(network.apply(params, pictures) ** 2)

  def update(params: Any, pictures: jax.Array) -> Any:
    grads = jax.grad(loss)(params, pictures)
    return jax.tree.map(lambda p, g: p - _RATE * g, params, grads)

  def several(params: Any, pictures: jax.Array) -> Any:
    step = lambda params, _: (update(params, pictures), None)
    return lax.scan(step, params, length=_UPDATES)[0]

  return several if case.loop else update


def _program(name: str, case: Case, batch: int) -> programs.Program:
  network, shape = _NETWORKS[case.network]
  params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, *shape)))

  def inputs(seed: int) -> tuple:
    return params, jax.random.uniform(jax.random.key(seed), (batch, *shape))

  units = batch * (_UPDATES if case.loop else 1)
  found = {
    OURS: convolutions.conv_general_dilated,
    JAX: lax.conv_general_dilated,
  }
  with mock.patch.object(convolutions, 'conv_general_dilated', found[name]):
    return programs.compiled(_updates(case), inputs, units=units)


def _check(case: Case, built: programs.Program, batch: int) -> str | None:
  """Says by how much steps of parameters differ from those by JAX's gradients."""
  reference = _program(JAX, case._replace(loop=False), batch)
  params, pictures = built.inputs(1)
  expected = params
  for _ in range(_UPDATES if case.loop else 1):
    expected = reference.call(expected, pictures)
  steps = [
    jax.tree.map(jnp.subtract, found, params)
    for found in (built.call(params, pictures), expected)
  ]
  return programs.judged({'steps': programs.disagreement(*steps)}, _TOLERANCE)


def _forms(sizes: Sizes, case: Case) -> list[harness.Form]:
  make = lambda name: lambda case: _program(name, case, sizes.batch)
  check = lambda case, built: _check(case, built, sizes.batch)
  return [
    harness.Form(OURS, make(OURS), check, ours=True),
    harness.Form(JAX, make(JAX)),
  ]


def _cases(sizes: Sizes) -> list[Case]:
  return [Case(name, loop) for name in sizes.networks for loop in (True, False)]


def _summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  """Bars: faster in loops; what a loop costs beside single updates."""
  for name in sizes.networks:
    loop, single = Case(name, loop=True), Case(name, loop=False)
    times = results.ratio(loop, JAX, OURS).cpu
    text = f'{loop}: times faster than JAX'
    yield record.value_row(text, times, at_least=3.0)
    pair = [results.median(case, OURS, 'cpu') for case in (loop, single)]
    text = f'{name}: an update in a loop over one outside'
    yield record.value_row(
      text, pair[0] / pair[1] if all(pair) else None, at_most=1.5
    )


SUBJECT = harness.Subject(
  'convolutions',
  Sizes(),
  quick=Sizes(batch=1, networks=('IMPALA [16], 10x10',)),
  cases=_cases,
  forms=_forms,
  summary=_summary,
  settings=programs.Settings(rounds=7, seconds=20.0),
  clock='cpu',
  unit='CPU ms per picture',
  packages=('jax', 'jaxlib', 'flax', 'numpy'),
)
