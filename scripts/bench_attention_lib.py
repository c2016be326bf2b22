"""Measuring accepted forms of attention, case by case, in turns."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import bench_attention_forms as forms
import bench_attention_report as report
import bench_attention_runs as runs
import jax
import jax.numpy as jnp

__all__ = ['Bench', 'Settings', 'accept']


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to measure.

  Attributes:
    rounds: turns of each form at most.
    seconds: of each form at each case, after which it takes no more turns.
    call_seconds: a form whose call is expected to last longer is left out.
    memory_bytes: a form that needs more is left out.
    scale: standard deviation of q and k while timing.
    error_scales: the same for the errors.
    matmul: size of the square matrix product that measures the machine.
  """

  rounds: int = 15
  seconds: float = 6.0
  call_seconds: float = 15.0
  memory_bytes: int = 6 * 2**30
  scale: float = 1.0
  error_scales: tuple[float, ...] = (0.25, 0.5, 1.0)
  matmul: int = 2048


def accept(
  chosen: Mapping[str, forms.Form], cases: Sequence[forms.Case]
) -> tuple[dict[tuple[str, bool], forms.Form], list[dict[str, str]]]:
  """Sorts out the forms that compute what they should.

  Args:
    chosen: forms by name.
    cases: whose kinds are checked.

  Returns:
    The forms that may be timed, by name and causal; and for those refused the
    name, kind and reason.
  """
  accepted, refused = {}, []
  for causal in dict.fromkeys(case.causal for case in cases):
    case = next(case for case in cases if case.causal == causal)
    kind = 'causal' if causal else 'bidirectional'
    for name, form in chosen.items():
      reason = 'has no such kind'
      if causal or not form.causal_only:
        reason = runs.check(form, case)
      if reason is None:
        accepted[name, causal] = form
        continue
      print(f'not timed: {form.name}, {kind}: {reason}', flush=True)
      refused.append({'form': form.name, 'kind': kind, 'reason': reason})
  return accepted, refused


class Bench:
  """Times accepted forms case by case.

  Attributes:
    records: what was measured.
    skipped: what was not, and why.
  """

  def __init__(
    self,
    accepted: Mapping[tuple[str, bool], forms.Form],
    settings: Settings,
  ) -> None:
    self._accepted = accepted
    self._settings = settings
    self._errors: dict[tuple[str, bool, int], dict[float, float]] = {}
    self.records: list[report.Record] = []
    self.skipped: list[dict[str, str]] = []

  def time(self, case: forms.Case, *, seeds: Sequence[int] = (0,)) -> None:
    """Times every form that fits the case, in turns, for inputs of each seed.

    Args:
      case: what to time; the gradient after the forward pass of its length.
      seeds: of the inputs. A record has the turns of all, in their order.
    """
    settings = self._settings
    started = {
      name: runs.Run(form, case, scale=settings.scale)
      for (name, causal), form in self._accepted.items()
      if causal == case.causal and not self._skip(form, case)
    }
    calls: dict[str, Any] = dict(started)
    frameworks = {run.form.framework for run in started.values()}
    calls |= {f'matmul {f}': self._matmul(f) for f in sorted(frameworks)}
    samples: dict[str, list[runs.Sample]] = {name: [] for name in calls}
    for seed in seeds:
      for run in started.values():
        run.refill(scale=settings.scale, seed=seed)
      found = runs.alternate(
        calls, rounds=settings.rounds, seconds=settings.seconds
      )
      for name, turns in found.items():
        samples[name] += turns
    for name, run in started.items():
      self.records.append(
        report.Record(
          form=run.form.name,
          case=case,
          samples=samples[name],
          flops=0.0 if name == 'identity' else run.form.flops(case),
          matmul=samples[f'matmul {run.form.framework}'],
          matmul_flops=2.0 * settings.matmul**3,
          temporary_bytes=run.temporary_bytes,
          compile_s=run.compile_s,
          errors=self._error(name, run),
        )
      )

  def compile_only(self, case: forms.Case) -> None:
    """Records memory and compilation of ours at a length that is not run."""
    for (_, causal), form in self._accepted.items():
      if causal != case.causal or not form.name.startswith(report.OURS):
        continue
      run = runs.Run(form, case, scale=self._settings.scale)
      self.records.append(
        report.Record(
          form.name,
          case,
          temporary_bytes=run.temporary_bytes,
          compile_s=run.compile_s,
        )
      )

  def torch_memory(self) -> None:
    """Adds the memory of torch forms, measured in processes of their own."""
    for (name, causal), form in self._accepted.items():
      if form.framework != 'torch':
        continue
      mine = [
        r
        for r in self.records
        if (r.form, r.case.causal) == (form.name, causal)
      ]
      for backward in (False, True):
        cases = [r.case for r in mine if r.case.backward == backward]
        if cases:
          self._add_memory(form.name, runs.torch_memory(name, cases), cases[0])

  def _add_memory(
    self, name: str, found: Mapping[int, int | None], like: forms.Case
  ) -> None:
    for i, r in enumerate(self.records):
      same = dataclasses.replace(r.case, length=like.length) == like
      if r.form == name and same:
        self.records[i] = dataclasses.replace(
          r, temporary_bytes=found[r.case.length]
        )

  def _skip(self, form: forms.Form, case: forms.Case) -> bool:
    """Notes and tells whether a form does not fit."""
    needed = form.bytes_needed(case)
    reason = None
    if needed > self._settings.memory_bytes:
      reason = f'needs about {needed / 2**30:.1f} GiB'
    before = report.Results(self.records).timed(
      form.name, case.causal, case.backward
    )
    if before:
      last = before[-1]
      growth = case.length / last.case.length
      # The least, as a pause of the machine must not leave a form out.
      fastest = min(sample.wall for sample in last.samples)
      expected = fastest * growth ** (1 if form.linear else 2)
      if expected > self._settings.call_seconds:
        reason = f'would take about {expected:.0f} s a call'
    if reason is None:
      return False
    self.skipped.append(
      {'case': str(case), 'form': form.name, 'reason': reason}
    )
    return True

  def _error(self, name: str, run: runs.Run) -> dict[float, float]:
    """Errors of the form's output, computed once for a kind and length."""
    if name == 'identity' or run.form.prepare is not None:
      return {}  # It approximates nothing, or its features are not its own.
    key = name, run.case.causal, run.case.length
    if key not in self._errors:
      self._errors[key] = {
        scale: runs.error(run, scale) for scale in self._settings.error_scales
      }
    return self._errors[key]

  def _matmul(self, framework: str) -> Any:
    shape = (self._settings.matmul,) * 2
    if framework == 'torch':
      torch = forms.import_torch()
      x = torch.ones(shape, device=forms.torch_device(torch))
      return lambda: runs.wait(x @ x)
    x = jnp.ones(shape, jnp.float32)
    product = jax.jit(jnp.matmul)
    return lambda: runs.wait(product(x, x))
