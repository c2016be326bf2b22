"""Pretrained exact attention into fast attention, and back.

Fast attention has no parameters of its own: W is not one. So a pretrained model
keeps all its parameters, and only the function that attends changes. What
differs between libraries is how the parameters are laid out; the functions here
move them without changing a bit, and refuse what they would have to change.

Outputs change where attention is approximated: `layer_errors` in
`performer.models.compare` tells by how much, layer by layer.

Reference: arXiv:2009.14794, section 4.3 (backward compatibility).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from jaxtyping import PyTree

__all__ = [
  'from_linen',
  'from_nnx',
  'join_transformer',
  'split_transformer',
  'to_linen',
  'to_nnx',
]

Params = Mapping[str, Any]

_PROJECTIONS = ('query', 'key', 'value', 'out')
_BLOCK = ('ln_attention', 'attention', 'ln_mlp', 'mlp_in', 'mlp_out')
_OUTSIDE = ('tokens', 'positions', 'ln_out', 'logits')


def from_linen(params: Params) -> dict[str, Any]:
  """Reads the parameters of `flax.linen.MultiHeadDotProductAttention`.

  Args:
    params: {'query': {'kernel': [e, h, d], 'bias': [h, d]}, 'key', 'value',
      'out': {'kernel': [h, d, w], 'bias': [w]}}; all biases or none.

  Returns:
    Parameters of `performer.models.attention.MultiHeadAttention` with h heads,
    width w, head_dim d, and use_bias if there are biases.

  Raises:
    ValueError: if the tree has other parts (such as normalised queries), only
      some biases, or shapes that do not fit.
  """
  params = nn.meta.unbox(params)
  _check_names('attention parameters', params, _PROJECTIONS)
  leaves = {('bias' in params[name]) for name in _PROJECTIONS}
  if len(leaves) > 1:
    raise ValueError(
      'all four projections must have biases or none, got '
      f'{ {name: sorted(params[name]) for name in _PROJECTIONS} }'
    )
  names = ('kernel', 'bias') if leaves.pop() else ('kernel',)
  for name in _PROJECTIONS:
    _check_names(f'parameters of {name!r}', params[name], names)
  _check_shapes(params)
  return {name: dict(params[name]) for name in _PROJECTIONS}


def to_linen(params: Params) -> dict[str, Any]:
  """The reverse of `from_linen`.

  Args:
    params: of `performer.models.attention.MultiHeadAttention`.

  Returns:
    Parameters of `flax.linen.MultiHeadDotProductAttention`.

  Raises:
    ValueError: as `from_linen`.
  """
  return from_linen(params)


def from_nnx(module: nnx.MultiHeadAttention) -> dict[str, Any]:
  """Reads the parameters of `flax.nnx.MultiHeadAttention`.

  Args:
    module: with as many heads of keys as of queries.

  Returns:
    As `from_linen`.

  Raises:
    ValueError: as `from_linen`, or if heads of keys are shared.
  """
  if module.num_kv_heads != module.num_heads:
    raise ValueError(
      'heads that share keys have no counterpart here; repeat their kernels, '
      f'got {module.num_heads=} {module.num_kv_heads=}'
    )
  _, state, _ = nnx.split(module, nnx.Param, ...)
  return from_linen(nnx.to_pure_dict(state))


def to_nnx(
  params: Params, module: nnx.MultiHeadAttention
) -> nnx.MultiHeadAttention:
  """A copy of an NNX module that has the parameters given.

  Args:
    params: of `performer.models.attention.MultiHeadAttention`.
    module: of the same sizes; stays as it is.

  Returns:
    The copy.

  Raises:
    ValueError: if structure or shapes differ from those of the module.
  """
  params, mine = from_linen(params), from_nnx(module)
  shapes, wanted = (
    jax.tree.map(jnp.shape, tree, is_leaf=lambda x: hasattr(x, 'shape'))
    for tree in (params, mine)
  )
  if shapes != wanted:
    raise ValueError(
      f'the module must have the shapes of the parameters, got {shapes} '
      f'for a module of {wanted}'
    )
  definition, state, rest = nnx.split(module, nnx.Param, ...)
  # A tree of its own: the state shares its variables with the module.
  state = jax.tree.map(lambda x: x, state)
  nnx.replace_by_pure_dict(state, params)
  return nnx.merge(definition, state, rest)


def join_transformer(
  blocks: Sequence[Params],
  *,
  tokens: Params,
  positions: jax.Array,
  ln_out: Params,
  logits: Params,
) -> dict[str, Any]:
  """Assembles a `Transformer` from the layers of a pretrained model.

  The model must compute what `Transformer` does: pre-LN blocks, LayerNorms with
  epsilon 1e-6 in the population's variance, learned positions, the activation
  given to `Transformer`.

  Args:
    blocks: per layer {'ln_attention': {'scale', 'bias'}, 'attention': as
      `from_linen`, 'ln_mlp', 'mlp_in': {'kernel', 'bias'}, 'mlp_out'}.
    tokens: {'embedding': [vocab, e]}.
    positions: [max_length, e].
    ln_out: the last LayerNorm.
    logits: the output layer, {'kernel': [e, vocab], 'bias': [vocab]}.

  Returns:
    Parameters of `Transformer(attention_bias=...)`, blocks stacked.

  Raises:
    ValueError: if a block has other parts, or blocks differ in structure.
  """
  if not blocks:
    raise ValueError('blocks must not be empty')
  checked = []
  for index, block in enumerate(blocks):
    block = nn.meta.unbox(block)
    _check_names(f'block {index}', block, _BLOCK)
    checked.append(
      {name: dict(block[name]) for name in _BLOCK}
      | {'attention': from_linen(block['attention'])}
    )
  shapes = [jax.tree.map(jnp.shape, block) for block in checked]
  for index, shape in enumerate(shapes):
    if shape != shapes[0]:
      raise ValueError(
        'blocks must have equal structure to be stacked, '
        f'got block 0: {shapes[0]}, block {index}: {shape}'
      )
  tokens, positions, ln_out, logits = nn.meta.unbox(
    (tokens, positions, ln_out, logits)
  )
  return {
    'tokens': dict(tokens),
    'positions': positions,
    'blocks': jax.tree.map(lambda *leaves: jnp.stack(leaves), *checked),
    'ln_out': dict(ln_out),
    'logits': dict(logits),
  }


def split_transformer(params: Params) -> tuple[list[PyTree], dict[str, Any]]:
  """The reverse of `join_transformer`.

  Args:
    params: of a `Transformer`.

  Returns:
    The blocks, and the keyword arguments of `join_transformer`.

  Raises:
    ValueError: if the tree is not that of a `Transformer`.
  """
  params = nn.meta.unbox(params)
  _check_names('Transformer parameters', params, ('blocks', *_OUTSIDE))
  stacked = params['blocks']
  count = {leaf.shape[0] for leaf in jax.tree.leaves(stacked)}
  if len(count) != 1:
    raise ValueError(f'stacked blocks must agree in number, got {count}')
  blocks = [
    jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: B023
    for i in range(count.pop())
  ]
  return blocks, {name: params[name] for name in _OUTSIDE}


def _check_names(what: str, tree: Any, names: Sequence[str]) -> None:
  if not isinstance(tree, Mapping):
    raise ValueError(f'{what} must be a mapping, got {type(tree)}')
  if set(tree) != set(names):
    raise ValueError(
      f'{what} must be {sorted(names)}, got {sorted(tree)} '
      '(anything else would change the function)'
    )


def _check_shapes(params: Params) -> None:
  shapes = {
    name: {leaf: jnp.shape(x) for leaf, x in params[name].items()}
    for name in _PROJECTIONS
  }
  query, out = shapes['query']['kernel'], shapes['out']['kernel']
  heads = query[1:]
  fits = len(query) == len(out) == 3 and out[:2] == heads
  for name in ('key', 'value'):
    kernel = shapes[name]['kernel']
    fits = fits and len(kernel) == 3 and kernel[1:] == heads
  for name in _PROJECTIONS:
    bias = shapes[name].get('bias')
    expected = out[2:] if name == 'out' else heads
    fits = fits and bias in (None, expected)
  if not fits:
    raise ValueError(
      'kernels must be [e, h, d] (out: [h, d, w]) and biases [h, d] (out: '
      f'[w]) with the same h and d, got {shapes}'
    )
