"""The rooms of the package: what a call enters, and who knows whom."""

import ast
import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.attention.kernels import positive, table
from performer.attention.sums import features as features_lib
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

PACKAGE = pathlib.Path(attention.__file__).parent


def entered(function, *arrays):
  """The files of the package whose functions tracing runs, and the moves."""
  files, moves = set(), 0

  def watch(frame, event, _):
    nonlocal moves
    file = frame.f_code.co_filename
    if event != 'call' or not file.startswith(str(PACKAGE)):
      return
    files.add(file)
    caller = frame.f_back
    while caller and not caller.f_code.co_filename.startswith(str(PACKAGE)):
      caller = caller.f_back
    moves += caller is not None and caller.f_code.co_filename != file

  sys.setprofile(watch)
  try:
    jax.make_jaxpr(function)(*arrays)
  finally:
    sys.setprofile(None)
  return {str(pathlib.Path(f).relative_to(PACKAGE)) for f in files}, moves


def test_a_call_passes_through_eight_files():
  favor = attention.Favor(redraw_every=13)  # Not traced by another test.
  w = cases.projection(favor)
  call = lambda q: favor(q, q, q, projection=w, causal=True)
  files, moves = entered(call, twin.normal(0, 1, 130, 2, 8))
  assert {'favor.py', 'kernels/positive.py', 'sums/linear.py'} <= files
  assert len(files) <= 8, files
  assert moves <= 30


def imports(path):
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_sums_know_nothing_of_kernels():
  known = {name for p in (PACKAGE / 'sums').glob('*.py') for name in imports(p)}
  ours = {name for name in known if name.startswith('performer')}
  assert ours
  assert all(name.startswith('performer.attention.sums.') for name in ours)


@dataclasses.dataclass(frozen=True)
class Shifted(positive.Positive):
  """Planted: exp(x . y) of keys and queries that are half as long."""

  def featurize(self, x, projection):
    values, weight = super().featurize(0.5 * x, projection)
    return features_lib.Features(values, weight)


@pytest.mark.parametrize('causal', [False, True])
def test_an_estimator_is_a_class_and_a_line(causal, monkeypatch):
  line = {'planted': Shifted('planted', copies=2)}
  monkeypatch.setattr(table, 'KERNELS', {**table.KERNELS, **line})
  favor = cases.favor('planted')
  q, k, v, w = cases.arguments(favor, 1)
  out = cases.attend(favor, q, k, v, w, causal=causal)
  truth = twin.value(
    0.5 * q, 0.5 * k, v, w, kernel='softmax_hyp', causal=causal
  )
  np.testing.assert_allclose(out, truth, atol=1e-5)
  assert not jnp.allclose(
    out, twin.value(q, k, v, w, kernel='softmax_hyp', causal=causal)
  )
