"""Eight CPU devices for every test, and a compilation cache that persists."""

import importlib.metadata
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
_CACHE = ROOT / '.cache' / 'jax'

# Before JAX is imported: it reads these once. Subprocesses inherit the cache.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
# Eight devices wait in several collectives at once; with a pool of only as many
# threads, XLA's CPU client waits for ever and aborts the process.
os.environ.setdefault('PJRT_NPROC', '64')
# Compilation is most of the time of a test; it is twice as fast unoptimised.
_QUICK = ['--xla_backend_optimization_level=0']
# And twice again without MLIR; a fifth less as one module of LLVM. XLA aborts at
# flags that it does not know.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _QUICK += [
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
  ]
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    *_QUICK,
    '--xla_force_host_platform_device_count=8',
  ]
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks what `slow.txt` lists, and lets slow tests take longer than others."""
  lines = (ROOT / 'tests' / 'slow.txt').read_text().splitlines()
  listed = {line for line in lines if not line.startswith('#')}
  for item in items:
    if item.nodeid in listed:
      item.add_marker(pytest.mark.slow)
    if item.get_closest_marker('slow'):
      item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
  """Drops what a file compiled: thousands of programs exhaust the memory maps."""
  yield
  # Only here: the settings above come before JAX.
  import jax

  jax.clear_caches()
