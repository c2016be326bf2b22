"""Batches of pictures, in an order that can be taken up again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from rl.odetoode.images import data

__all__ = ['Batches', 'SideBySide']


class Batches:
  """Endless shuffled batches whose position can be saved.

  Example i, counted over all batches, is number i modulo n of the order of
  epoch i // n, which is a function of the seed and the epoch alone. A batch may
  hold the end of one epoch and the start of the next.

  Args:
    image_set: n pictures.
    batch_size: pictures in a batch.
    seed: of the orders, >= 0.

  Raises:
    ValueError: batch_size or seed is out of range.
  """

  def __init__(
    self, image_set: data.ImageSet, *, batch_size: int, seed: int
  ) -> None:
    if batch_size < 1 or seed < 0:
      raise ValueError(
        'batch_size must be at least 1 and seed not below 0,'
        f' got {batch_size=} {seed=}'
      )
    self._set = image_set
    self._batch_size = batch_size
    self._seed = seed
    self._drawn = 0  # Batches so far.
    self._epoch, self._order = -1, np.zeros(0, np.int64)  # The latest in use.

  def __iter__(self) -> 'Batches':
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    """Returns `images` float32 [b, h, w] and `labels` int32 [b]."""
    start = self._drawn * self._batch_size
    epochs, places = np.divmod(
      np.arange(start, start + self._batch_size), len(self._set)
    )
    rows = np.concatenate(
      [
        self._order_of(epoch)[places[epochs == epoch]]
        for epoch in range(epochs[0], epochs[-1] + 1)
      ]
    )
    self._drawn += 1
    return {'images': self._set.images[rows], 'labels': self._set.labels[rows]}

  def get_state(self) -> dict[str, Any]:
    """Returns the position, fit for JSON."""
    return {'batches': self._drawn}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved position.

    Raises:
      ValueError: this is no state of such an iterator.
    """
    drawn = state.get('batches')
    if not isinstance(drawn, int) or drawn < 0 or len(state) > 1:
      raise ValueError(
        f"state must be {{'batches': count}} with count >= 0, got {state}"
      )
    self._drawn = drawn

  def _order_of(self, epoch: int) -> Int[np.ndarray, 'n']:
    if epoch != self._epoch:
      rng = np.random.default_rng([self._seed, epoch])
      self._epoch, self._order = epoch, rng.permutation(len(self._set))
    return self._order


class SideBySide:
  """Batches for several models, each in an order of its own.

  Args:
    image_set: n pictures.
    batch_size: pictures in a batch of one model.
    seeds: of the orders, one for each model.
    share: (i, n): gives the i-th of n equal parts of every batch.

  Raises:
    ValueError: as `Batches`, or there is no seed.
  """

  def __init__(
    self,
    image_set: data.ImageSet,
    *,
    batch_size: int,
    seeds: Sequence[int],
    share: tuple[int, int] = (0, 1),
  ) -> None:
    if not seeds:
      raise ValueError('there must be a seed, got none')
    self._all = [
      Batches(image_set, batch_size=batch_size, seed=seed) for seed in seeds
    ]
    size = batch_size // share[1]
    self._rows = slice(share[0] * size, (share[0] + 1) * size)

  def __next__(self) -> dict[str, np.ndarray]:
    """Returns `images` float32 [b, m, h, w] and `labels` int32 [b, m]."""
    parts = [next(batches) for batches in self._all]
    return {
      name: np.stack([part[name][self._rows] for part in parts], axis=1)
      for name in parts[0]
    }

  def get_state(self) -> dict[str, Any]:
    """Returns the position, fit for JSON."""
    return self._all[0].get_state()

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a saved position; raises ValueError as `Batches`."""
    for batches in self._all:
      batches.set_state(state)
