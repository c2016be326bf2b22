"""Eight CPU devices for every test, and a compilation cache that persists."""

import functools
import gc
import importlib.metadata
import io
import os
import pathlib
import secrets
import threading

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


_CONTEXT_USES = 500


def pytest_addoption(parser):
  """`--fresh-seed` draws new inputs, `--fresh-seed=N` those of seed N."""
  parser.addoption(
    '--fresh-seed',
    nargs='?',
    type=int,
    const=-1,
    metavar='N',
    help='draw other random inputs than usual; N repeats those of a run',
  )


def pytest_configure(config):
  """Chooses the seed before tests load; workers of xdist are handed it."""
  if config.option.fresh_seed == -1:
    config.option.fresh_seed = secrets.randbelow(2**31)
  from tests import seeds  # Here: the settings above come before JAX.

  seeds.FRESH = config.option.fresh_seed


def pytest_collection_modifyitems(items):
  """Lets slow tests take longer than others."""
  for item in items:
    if item.get_closest_marker('slow'):
      item.add_marker(pytest.mark.timeout(3600))


def pytest_collection_finish():
  """Spares the garbage collector what stays: a twentieth of the whole time."""
  gc.freeze()
  gc.set_threshold(100_000, 20, 100)
  _share_contexts()


def _share_contexts():
  """Compiles many programs in one context of MLIR: a fifth of the whole time.

  JAX makes a context for each program, and loads some 20 dialects into it. A
  context keeps the constants of its programs, so it is left after a while. What is
  compiled while another program is being written has a context of its own.
  """
  from jax._src.interpreters import mlir  # Here: after the settings above.

  make, local = mlir.make_ir_context, threading.local()

  def share():
    if mlir.ir.Context.current is not None:
      return make()
    if not getattr(local, 'uses', 0):
      local.context, local.uses = make(), _CONTEXT_USES
    local.uses -= 1
    return local.context

  mlir.make_ir_context = share


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
  """Says with which seed a test failed."""
  report = yield
  fresh = item.config.option.fresh_seed
  if report.failed and fresh is not None:
    report.sections.append(('inputs', f'repeat with --fresh-seed={fresh}'))
  return report


@pytest.fixture(scope='module', autouse=True)
def _forget_programs():
  yield
  from runtime.devices import memory  # Here: settings come before JAX.

  memory.forget_programs()


@functools.cache
def _blank():
  from matplotlib import figure

  found = io.BytesIO()
  figure.Figure((1, 1)).savefig(found, dpi=1)
  return found.getvalue()


@pytest.fixture(autouse=True)
def _blank_pictures(request, monkeypatch):
  """Figures are built but not rendered, which is most of the time of short runs.

  Those of tests marked `pictures` are.
  """
  if request.node.get_closest_marker('pictures'):
    return
  from runtime.record import pictures  # Here: settings come before JAX.

  def save(figure, path):
    del figure
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_blank())
    return path

  monkeypatch.setattr(pictures, 'save', save)


@pytest.fixture(scope='module')
def cluster():
  """Two cores of Ray."""
  ray = pytest.importorskip('ray')
  # Otherwise Ray writes a token into the home folder.
  os.environ.setdefault('RAY_AUTH_MODE', 'disabled')
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
  os.environ['PYTHONPATH'] = str(ROOT)
  ray.init(
    address='local', num_cpus=2, include_dashboard=False, log_to_driver=False
  )
  yield
  ray.shutdown()


@pytest.fixture
def one_device(monkeypatch):
  """Trains on one device, whatever the mesh of a configuration takes."""
  import jax

  devices = jax.devices()[:1]
  monkeypatch.setattr(jax, 'devices', lambda: devices)
