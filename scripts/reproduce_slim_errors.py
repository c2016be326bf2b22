"""Errors of gradients in finite precision, measured against float64.

A case is a model, a length and what is done to its parameters: nothing, or one
of two stresses that training can bring about.

- `qk`: weights and biases of queries and keys times a factor: attention that is
  peaked.
- `spike`: the embedding of a token that occurs once, at three quarters of the
  sequence, times a factor: one key that dwarfs those before it.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from benchmarks import slim_forms as forms
from performer import attention
from performer.attention import state as state_lib

__all__ = ['Case', 'Found', 'WideSums', 'measure']


@dataclasses.dataclass(frozen=True)
class Case:
  """What is differentiated.

  Attributes:
    sizes: of the model.
    length: L.
    stress: None, 'qk' or 'spike'.
    factor: of the stress.
  """

  sizes: forms.Sizes
  length: int
  stress: str | None = None
  factor: float = 1.0

  def __post_init__(self) -> None:
    if self.stress not in (None, 'qk', 'spike'):
      raise ValueError(f"stress must be 'qk' or 'spike', got {self.stress!r}")

  @property
  def name(self) -> str:
    """For tables."""
    text = f'{self.sizes.kernel} {self.sizes.norm}'
    if self.sizes.dtype != 'float32':
      text += f' {self.sizes.dtype}'
    return (
      text if self.stress is None else f'{text} {self.stress} x{self.factor:g}'
    )


@dataclasses.dataclass(frozen=True)
class Found:
  """Of one form and case, a value for each seed.

  Attributes:
    errors: norm of the gradient's difference from float64 over that of the
      latter.
    drifts: that the library reports, the largest of all layers; empty for
      strategies without.
  """

  errors: tuple[float, ...]
  drifts: tuple[float, ...] = ()


class WideSums(attention.Favor):
  """Attention in float32 whose states are float64.

  Reads states as float32; what it adds to them is added in float64, so that
  adding and taking away again loses nothing.
  """

  def empty_state(self, **options: Any) -> state_lib.State:
    """Sums of no key, float64."""
    return _cast(super().empty_state(**options), jnp.float64)

  def summarize(self, *arrays: Array, **options: Any) -> state_lib.State:
    """The sums over keys of one chunk, float64."""
    return _cast(super().summarize(*arrays, **options), jnp.float64)

  def extend(
    self, q: Array, k: Array, v: Array, *, state: state_lib.State, **rest: Any
  ) -> tuple[Array, state_lib.State]:
    """Attends in float32; the state after it is float64."""
    out, _ = super().extend(q, k, v, state=_cast(state, jnp.float32), **rest)
    added = self.summarize(k, v, **rest)
    return out, state._replace(S=state.S + added.S, z=state.z + added.z)


def _cast(state: state_lib.State, dtype: Any) -> state_lib.State:
  return jax.tree.map(lambda x: x.astype(dtype), state)


def measure(
  case: Case,
  chosen: Sequence[forms.Form],
  seeds: Sequence[int],
  *,
  wide_states: bool = False,
) -> dict[str, Found]:
  """Errors of forms.

  Args:
    case: what is differentiated.
    chosen: forms.
    seeds: of parameters and tokens.
    wide_states: keep states in float64; only for strategies of the library.

  Returns:
    By kind of the form.
  """
  found: dict[str, Found] = {}
  for form in chosen:
    errors, drifts = [], []
    for seed in seeds:
      arrays, double = _arrays(case, seed), case.sizes.dtype == 'float64'
      if double:
        arrays = jax.tree.map(_double, arrays)
      with jax.enable_x64(wide_states or double):
        run = _wide if wide_states else _compiled
        _, grads, drift = run(case.sizes, form)(*arrays)
        grads, drift = jax.tree.map(np.asarray, (grads, drift))
      errors.append(forms.apart(grads, _expected(case, seed)))
      if drift is not None:
        drifts.append(max(np.max(x) for x in jax.tree.leaves(drift)))
    found[form.kind] = Found(tuple(errors), tuple(map(float, drifts)))
  return found


@functools.lru_cache(maxsize=64)
def _arrays(case: Case, seed: int) -> tuple[PyTree, PyTree, PyTree]:
  """Parameters, inputs and random matrices, of which float64 are rounded."""
  sizes = dataclasses.replace(case.sizes, dtype='float32')
  params, w = _parameters(sizes, seed)
  params = jax.tree.map(np.asarray, params)
  # The last token is left for the spike.
  batch = forms.inputs(sizes.vocab - 1, case.length, seed=seed)
  if case.stress == 'qk':
    _scale_queries_and_keys(params, case.factor)
  elif case.stress == 'spike':
    at, last = 3 * case.length // 4, sizes.vocab - 1
    batch['tokens'][:, at] = batch['targets'][:, at - 1] = last
    table = params['tokens']['embedding'].copy()
    table[last] *= case.factor
    params['tokens']['embedding'] = table
  return params, batch, jax.tree.map(np.asarray, w)


def _scale_queries_and_keys(params: PyTree, factor: float) -> None:
  inside = params['blocks']['attention']
  for name in ('query', 'key'):
    inside[name] = jax.tree.map(lambda x: factor * x, inside[name])


@functools.lru_cache(maxsize=64)
def _parameters(sizes: forms.Sizes, seed: int) -> tuple[PyTree, PyTree]:
  return forms.parameters(forms.build(sizes), seed)


@functools.lru_cache(maxsize=64)
def _expected(case: Case, seed: int) -> PyTree:
  """The gradient in float64."""
  sizes = dataclasses.replace(case.sizes, dtype='float64')
  with jax.enable_x64(True):
    arrays = jax.tree.map(_double, _arrays(case, seed))
    _, grads, _ = _compiled(sizes, forms.Form('autodiff'))(*arrays)
    return jax.tree.map(np.asarray, grads)


def _double(x: np.ndarray) -> np.ndarray:
  return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x


@functools.cache
def _compiled(sizes: forms.Sizes, form: forms.Form) -> Any:
  return jax.jit(forms.gradient(form, forms.build(sizes)))


@functools.cache
def _wide(sizes: forms.Sizes, form: forms.Form) -> Any:
  """As `_compiled`, with states of float64."""
  model = forms.build(sizes)
  options = dataclasses.fields(attention.Favor)
  mechanism = WideSums(
    **{field.name: getattr(model.attention, field.name) for field in options}
  )
  return jax.jit(forms.gradient(form, model.clone(attention=mechanism)))
