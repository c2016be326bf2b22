"""Peak memory of a program in a process of its own.

The compiler of JAX tells what a program needs. PyTorch keeps no count of the
memory of a CPU, so its programs are watched from outside.
"""

import functools
import multiprocessing
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any
from unittest import mock

import jax

from benchmarks import programs

# Freed memory goes back to the system, and so is seen when it is used again.
_RETURN_MEMORY = {
  'GLIBC_TUNABLES': '',
  'MALLOC_MMAP_THRESHOLD_': '65536',
  'MALLOC_TRIM_THRESHOLD_': '0',
}


def peaks(
  make: Callable[[Any], programs.Program], cases: Sequence[Any]
) -> list[int | None]:
  """Measures what programs need besides inputs and outputs.

  Args:
    make: builds the program of a case; must pickle, as must the cases.
    cases: measured one after the other in one new process.

  Returns:
    Bytes for each case; None where the system does not tell.
  """
  context = multiprocessing.get_context('spawn')
  with (
    mock.patch.dict(os.environ, _RETURN_MEMORY),
    futures.ProcessPoolExecutor(1, mp_context=context) as pool,
  ):
    return list(pool.map(functools.partial(_peak, make), cases))


def _peak(make: Callable[[Any], programs.Program], case: Any) -> int | None:
  call = make(case).bound()
  call()  # Lasting allocations of the first call must not count.
  torch = sys.modules.get('torch')
  if torch is not None and torch.cuda.is_available():
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    peak = torch.cuda.max_memory_allocated()
  else:
    reset = pathlib.Path('/proc/self/clear_refs')
    if not reset.exists():
      return None
    reset.write_text('5')  # Sets the peak to the present.
    before = _status_bytes('VmRSS')
    result = call()
    peak = _status_bytes('VmHWM')
  outputs = sum(leaf.nbytes for leaf in jax.tree.leaves(result))
  return max(0, peak - before - outputs)


def _status_bytes(key: str) -> int:
  """A line of this process's status, such as VmHWM, its peak memory."""
  text = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(rf'{key}:\s+(\d+) kB', text)[1]) * 1024
