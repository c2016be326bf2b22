"""Learning rates of a Performer's groups of parameters, learnt by UFOM.

A task is one training run: initial weights from a seed and r batches of text;
the outer loss is that of another batch. theta has the logarithm of a learning
rate for each group. Rates are made part of the losses, so that the inner loop
stays plain gradient descent with rate 1: for weights w of a group with rate s^2,

    w = s u,   u <- u - d L(s u) / du   moves w by   -s^2 dL/dw

First order sees half of a rate's first effect (u_r is taken as fixed), exact
gradients see all of it.
"""

import dataclasses
import functools
import gzip
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree, UInt8

from hpo.ufom import estimator, training
from hpo.ufom import problem as problem_lib
from performer import objective
from performer.data import text
from performer.models import language_model

__all__ = ['GROUPS', 'PerformerRates']

# Parts of a parameter's path, in order; the first that fits is its group.
GROUPS = {
  'norms': ('ln_', 'bias'),
  'embeddings': ('tokens', 'positions'),
  'attention': ('attention',),
  'mlp': ('mlp_',),
  'head': ('logits',),
}


def _group(path: Any) -> str:
  name = jax.tree_util.keystr(path)
  for group, parts in GROUPS.items():
    if any(part in name for part in parts):
      return group
  raise ValueError(f'no group for the parameter {name}')


@dataclasses.dataclass(frozen=True, eq=False)
class PerformerRates:
  """Short training runs of a causal language model on bytes.

  Attributes:
    model: the language model; its vocabulary must have 256 bytes, and it must
      need no random matrices.
    inner_steps: r, batches of a run.
    batch_size: sequences of a batch.
    start: rate of every group at first.
    eval_runs: runs of an evaluation, the same each time.

  Raises:
    ValueError: a number is not positive or the vocabulary another.
  """

  model: language_model.LanguageModel
  inner_steps: int
  batch_size: int = 8
  start: float = 0.1
  eval_runs: int = 4

  def __post_init__(self) -> None:
    numbers = (self.inner_steps, self.batch_size, self.start, self.eval_runs)
    if min(numbers) <= 0 or self.model.vocab_size != 256:
      raise ValueError(
        'numbers must be positive and the vocabulary 256 bytes, got '
        f'{self.inner_steps=} {self.batch_size=} {self.start=} '
        f'{self.eval_runs=} {self.model.vocab_size=}'
      )

  @functools.cached_property
  def _texts(self) -> dict[str, UInt8[np.ndarray, ' n']]:
    return {
      split: np.frombuffer(
        gzip.decompress(pathlib.Path(text.sample_file(split)).read_bytes()),
        np.uint8,
      )
      for split in ('train', 'valid')
    }

  @property
  def scores(self) -> tuple[str, ...]:
    """See `training.Family`."""
    return 'bits', *(f'rate_{group}' for group in GROUPS)

  @property
  def problem(self) -> problem_lib.ABLOProblem:
    """Batch j of a task for inner step j, the last for the outer loss."""

    def start(theta: PyTree, task: PyTree) -> PyTree:
      weights = self._weights(jax.random.key(task['seed']))
      return _scaled(weights, theta, -0.5)

    def inner(theta: PyTree, phi: PyTree, task: PyTree, j: Any) -> Any:
      return self._loss(_scaled(phi, theta, 0.5), task['tokens'][j])

    def outer(theta: PyTree, phi: PyTree, task: PyTree) -> Float[Array, '']:
      return self._loss(_scaled(phi, theta, 0.5), task['tokens'][-1])

    return problem_lib.ABLOProblem(start, inner, outer, stepped=True)

  def _weights(self, key: Key[Array, '']) -> PyTree:
    token = jnp.zeros((1, 1), jnp.int32)
    variables = self.model.init(key, token, mask=token == 0, projections=None)
    return nn.unbox(variables['params'])

  def _loss(self, weights: PyTree, windows: Any) -> Float[Array, '']:
    """Nats per byte."""
    windows = jnp.asarray(windows, jnp.int32)
    tokens, targets = windows[:, :-1], windows[:, 1:]
    logits = self.model.apply(
      {'params': weights},
      tokens,
      mask=jnp.ones(tokens.shape, bool),
      projections=None,
    )
    return objective.token_losses(logits, targets).mean()

  def init(self, key: Key[Array, '']) -> PyTree:
    """The same rate for all groups."""
    del key
    return {group: jnp.log(jnp.float32(self.start)) for group in GROUPS}

  def sample(
    self, rng: np.random.Generator, count: int
  ) -> dict[str, np.ndarray]:
    """Runs on the training text."""
    return self._runs(rng, count, ('train',) * (self.inner_steps + 1))

  def _runs(
    self, rng: np.random.Generator, count: int, splits: tuple[str, ...]
  ) -> dict[str, np.ndarray]:
    batches = [
      self._windows(rng, split, (count, self.batch_size)) for split in splits
    ]
    seeds = rng.integers(2**31 - 1, size=count).astype(np.int32)
    return {'tokens': np.stack(batches, axis=1), 'seed': seeds}

  def _windows(
    self, rng: np.random.Generator, split: str, shape: tuple[int, ...]
  ) -> UInt8[np.ndarray, '*shape w']:
    """Windows at random places."""
    whole, size = self._texts[split], self.model.max_length + 1
    starts = rng.integers(len(whole) - size + 1, size=shape)
    return whole[starts[..., None] + np.arange(size)]

  def evaluators(
    self, inner: estimator.Inner
  ) -> Mapping[str, training.Evaluate]:
    """Bits per byte of the validation text after training; the rates.

    Raises:
      ValueError: the inner loop has other steps than tasks have batches.
    """
    if inner.r != self.inner_steps or inner.alpha != 1:
      raise ValueError(
        'the inner loop must have r = inner_steps and rate 1, got '
        f'{inner.r=} {inner.alpha=} {self.inner_steps=}'
      )
    splits = ('train',) * self.inner_steps + ('valid',)
    runs = self._runs(np.random.default_rng(1), self.eval_runs, splits)
    judge_all = jax.jit(
      lambda theta: jax.lax.map(
        lambda task: inner.fom(self.problem, theta, task).value, runs
      )
    )

    def judge(theta: PyTree) -> dict[str, float]:
      bits = np.asarray(judge_all(theta), np.float64) / np.log(2)
      rates = {f'rate_{k}': float(np.exp(v)) for k, v in theta.items()}
      return {'bits': float(bits.mean()), **rates}

    return {'valid': judge}


def _scaled(tree: PyTree, theta: PyTree, power: float) -> PyTree:
  """Each leaf times the rate of its group to a power."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: x * jnp.exp(power * theta[_group(path)]), tree
  )
