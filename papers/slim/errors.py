"""Errors of gradients in finite precision, measured against float64.

At random initial parameters rounding is all there is. Training can bring about
two stresses:

- `qk`: weights and biases of queries and keys times a factor: attention that is
  peaked.
- `spike`: the embedding of a token that occurs once, at three quarters of the
  sequence, times a factor: one key that dwarfs those before it.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from benchmarks import programs
from benchmarks import slim_forms as forms
from papers import study
from performer import attention
from performer.attention.sums import state as state_lib
from performer.slim import model as model_lib


@dataclasses.dataclass(frozen=True)
class Setting:
  """A gradient."""

  model: model_lib.SlimTransformer  # Settings of the model.
  form: forms.Form  # Form that computes the gradient.
  length: int  # L.
  stress: str | None = None  # Of parameters: None, 'qk' or 'spike'.
  factor: float = 1.0  # Of the stress.
  # States are kept in float64; only for strategies of the library.
  wide: bool = False

  def __post_init__(self) -> None:
    if self.stress not in (None, 'qk', 'spike'):
      raise ValueError(f"stress must be 'qk' or 'spike', got {self.stress!r}")

  @property
  def is_double(self) -> bool:
    """Whether activations are float64."""
    return self.model.dtype == jnp.dtype('float64')

  def in_float64(self) -> 'Setting':
    """The whole sequence at once, all of it in float64."""
    model = self.model.clone(dtype=jnp.dtype('float64'))
    return dataclasses.replace(
      self, model=model, form=forms.Form('autodiff'), wide=False
    )


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


def run(setting: Setting, *, seed: int) -> study.Record:
  """Measures a gradient; the seed is of parameters and tokens.

  Returns:
    The norm of its difference from float64 over that of the latter, and the
    greatest drift that the library reports, if the strategy has one.
  """
  grads, found = _gradient(setting, seed)
  record = {
    'error': programs.distance(grads, _expected(setting.in_float64(), seed))
  }
  if found is not None:
    record['drift'] = max(float(np.max(x)) for x in jax.tree.leaves(found))
  return record


@functools.lru_cache(maxsize=64)
def _expected(setting: Setting, seed: int) -> PyTree:
  return _gradient(setting, seed)[0]


def _gradient(setting: Setting, seed: int) -> tuple[PyTree, PyTree]:
  """The gradient, and the drift."""
  arrays = stressed(setting, seed)
  if setting.is_double:
    arrays = jax.tree.map(_double, arrays)
  with jax.enable_x64(setting.wide or setting.is_double):
    function = _compiled(setting.model, setting.form, setting.wide)
    return jax.tree.map(np.asarray, function(*arrays)[1:])


def _double(x: np.ndarray) -> np.ndarray:
  return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x


@functools.cache
def _compiled(
  model: model_lib.SlimTransformer, form: forms.Form, wide: bool
) -> Any:
  if wide:
    given = model.attention
    options = {
      f.name: getattr(given, f.name) for f in dataclasses.fields(given)
    }
    model = model.clone(attention=WideSums(**options))
  return jax.jit(forms.gradient(form, model))


def stressed(
  setting: Setting, seed: int
) -> tuple[PyTree, dict[str, np.ndarray], PyTree]:
  """Parameters in float32, inputs and random matrices."""
  model = setting.model.clone(dtype=jnp.dtype('float32'))
  params, w = jax.tree.map(np.asarray, _parameters(model, seed))
  # The last token is left for the spike.
  last = model.vocab_size - 1
  batch = forms.inputs(last, setting.length, seed=seed)
  if setting.stress == 'qk':
    inside = params['blocks']['attention']
    for name in ('query', 'key'):
      inside[name] = jax.tree.map(lambda x: setting.factor * x, inside[name])
  elif setting.stress == 'spike':
    at = 3 * setting.length // 4
    batch['tokens'][:, at] = batch['targets'][:, at - 1] = last
    table = params['tokens']['embedding'].copy()
    table[last] *= setting.factor
    params['tokens']['embedding'] = table
  return params, batch, w


_parameters = functools.lru_cache(maxsize=64)(forms.parameters)
