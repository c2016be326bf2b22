"""Pictures of attention: a mechanism beside exact attention."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from performer import attention
from runtime.record import pictures as pictures_lib

__all__ = ['compare_attention']

_PANEL = 3.0  # Inches.


def compare_attention(
  q: Float[Array, 'b lq h d'],
  k: Float[Array, 'b lk h d'],
  mechanisms: Mapping[str, tuple[Any, PyTree]],
  *,
  causal: bool,
  key_mask: Bool[Array, 'b lk'] | None = None,
  sequence: int = 0,
  heads: tuple[int, ...] = (0,),
) -> Any:
  """Draws recovered attention matrices, exact attention first.

  One row per head, one column per mechanism; the title of an approximation
  says how far it is from exact attention, as the mean over rows of half the sum
  of absolute differences (0: equal; 1: attention to other keys altogether).

  Args:
    q: queries of one layer, unscaled.
    k: keys.
    mechanisms: label -> (a `Favor` or the like, its projection).
    causal: whether row i sees keys 0..i only.
    key_mask: True = keep.
    sequence: which of the batch.
    heads: which heads.

  Returns:
    A figure of matplotlib; its `savefig(path)` writes it. Time and memory are O(lq lk).

  Raises:
    ValueError: if a sequence or head does not exist.
    ImportError: without matplotlib (extra `report`).
  """
  if not 0 <= sequence < q.shape[0] or not heads:
    raise ValueError(f'no such sequence or heads, got {sequence=} {heads=}')
  if not all(0 <= head < q.shape[2] for head in heads):
    raise ValueError(f'heads must be in 0..{q.shape[2] - 1}, got {heads=}')
  one = slice(sequence, sequence + 1)
  mask = None if key_mask is None else key_mask[one]

  def recover(attend: Any, projection: PyTree) -> np.ndarray:
    matrix = attention.recover_attention(
      attend,
      q[one],
      k[one],
      projection=projection,
      causal=causal,
      key_mask=mask,
    )
    return np.asarray(matrix[0], np.float64)

  exact = recover(attention.Exact(), None)
  matrices = {'exact': exact} | {
    label: recover(*mechanism) for label, mechanism in mechanisms.items()
  }
  return _draw(matrices, heads)


def _draw(matrices: Mapping[str, np.ndarray], heads: tuple[int, ...]) -> Any:
  picture = pictures_lib.new_figure(len(heads), len(matrices), (_PANEL, _PANEL))
  grid = picture.subplots(len(heads), len(matrices), squeeze=False)
  exact = matrices['exact']
  for row, head in enumerate(heads):
    # One scale of colours per head, that of exact attention: what an estimate
    # has beyond it is drawn in the extreme colour.
    high = exact[head].max()
    for column, (label, matrix) in enumerate(matrices.items()):
      axes = grid[row, column]
      image = axes.imshow(
        matrix[head], vmin=0.0, vmax=high, interpolation='nearest'
      )
      title = f'{label}, head {head}'
      if label != 'exact':
        off = 0.5 * np.abs(matrix[head] - exact[head]).sum(-1).mean()
        title += f' (off by {off:.2f})'
      axes.set_title(title, fontsize='small')
      axes.set_xlabel('key position')
      if column == 0:
        axes.set_ylabel('query position')
    picture.colorbar(image, ax=grid[row].tolist(), shrink=0.8)
  return picture
