"""Data hyper-cleaning: which training labels are wrong?

Some training labels are redrawn at random. theta has a logit per training
example; the inner loop trains a softmax regression on the examples weighted by
their sigmoids, the outer loss is the loss on clean validation examples. First
order sees none of it: the outer loss does not contain theta.

Protocol as in arXiv:1703.01785, Section 5.1, at the size of the data given.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Key, PyTree

from hpo.ufom import estimator, training
from hpo.ufom import problem as problem_lib
from runtime.data import images as images_lib

__all__ = ['HyperCleaning', 'Split', 'area_under_curve', 'optimizer']


class Split(NamedTuple):
  """Flat pictures in [0, 1], float32 [n, d], and labels, int32 [n]."""

  x: np.ndarray
  y: np.ndarray


def optimizer(
  *, logits: float = 500.0, start: float = 0.1
) -> optax.GradientTransformation:
  """SGD with a step for the logits and one for the initial weights.

  Args:
    logits: step of the logits; large, as each has a share of 1/n in the loss.
    start: step of initial weights, if they are learnt.
  """
  return optax.multi_transform(
    {'logits': optax.sgd(logits), 'start': optax.sgd(start)},
    lambda theta: {name: name for name in theta},
  )


@dataclasses.dataclass(frozen=True, eq=False)
class HyperCleaning:
  """One task, always the same.

  Attributes:
    images: the pictures; training ones are split in two unless there is a
      validation set.
    num_train: training examples.
    num_valid: validation examples.
    redrawn: share of training labels that are drawn anew; about a tenth of
      those stay right by chance, with ten classes.
    learn_start: learn the initial weights too.
    data_seed: of the split and of the labels.

  Raises:
    ValueError: there are too few pictures, or the share is outside [0, 1].
  """

  images: images_lib.Images
  num_train: int = 500
  num_valid: int = 500
  redrawn: float = 0.5
  learn_start: bool = False
  data_seed: int = 0

  def __post_init__(self) -> None:
    if not 0 <= self.redrawn <= 1:
      raise ValueError(f'redrawn must lie in [0, 1], got {self.redrawn=}')
    have = len(self.images.train)
    if self.images.valid is None:
      have -= self.num_valid
    elif len(self.images.valid) < self.num_valid:
      have = 0
    if min(self.num_train, self.num_valid) < 1 or have < self.num_train:
      raise ValueError(
        'there are too few pictures, got '
        f'{self.num_train=} {self.num_valid=} of {len(self.images.train)} and '
        f'{len(self.images.valid or ())}'
      )

  @functools.cached_property
  def splits(self) -> dict[str, Split]:
    """`train` with its wrong labels, `valid` and `test`."""
    train, valid = self._parts
    rng = np.random.default_rng((self.data_seed, 1))
    wrong = rng.random(self.num_train) < self.redrawn
    drawn = rng.integers(self.images.num_classes, size=self.num_train)
    labels = np.where(wrong, drawn, train.y).astype(np.int32)
    return {
      'train': train._replace(y=labels),
      'valid': valid,
      'test': _flat(self.images.test, slice(None)),
    }

  @functools.cached_property
  def _parts(self) -> tuple[Split, Split]:
    """Training and validation examples with the right labels."""
    images = self.images
    rng = np.random.default_rng((self.data_seed, 0))
    order = rng.permutation(len(images.train))
    train = _flat(images.train, order[: self.num_train])
    if images.valid is not None:
      return train, _flat(images.valid, slice(self.num_valid))
    rest = order[self.num_train : self.num_train + self.num_valid]
    return train, _flat(images.train, rest)

  @property
  def wrong(self) -> Bool[np.ndarray, ' n']:
    """Marks the training labels that are wrong."""
    return self.splits['train'].y != self._parts[0].y

  @property
  def scores(self) -> tuple[str, ...]:
    """See `training.Family`."""
    return 'valid_loss', 'accuracy', 'auc', 'f1'

  @property
  def problem(self) -> problem_lib.ABLOProblem:
    """Inner loss: mean of sigmoid(theta_i) CE_i; outer: mean CE."""
    train, valid = self.splits['train'], self.splits['valid']

    def start(theta: PyTree, task: Any) -> PyTree:
      del task
      return theta['start'] if self.learn_start else self._zeros()

    def inner(theta: PyTree, phi: PyTree, task: Any) -> Float[Array, '']:
      del task
      weights = jax.nn.sigmoid(theta['logits'])
      return jnp.mean(weights * _losses(phi, train))

    def outer(theta: PyTree, phi: PyTree, task: Any) -> Float[Array, '']:
      del theta, task
      return jnp.mean(_losses(phi, valid))

    return problem_lib.ABLOProblem(start, inner, outer)

  def _zeros(self) -> PyTree:
    classes = self.images.num_classes
    width = self.splits['train'].x.shape[1]
    return {'w': jnp.zeros((width, classes)), 'b': jnp.zeros(classes)}

  def init(self, key: Key[Array, '']) -> PyTree:
    """Every example weighs one half."""
    del key
    theta = {'logits': jnp.zeros(self.num_train)}
    return theta | ({'start': self._zeros()} if self.learn_start else {})

  def sample(
    self, rng: np.random.Generator, count: int
  ) -> dict[str, np.ndarray]:
    """The one task."""
    del rng
    return {'number': np.zeros(count, np.int32)}

  def evaluators(
    self, inner: estimator.Inner
  ) -> Mapping[str, training.Evaluate]:
    """Scores of the last inner weights; AUC and F1 of theta."""
    test = self.splits['test']

    @jax.jit
    def scores(theta: PyTree) -> dict[str, Array]:
      found = inner.fom(self.problem, theta, None)
      right = jnp.argmax(_outputs(found.phi, test.x), -1) == test.y
      return {'valid_loss': found.value, 'accuracy': right.mean()}

    def judge(theta: PyTree) -> dict[str, float]:
      doubt = -np.asarray(theta['logits'], np.float64)
      flagged = doubt > 0
      hits = (flagged & self.wrong).sum()
      return {
        **{name: float(x) for name, x in scores(theta).items()},
        'auc': area_under_curve(doubt, self.wrong),
        'f1': float(2 * hits / max(flagged.sum() + self.wrong.sum(), 1)),
      }

    return {'test': judge}


def _flat(part: images_lib.ImageSet, rows: Any) -> Split:
  images = part.images[rows]
  return Split(images.reshape(len(images), -1), part.labels[rows])


def _outputs(phi: PyTree, x: Float[np.ndarray, 'n d']) -> Float[Array, 'n c']:
  return x @ phi['w'] + phi['b']


def _losses(phi: PyTree, split: Split) -> Float[Array, ' n']:
  return optax.softmax_cross_entropy_with_integer_labels(
    _outputs(phi, split.x), split.y
  )


def area_under_curve(
  scores: Float[np.ndarray, ' n'], positive: Bool[np.ndarray, ' n']
) -> float:
  """Probability that a positive scores above another; ties count one half.

  Raises:
    ValueError: all examples, or none, are positive.
  """
  count = int(positive.sum())
  if not 0 < count < positive.size:
    raise ValueError(
      f'both kinds are needed, got {count} positive of {positive.size}'
    )
  values, place = np.unique(scores, return_inverse=True)
  ends = np.cumsum(np.bincount(place, minlength=len(values)))
  ranks = (np.r_[0, ends[:-1]] + 1 + ends) / 2  # Ties: their mean.
  below = ranks[place[positive]].sum() - count * (count + 1) / 2
  return float(below / (count * (positive.size - count)))
