r"""Running, checking and timing the forms of `bench_attention_forms.py`.

As a program it measures the peak memory of a torch form in a process of its
own, as torch has no count of the memory of a CPU:

  python scripts/bench_attention_runs.py FORM causal|bidirectional \
    forward|backward LENGTH ...
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import bench_attention_forms as forms
import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
  'CHECK_LENGTH',
  'Run',
  'Sample',
  'alternate',
  'check',
  'error',
  'torch_memory',
  'wait',
]

CHECK_LENGTH = 160  # More than a chunk, and no multiple of one.
_CHECK_SCALE = 0.7
# Largest difference over the largest value: of outputs, and of gradients.
_TOLERANCE = {
  'float32': (2e-4, 1e-3),
  'bfloat16': (3e-2, 6e-2),
  'float16': (5e-3, 2e-2),
}
_GPU_TOLERANCE = (5e-3, 2e-2)  # float32 products are TF32 there.


@dataclasses.dataclass(frozen=True)
class Sample:
  """One timing: seconds of wall clock and of all threads' CPU time."""

  wall: float
  cpu: float


class Run:
  """A form compiled for a case, with inputs in place.

  Attributes:
    form: the form.
    case: the case.
    compile_s: CPU seconds to trace and compile; None for torch.
    temporary_bytes: besides inputs and outputs; None for torch.
  """

  def __init__(
    self, form: forms.Form, case: forms.Case, *, scale: float, seed: int = 0
  ) -> None:
    self.form = form
    self.case = case
    self.compile_s: float | None = None
    self.temporary_bytes: int | None = None
    self.refill(scale=scale, seed=seed)
    if form.framework == 'jax':
      self._function = self._compile()
    else:
      self._function = _torch_function(form.attend(case.causal), case)

  def refill(self, *, scale: float, seed: int) -> None:
    """Puts other inputs in place."""
    self._inputs = self._place(self.case.inputs(seed, scale))

  def __call__(self) -> None:
    """Runs once; returns when the result is there."""
    wait(self._function(*self._inputs))

  def apply(self, *arrays: np.ndarray) -> list[np.ndarray]:
    """Runs on arrays [b, l, h, d]: the output, or it and three gradients."""
    out = self._function(*self._place(arrays))
    wait(out)
    out = out if self.case.backward else (out,)
    return [self._fetch(x) for x in out]

  def _compile(self) -> Callable[..., Any]:
    function = jax.jit(_jax_function(self.form, self.case))
    start = time.process_time()  # Other processes must not count.
    compiled = function.lower(*self._inputs).compile()
    self.compile_s = time.process_time() - start
    analysis = compiled.memory_analysis()
    if analysis is not None:
      self.temporary_bytes = analysis.temp_size_in_bytes
    return compiled

  def _place(self, arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    q, k, v, g = arrays
    if self.form.prepare is not None:
      q, k, v = self.form.prepare(q, k, v)
    arrays = (q, k, v, g)
    if self.form.heads_first:
      arrays = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in arrays]
    if self.form.framework == 'jax':
      return tuple(jnp.asarray(x, self.case.dtype) for x in arrays)
    torch = forms.import_torch()
    dtype, device = getattr(torch, self.case.dtype), forms.torch_device(torch)
    *qkv, g = (torch.from_numpy(x).to(device, dtype) for x in arrays)
    return (*(x.requires_grad_(self.case.backward) for x in qkv), g)

  def _fetch(self, x: Any) -> np.ndarray:
    if self.form.framework == 'torch':
      x = x.detach().float().cpu().numpy()
    x = np.asarray(x, np.float64)
    return x.transpose(0, 2, 1, 3) if self.form.heads_first else x


def _jax_function(form: forms.Form, case: forms.Case) -> Callable[..., Any]:
  attend = form.attend(case.causal)

  def function(q: Any, k: Any, v: Any, g: Any) -> Any:
    if not case.backward:
      return attend(q, k, v)
    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(g)

  return function


def _torch_function(attend: Any, case: forms.Case) -> Callable[..., Any]:
  torch = forms.import_torch()

  def function(q: Any, k: Any, v: Any, g: Any) -> Any:
    if not case.backward:
      with torch.no_grad():
        return attend(q, k, v)
    out = attend(q, k, v)
    return out, *torch.autograd.grad(out, (q, k, v), g)

  return function


def wait(out: Any) -> None:
  """Returns when a result of either framework is there."""
  first = out[0] if isinstance(out, tuple) else out
  if isinstance(first, jax.Array):
    jax.block_until_ready(out)
  elif first.is_cuda:
    forms.import_torch().cuda.synchronize()


def _tolerance(case: forms.Case) -> tuple[float, float]:
  if case.dtype == 'float32' and jax.default_backend() != 'cpu':
    return _GPU_TOLERANCE
  return _TOLERANCE[case.dtype]


def _defined(
  form: forms.Form, causal: bool, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Output and gradients of the form's definition, float64."""
  with jax.enable_x64(True):

    @jax.jit
    def function(q: Any, k: Any, v: Any, g: Any) -> Any:
      out, pull = jax.vjp(
        lambda q, k, v: form.definition(q, k, v, causal), q, k, v
      )
      return out, *pull(g)

    doubles = [np.asarray(x, np.float64) for x in arrays]
    return [np.asarray(x) for x in function(*doubles)]


def check(form: forms.Form, case: forms.Case) -> str | None:
  """Compares value and gradient with the form's definition.

  Args:
    form: the form.
    case: its kind and sizes are checked, at a short length.

  Returns:
    None if they agree, else what does not and by how much.
  """
  small = dataclasses.replace(
    case, length=CHECK_LENGTH, backward=True, batch=1, heads=min(2, case.heads)
  )
  run = Run(form, small, scale=_CHECK_SCALE)
  arrays = small.inputs(1, _CHECK_SCALE)
  # Rounded as the form sees them, so that the definition sees the same.
  arrays = [np.asarray(jnp.asarray(x, case.dtype), np.float32) for x in arrays]
  found = run.apply(*arrays)
  if form.prepare is not None:
    arrays = [*form.prepare(*arrays[:3]), arrays[3]]
  expected = _defined(form, case.causal, arrays)
  limits = [_tolerance(case)[0]] + 3 * [_tolerance(case)[1]]
  what = ('value', 'gradient in q', 'gradient in k', 'gradient in v')
  for name, a, b, limit in zip(what, found, expected, limits, strict=True):
    gap = np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-30)
    if not gap <= limit:  # A NaN fails too.
      return f'{name} is off by {gap:.2g}, more than {limit:g}'
  return None


def error(run: Run, scale: float, *, rows: int = 64) -> float:
  """Relative error of the output against exact attention.

  Args:
    run: a forward case.
    scale: standard deviation of the entries of q and k.
    rows: rows of the output that are compared, evenly spaced.

  Returns:
    Frobenius norm of the difference over that of the exact rows.
  """
  arrays = run.case.inputs(2, scale)
  out = run.apply(*arrays)[0]
  chosen = np.linspace(0, run.case.length - 1, rows).astype(int)
  q, k, v = (np.asarray(x, np.float64) for x in arrays[:3])
  squares = np.zeros(2)
  for head in range(run.case.heads):
    logits = q[0, chosen, head] @ k[0, :, head].T / run.case.width**0.5
    if run.case.causal:
      seen = np.arange(run.case.length) <= chosen[:, None]
      logits = np.where(seen, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    exact = weights / weights.sum(-1, keepdims=True) @ v[0, :, head]
    gap = out[0, chosen, head] - exact
    squares += np.sum(gap**2), np.sum(exact**2)
  return float(np.sqrt(squares[0] / squares[1]))


def alternate(
  calls: Mapping[str, Callable[[], None]],
  *,
  rounds: int,
  seconds: float,
  pause: float = 0.02,
) -> dict[str, list[Sample]]:
  """Times calls in turns.

  Args:
    calls: what to time; each is warmed up first, twice.
    rounds: turns of each at most.
    seconds: a call that has used so much takes no more turns after its third.
    pause: before each turn, so that idle threads come to rest, seconds.

  Returns:
    By name, a sample for each of its turns; turn i of one stands beside turn i
    of another.
  """
  repeats, spent = {}, dict.fromkeys(calls, 0.0)
  samples: dict[str, list[Sample]] = {name: [] for name in calls}
  for name, call in calls.items():
    call()
    start = time.perf_counter()
    call()
    once = time.perf_counter() - start
    # A turn lasts a clock tick or more, and some for the noise.
    repeats[name] = max(1, min(50, round(0.03 / max(once, 1e-6))))
  for turn in range(rounds):
    for name, call in calls.items():
      if turn >= 3 and spent[name] > seconds:
        continue
      time.sleep(pause)
      wall, cpu = time.perf_counter(), time.process_time()
      for _ in range(repeats[name]):
        call()
      wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
      spent[name] += wall
      samples[name].append(Sample(wall / repeats[name], cpu / repeats[name]))
  return samples


def torch_memory(
  name: str, cases: Sequence[forms.Case]
) -> dict[int, int | None]:
  """Peak memory of a torch form besides inputs and outputs.

  Args:
    name: of the form, for `forms.make`.
    cases: of one kind, alike but for their length.

  Returns:
    By length, bytes; None where the system does not tell.

  Raises:
    RuntimeError: if the process that measures fails.
  """
  first = cases[0]
  command = [
    *(sys.executable, str(pathlib.Path(__file__).resolve()), name),
    'causal' if first.causal else 'bidirectional',
    'backward' if first.backward else 'forward',
    *(str(case.length) for case in cases),
    *(f'--{key}={getattr(first, key)}' for key in _SIZES),
  ]
  done = subprocess.run(
    command,
    capture_output=True,
    text=True,
    check=False,
    # Freed memory goes back to the system, and so is seen when used again.
    env={**os.environ, **_RETURN_MEMORY},
  )
  if done.returncode:
    raise RuntimeError(f'{command}: {done.stderr[-2000:]}')
  found = json.loads(done.stdout.splitlines()[-1])
  return {int(length): size for length, size in found.items()}


def _status_bytes(key: str) -> int | None:
  """A line of this process's status, such as VmHWM, its peak memory."""
  path = pathlib.Path('/proc/self/status')
  found = path.exists() and re.search(rf'{key}:\s+(\d+) kB', path.read_text())
  return int(found[1]) * 1024 if found else None


def _peak_bytes(run: Run) -> int | None:
  """Memory at its highest during a call, besides inputs and outputs."""
  torch = forms.import_torch()
  case = run.case
  outputs = 4 if case.backward else 1
  size = np.prod(case.shape) * jnp.dtype(case.dtype).itemsize
  if torch.cuda.is_available():
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    peak = torch.cuda.max_memory_allocated()
  else:
    reset = pathlib.Path('/proc/self/clear_refs')
    if not reset.exists():
      return None
    reset.write_text('5')  # Sets the peak to the present.
    before = _status_bytes('VmRSS')
    run()
    peak = _status_bytes('VmHWM')
    if before is None or peak is None:
      return None
  return max(0, int(peak - before - outputs * size))


_RETURN_MEMORY = {
  'MALLOC_MMAP_THRESHOLD_': '65536',
  'MALLOC_TRIM_THRESHOLD_': '0',
}
_SIZES = ('batch', 'heads', 'width', 'features', 'dtype')


def main() -> None:
  """Prints peak memory by length as one line of JSON."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument('form', choices=forms.names())
  parser.add_argument('kind', choices=('causal', 'bidirectional'))
  parser.add_argument('what', choices=('forward', 'backward'))
  parser.add_argument('lengths', nargs='+', type=int)
  defaults = forms.Case(False, False, 1)
  for key in _SIZES:
    default = getattr(defaults, key)
    parser.add_argument(f'--{key}', type=type(default), default=default)
  args = parser.parse_args()
  sizes = {key: getattr(args, key) for key in _SIZES}
  kind = (args.kind == 'causal', args.what == 'backward')
  form = forms.make(args.form, forms.Case(*kind, 1, **sizes))
  if form.framework != 'torch':
    raise ValueError(f'the compiler tells the memory of {args.form!r}')
  Run(form, forms.Case(*kind, 128, **sizes), scale=1.0)()
  found = {}
  for length in sorted(args.lengths):
    run = Run(form, forms.Case(*kind, length, **sizes), scale=1.0)
    found[length] = _peak_bytes(run)
  print(json.dumps(found))


if __name__ == '__main__':
  main()
