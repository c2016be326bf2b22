"""Parameters of pretrained BERTs, as PyTorch's `transformers` names them.

Only names and layouts change, and no bit: the way back gives what was read.

Reference: arXiv:2009.14794, section 4.3 (backward compatibility).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Float

__all__ = ['from_pytorch', 'to_pytorch']

Weights = Mapping[str, Float[np.ndarray, '...']]

_EMBEDDINGS, _HEAD = 'bert.embeddings', 'cls.predictions'
_OUTSIDE = {
  ('tokens', 'embedding'): f'{_EMBEDDINGS}.word_embeddings.weight',
  ('positions',): f'{_EMBEDDINGS}.position_embeddings.weight',
  ('types',): f'{_EMBEDDINGS}.token_type_embeddings.weight',
  ('ln_embed', 'scale'): f'{_EMBEDDINGS}.LayerNorm.weight',
  ('ln_embed', 'bias'): f'{_EMBEDDINGS}.LayerNorm.bias',
  ('transform', 'kernel'): f'{_HEAD}.transform.dense.weight',
  ('transform', 'bias'): f'{_HEAD}.transform.dense.bias',
  ('ln_transform', 'scale'): f'{_HEAD}.transform.LayerNorm.weight',
  ('ln_transform', 'bias'): f'{_HEAD}.transform.LayerNorm.bias',
  ('logits', 'kernel'): f'{_HEAD}.decoder.weight',
  ('logits', 'bias'): f'{_HEAD}.bias',
}
_MODULES = {
  ('attention', 'query'): 'attention.self.query',
  ('attention', 'key'): 'attention.self.key',
  ('attention', 'value'): 'attention.self.value',
  ('attention', 'out'): 'attention.output.dense',
  ('ln_attention',): 'attention.output.LayerNorm',
  ('mlp_in',): 'intermediate.dense',
  ('mlp_out',): 'output.dense',
  ('ln_mlp',): 'output.LayerNorm',
}
_LAYER = {
  (*path, ours): f'{name}.{theirs}'
  for path, name in _MODULES.items()
  for ours, theirs in (
    ('scale' if path[0].startswith('ln') else 'kernel', 'weight'),
    ('bias', 'bias'),
  )
}


def from_pytorch(
  weights: Weights, *, num_heads: int
) -> tuple[dict[str, Any], dict[str, Float[np.ndarray, '...']]]:
  """Reads a `BertForMaskedLM`, or a model with the same names of parts.

  Args:
    weights: arrays by name, of the state dictionary. Without a matrix of its
      own the output layer is tied to the embedding of tokens.
    num_heads: of each layer, which no array tells.

  Returns:
    Parameters of `bert.Bert`, layers stacked, and the arrays that have no place
    in them, such as those of other heads.

  Raises:
    ValueError: naming the arrays that are missing, or if the heads do not
      divide the width.
  """
  rest = dict(weights)
  tied = weights.get(_OUTSIDE['tokens', 'embedding'])
  if tied is not None:
    rest.setdefault(_OUTSIDE['logits', 'kernel'], tied)
  count = 0
  while any(name.startswith(f'bert.encoder.layer.{count}.') for name in rest):
    count += 1
  names = [*_OUTSIDE.values()]
  names += [
    _layer_name(i, name) for i in range(count) for name in _LAYER.values()
  ]
  missing = [name for name in names if name not in rest]
  if missing or not count:
    raise ValueError(
      f'a BERT needs at least one layer and all its arrays, got {count} layers '
      f'without {missing}'
    )
  width = tied.shape[1]
  if num_heads < 1 or width % num_heads:
    raise ValueError(
      f'num_heads must divide the width {width}, got {num_heads=}'
    )

  def take(path: tuple[str, ...], name: str) -> np.ndarray:
    return _to_ours(path, np.asarray(rest.pop(name)), num_heads)

  flat = {path: take(path, name) for path, name in _OUTSIDE.items()}
  for path, name in _LAYER.items():
    flat['blocks', *path] = np.stack(
      [take(path, _layer_name(i, name)) for i in range(count)]
    )
  flat = {path: jnp.asarray(x) for path, x in flat.items()}
  return traverse_util.unflatten_dict(flat), rest


def to_pytorch(
  params: Mapping[str, Any],
) -> dict[str, Float[np.ndarray, '...']]:
  """The reverse of `from_pytorch`.

  Args:
    params: of `bert.Bert`.

  Returns:
    Arrays by name; the output layer has a matrix of its own.

  Raises:
    ValueError: if these are not the parameters of a `Bert`.
  """
  flat = traverse_util.flatten_dict(jax.device_get(nn.meta.unbox(params)))
  wanted = {*_OUTSIDE, *(('blocks', *path) for path in _LAYER)}
  if set(flat) != wanted:
    raise ValueError(
      f'parameters of a Bert must be {sorted(wanted)}, got {sorted(flat)}'
    )
  found = {
    name: _to_theirs(path, flat[path]) for path, name in _OUTSIDE.items()
  }
  for path, name in _LAYER.items():
    for i, x in enumerate(flat['blocks', *path]):
      found[_layer_name(i, name)] = _to_theirs(path, x)
  return found


def _layer_name(index: int, name: str) -> str:
  return f'bert.encoder.layer.{index}.{name}'


def _to_ours(path: tuple[str, ...], x: np.ndarray, heads: int) -> np.ndarray:
  kernel = path[-1] == 'kernel'
  x = x.T if kernel else x
  if path[:2] == ('attention', 'out'):
    return x.reshape(heads, -1, x.shape[-1]) if kernel else x
  if path[0] == 'attention':
    return x.reshape(*x.shape[:-1], heads, -1)
  return x


def _to_theirs(path: tuple[str, ...], x: np.ndarray) -> np.ndarray:
  kernel = path[-1] == 'kernel'
  if path[:2] == ('attention', 'out') and kernel:
    x = x.reshape(-1, x.shape[-1])
  elif path[0] == 'attention' and path[1] != 'out':
    x = x.reshape(*x.shape[:-2], -1)
  return x.T if kernel else x
