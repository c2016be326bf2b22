"""Compiling, checking and timing the forms of `bench_slim_forms.py`."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import bench_attention_runs as runs
import bench_slim_forms as forms
import jax
from jaxtyping import PyTree

from performer.slim import language, planner

__all__ = [
  'CHECK_LENGTH',
  'Bench',
  'Record',
  'Reference',
  'planned',
  'temporary_bytes',
]

CHECK_LENGTH = 512
# Of loss and gradient against float64, relative; rounding gives 1e-7 to 1e-6.
_TOLERANCE = 1e-5

Clock = Literal['wall', 'cpu']


@dataclasses.dataclass(frozen=True)
class Record:
  """One form at one length.

  Attributes:
    form: the form.
    length: L.
    temporary_bytes: that the compiler plans besides inputs and outputs.
    compile_s: CPU seconds to trace and compile.
    instructions: lines of the compiled program, which no clock disturbs.
    planned_bytes: what the planner expects; None for peers.
    samples: its turns; empty if it was only compiled.
  """

  form: forms.Form
  length: int
  temporary_bytes: int
  compile_s: float
  instructions: int
  planned_bytes: int | None = None
  samples: Sequence[runs.Sample] = ()

  def median(self, clock: Clock) -> float:
    """Median seconds of a step."""
    return statistics.median(getattr(s, clock) for s in self.samples)


def temporary_bytes(compiled: Any) -> int:
  """Temporary memory of a compiled function.

  Raises:
    RuntimeError: if this platform does not tell.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise RuntimeError('the compiler of this platform tells no memory')
  return analysis.temp_size_in_bytes


def planned(
  form: forms.Form, model: Any, params: PyTree, batch: Mapping[str, Any]
) -> int | None:
  """Bytes that `planner.plan` expects of a form; None for peers."""
  if not form.ours:
    return None
  plan = planner.plan(
    forms.problem(model),
    params,
    batch,
    strategy=form.kind,
    chunk=form.chunk,
    constants=language.Constants(None),
  )
  return plan.chosen.temporary_bytes


class Reference:
  """A loss and its gradient in float64, at a short length.

  Attributes:
    model: float32, whose gradients are to be checked.
  """

  def __init__(self, sizes: forms.Sizes, *, seed: int = 1) -> None:
    self.model = forms.build(sizes)
    params, w = forms.parameters(self.model, seed)
    batch = forms.inputs(sizes.vocab, CHECK_LENGTH, seed=seed)
    self._arrays = (params, batch, w)
    self._loss, self._grads = forms.defined(self.model, *self._arrays)

  def disagreement(self, gradient: forms.Gradient) -> str | None:
    """Says what of a function is off and by how much; None: nothing."""
    loss, grads, _ = jax.jit(gradient)(*self._arrays)
    gaps = {
      'loss': abs(float(loss) - self._loss) / abs(self._loss),
      'gradient': forms.apart(grads, self._grads),
    }
    for name, gap in gaps.items():
      if not gap <= _TOLERANCE:  # A NaN fails too.
        return f'{name} is off by {gap:.2g}, more than {_TOLERANCE:g}'
    return None


class Bench:
  """Compiles and times accepted forms, length by length.

  Attributes:
    model: the model.
    records: what was measured.
  """

  def __init__(
    self,
    sizes: forms.Sizes,
    *,
    rounds: int = 7,
    seconds: float = 12.0,
    whole_up_to: int = 16384,
  ) -> None:
    self.model = forms.build(sizes)
    self._sizes = sizes
    self._params, self._projections = forms.parameters(self.model, 0)
    self._rounds, self._seconds = rounds, seconds
    self._whole_up_to = whole_up_to
    self.records: list[Record] = []

  def measure(
    self,
    chosen: Sequence[forms.Form],
    length: int,
    *,
    timed: bool,
    seeds: Sequence[int] = (0,),
  ) -> None:
    """Compiles forms that fit a length and, if asked, times them in turns.

    Args:
      chosen: forms; those that keep all activations must fit.
      length: L.
      timed: whether to run them.
      seeds: of the inputs. A record has the turns of all, in their order.
    """
    fits = [f for f in chosen if length <= self._whole_up_to or not f.whole]
    records, compiled = {}, {}
    for form in fits:
      batch = self._inputs(length, 0)
      records[form.name], compiled[form.name] = self._compile(form, batch)
    samples: dict[str, list[runs.Sample]] = {name: [] for name in records}
    for seed in seeds if timed else ():
      arrays = (self._params, self._inputs(length, seed), self._projections)
      calls = {
        name: functools.partial(_finish, function, arrays)
        for name, function in compiled.items()
      }
      turns = runs.alternate(calls, rounds=self._rounds, seconds=self._seconds)
      for name, found in turns.items():
        samples[name] += found
    self.records += [
      dataclasses.replace(record, samples=samples[name])
      for name, record in records.items()
    ]

  def _inputs(self, length: int, seed: int) -> dict[str, Any]:
    batch = forms.inputs(self._sizes.vocab, length, seed=seed)
    return jax.tree.map(jax.device_put, batch)

  def _compile(
    self, form: forms.Form, batch: Mapping[str, Any]
  ) -> tuple[Record, Callable[..., Any]]:
    arrays = (self._params, batch, self._projections)
    start = time.process_time()  # Other processes must not count.
    lowered = jax.jit(forms.gradient(form, self.model)).lower(*arrays)
    compiled = lowered.compile()
    seconds = time.process_time() - start
    record = Record(
      form,
      batch['tokens'].shape[1],
      temporary_bytes(compiled),
      seconds,
      len(compiled.as_text().splitlines()),
      planned(form, self.model, self._params, batch),
    )
    return record, compiled


def _finish(function: Callable[..., Any], arrays: tuple) -> None:
  """Calls and waits for the result."""
  jax.block_until_ready(function(*arrays))
