"""Building implementations of attention for a case, and checking them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import attention_forms as forms
from benchmarks import programs

CHECK_LENGTH = 160  # More than a chunk, and no multiple of one.
_CHECK_SCALE = 0.7
# Largest difference over the largest value: of outputs, and of gradients.
_TOLERANCE = {
  'float32': (2e-4, 1e-3),
  'bfloat16': (3e-2, 6e-2),
  'float16': (5e-3, 2e-2),
}
_GPU_TOLERANCE = (5e-3, 2e-2)  # float32 products are TF32 there.


def program(name: str, scale: float, case: forms.Case) -> programs.Program:
  """Builds the form of a name; `scale` is the deviation of entries of q and k.

  The program maps q, k, v and a cotangent, placed as the form wants them, to the
  output, or with `case.backward` to it and three gradients.
  """
  one = forms.make(name, case)
  inputs = lambda seed: _place(one, case, case.inputs(seed, scale))
  if one.framework == 'torch':
    return programs.Program(_function(one, case), inputs)
  return programs.compiled(_function(one, case), inputs)


def apply(
  one: forms.Implementation,
  case: forms.Case,
  built: programs.Program,
  arrays: Sequence[np.ndarray],
) -> list[np.ndarray]:
  """Runs a program on arrays [b, l, h, d]; returns such arrays, float64."""
  out = programs.wait(built.call(*_place(one, case, arrays)))
  found = []
  for x in out if case.backward else (out,):
    if one.framework == 'torch':
      x = x.detach().float().cpu().numpy()
    x = np.asarray(x, np.float64)
    found.append(x.transpose(0, 2, 1, 3) if one.heads_first else x)
  return found


def _place(
  one: forms.Implementation, case: forms.Case, arrays: Sequence[np.ndarray]
) -> tuple[Any, ...]:
  q, k, v, g = arrays
  if one.prepare is not None:
    q, k, v = one.prepare(q, k, v)
  arrays = (q, k, v, g)
  if one.heads_first:
    arrays = [np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in arrays]
  if one.framework == 'jax':
    return tuple(jnp.asarray(x, case.dtype) for x in arrays)
  torch = programs.torch()
  dtype, device = getattr(torch, case.dtype), forms.torch_device(torch)
  *qkv, g = (torch.from_numpy(x).to(device, dtype) for x in arrays)
  return (*(x.requires_grad_(case.backward) for x in qkv), g)


def _function(
  one: forms.Implementation, case: forms.Case
) -> Callable[..., Any]:
  """Of q, k, v and a cotangent; without gradients no input of torch needs one."""
  attend = one.attend(case.causal)
  if not case.backward:
    return lambda q, k, v, g: attend(q, k, v)
  torch = programs.torch() if one.framework == 'torch' else None

  def function(q: Any, k: Any, v: Any, g: Any) -> Any:
    if torch is None:
      out, pull = jax.vjp(attend, q, k, v)
      return out, *pull(g)
    out = attend(q, k, v)
    return out, *torch.autograd.grad(out, (q, k, v), g)

  return function


def defined(
  one: forms.Implementation, causal: bool, arrays: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """Output and gradients of the definition, float64."""

  def function(q: Any, k: Any, v: Any, g: Any) -> Any:
    exact = lambda q, k, v: one.definition(q, k, v, causal)
    out, pull = jax.vjp(exact, q, k, v)
    return out, *pull(g)

  return list(programs.in_float64(function, *arrays))


def check(one: forms.Implementation, case: forms.Case) -> str | None:
  """Compares value and gradient with the definition, at a short length.

  Returns:
    None if they agree, else what does not and by how much.
  """
  small = dataclasses.replace(
    case, length=CHECK_LENGTH, backward=True, batch=1, heads=min(2, case.heads)
  )
  arrays = small.inputs(1, _CHECK_SCALE)
  # Rounded as the form sees them, so that the definition sees the same.
  arrays = [np.asarray(jnp.asarray(x, case.dtype), np.float32) for x in arrays]
  call = _function(one, small)
  call = jax.jit(call) if one.framework == 'jax' else call
  found = apply(one, small, programs.Program(call), arrays)
  if one.prepare is not None:
    arrays = [*one.prepare(*arrays[:3]), arrays[3]]
  expected = defined(one, case.causal, arrays)
  limits = _TOLERANCE[case.dtype]
  if case.dtype == 'float32' and jax.default_backend() != 'cpu':
    limits = _GPU_TOLERANCE
  names = ('value', *(f'gradient in {x}' for x in 'qkv'))
  each = map(programs.disagreement, found, expected)
  gaps = dict(zip(names, each, strict=True))
  value = {'value': gaps.pop('value')}
  return programs.judged(value, limits[0]) or programs.judged(gaps, limits[1])


def error(
  one: forms.Implementation,
  case: forms.Case,
  built: programs.Program,
  scale: float,
  *,
  rows: int = 64,
) -> float:
  """Relative error of the first sequence's output against exact attention.

  Args:
    one: the implementation.
    case: a case.
    built: the program of both.
    scale: standard deviation of the entries of q and k.
    rows: rows of the output that are compared in norm, evenly spaced.
  """
  arrays = case.inputs(2, scale)
  out = apply(one, case, built, arrays)[0]
  chosen = np.linspace(0, case.length - 1, rows).astype(int)
  q, k, v = (np.asarray(x, np.float64) for x in arrays[:3])
  squares = np.zeros(2)
  for head in range(case.heads):
    logits = q[0, chosen, head] @ k[0, :, head].T / case.width**0.5
    if case.causal:
      seen = np.arange(case.length) <= chosen[:, None]
      logits = np.where(seen, logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    exact = weights / weights.sum(-1, keepdims=True) @ v[0, :, head]
    gap = out[0, chosen, head] - exact
    squares += np.sum(gap**2), np.sum(exact**2)
  return float(np.sqrt(squares[0] / squares[1]))
