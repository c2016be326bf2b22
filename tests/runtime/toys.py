"""A tiny experiment that tests configure: a root, objects, a scope, a model."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Favor:
  features: int = 8
  kernel: str = 'relu'
  rates: tuple[float, ...] = (0.1,)


@dataclasses.dataclass(frozen=True)
class Exact:
  scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Dataset:
  split: str
  length: int = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
  width: int = 1


@dataclasses.dataclass(frozen=True)
class Seeds:
  tuning: tuple[int, ...] = (0,)
  data_seed: int = 0


class Sized(Protocol):
  length: int

  def size(self) -> int: ...


class Encoder(nn.Module):
  layers: int
  attention: Favor | Exact = Favor()

  @nn.compact
  def __call__(self, x):
    for _ in range(self.layers):
      x = nn.Dense(x.shape[-1])(x)
    return x


def relu(x: jax.Array) -> jax.Array:
  return jnp.maximum(x, 0)


def scaled(scale: float, *, function: Callable = relu) -> Callable:
  return lambda x: scale * function(x)


def fails(length: int) -> Favor:
  raise ValueError(f'length must be even, got {length=}')


def refuses() -> Callable:
  raise ValueError('this cannot start from another run: leave out --start=x')


def filled(size: int) -> Callable:
  return np.zeros((size, size), np.int8).__add__


def train(
  *,
  workdir,
  seed,
  context,
  model=None,
  attention: Favor | Exact | None = None,
  data: Dataset | None = None,
  valid: Dataset | None = None,
  steps: int = 10,
  rate: float = 0.1,
  sizes: tuple[int, ...] = (),
  hook: Callable | None = None,
  sized: Sized | None = None,
  other: object = None,
):
  """Records what it got; writes a file so that processes can be tested."""
  context.check_config()
  if context.dry_run:
    print(context.operative_config())
    return None
  if steps < 0:
    raise ValueError(f'steps must not be negative, got {steps=}')
  context.on_start()
  if steps == 13:
    raise ValueError('training went wrong')
  pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
  (pathlib.Path(workdir) / 'operative.gin').write_text(
    context.operative_config()
  )
  return {
    'workdir': workdir,
    'seed': seed,
    'model': model,
    'attention': attention,
    'data': data,
    'valid': valid,
    'steps': steps,
    'rate': rate,
    'sizes': sizes,
    'hook': hook,
    'other': other,
  }
