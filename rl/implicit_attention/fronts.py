"""The part of a policy from a picture to the features that a controller sees.

A front is a Flax module from a picture [h, w, c], uint8 or floats in [0, 1], to a
vector. `Rank` and `Trans` are the two implicit attention policies; with
`votes.Exact`, `Rank` is the Attention Agent. The others have no attention.

Products of queries and keys are scaled by 1 / sqrt(p^2 c), where p^2 c is the
width of a patch and not that of queries, as in the Attention Agent's code.

Letters: as in `patches`; d width of queries and keys, K patches chosen.

Reference: arXiv:2102.04353 (IAP-rank, IAP-trans); arXiv:2003.08165.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree, Shaped

from rl import ranges
from rl.implicit_attention import patches as patches_lib
from rl.implicit_attention import votes as votes_lib

__all__ = ['POOLS', 'Blind', 'Convolutions', 'Flat', 'Rank', 'Trans']

POOLS = ('mean', 'max', 'votes', 'flatten')
_MOST_FLAT = 4096  # Numbers that 'flatten' may give.
_OF_LAYERS = ('channels', 'sizes', 'strides')

Picture = Shaped[Array | np.ndarray, 'h w c']
# As PyTorch's Linear and Conv2d: U(-1 / sqrt(fan in), 1 / sqrt(fan in)).
_INIT = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def _floats(picture: Picture) -> Float[Array, 'h w c']:
  if picture.dtype == jnp.uint8:
    return jnp.asarray(picture, jnp.float32) / 255
  return jnp.asarray(picture)


class Projection(nn.Module):
  """One projection of all patches.

  Attributes:
    patches: where they are.
    features: width of the outputs, by the name that Flax's layers give it.
    bias: whether there is one.
  """

  patches: patches_lib.Patches
  features: int
  bias: bool = True

  @nn.compact
  def __call__(self, picture: Float[Array, 'h w c']) -> Float[Array, 'd l']:
    """The projections."""
    size = self.patches.size
    shape = (size, size, picture.shape[2], self.features)
    out = self.patches.project(picture, self.param('kernel', _INIT, shape))
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      out += bias[:, None]
    return out


class _Attention(nn.Module):
  """Queries and keys of patches.

  Attributes:
    votes: the attention.
    patches: where the patches are.
    width: d, of queries and keys.
    bias: whether projections have biases.

  Raises:
    ValueError: if a number is not positive.
  """

  votes: votes_lib.Exact | votes_lib.Implicit = votes_lib.Implicit()
  patches: patches_lib.Patches = patches_lib.Patches()
  width: int = 4
  bias: bool = True

  def __post_init__(self) -> None:
    ranges.check_counts(width=self.width)
    super().__post_init__()

  def setup(self) -> None:
    """Makes the projection of queries and keys, which see the same pixels."""
    self.pair = Projection(self.patches, 2 * self.width, self.bias)

  def _pairs(
    self, picture: Float[Array, 'h w c']
  ) -> tuple[Float[Array, 'l d'], Float[Array, 'l d']]:
    """Queries and keys; mechanisms then divide their products by sqrt(d)."""
    width = self.patches.size**2 * picture.shape[2]
    scale = (self.width / width) ** 0.25
    q, k = jnp.split(scale * self.pair(picture), 2)
    return q.T, k.T

  def draw(self, key: Array) -> PyTree:
    """Random matrices of the attention, for `projection`."""
    return self.votes.attention.draw(
      key, layer=0, step=0, num_heads=1, head_dim=self.width
    )


class Rank(_Attention):
  """The places of the patches with most votes: IAP-rank.

  Attributes:
    count: K, patches that are chosen.
    colors: whether the mean colours of these patches are features too.

  Raises:
    ValueError: if a number is not positive.
  """

  count: int = 10
  colors: bool = False

  def __post_init__(self) -> None:
    ranges.check_counts(count=self.count)
    super().__post_init__()

  def __call__(
    self, picture: Picture, projection: PyTree = None
  ) -> Float[Array, ' n']:
    """Row and column of each chosen patch over the sides, by rank.

    Args:
      picture: see the module.
      projection: of `draw`.

    Raises:
      ValueError: there are fewer than K patches.
    """
    picture = _floats(picture)
    index = self._chosen(picture, projection)
    height, width, _ = picture.shape
    sides = np.array([height, width], np.float32)
    centers = self.patches.centers(height, width).astype(np.float32) / sides
    places = jnp.asarray(centers)[index].reshape(-1)
    if not self.colors:
      return places
    colors = self.patches.means(picture, index)
    return jnp.concatenate([places, colors.reshape(-1)])

  def _chosen(
    self, picture: Float[Array, 'h w c'], projection: PyTree
  ) -> Int[Array, ' k']:
    q, k = self._pairs(picture)
    if q.shape[0] < self.count:
      raise ValueError(
        f'count must be at most the number of patches, {q.shape[0]}, got '
        f'{self.count=} {self.patches.size=} {self.patches.stride=} for '
        f'height={picture.shape[0]} width={picture.shape[1]}'
      )
    found = self.votes(q, k, projection=projection)
    return votes_lib.top(found.values, self.count)

  def chosen(
    self, picture: Picture, projection: PyTree = None
  ) -> Int[Array, ' k']:
    """Numbers of the chosen patches, by rank."""
    return self._chosen(_floats(picture), projection)


class Trans(_Attention):
  """An embedding of the whole picture by attention: IAP-trans.

  A value is the projection of a patch, then the patch's row and column in
  [-1, 1]. So each output has the mean place of the patches that its query attends
  to. (If places were joined to the outputs instead, their mean over patches would
  be the same for all pictures.) The paper does not say how outputs become one
  vector; see `pool`.

  Attributes:
    value_width: outputs of the projection of values.
    pool: 'mean' and 'max' over patches, 'votes', the mean weighted by votes, or
      'flatten', all patches one after the other.

  Raises:
    ValueError: if a number is not positive, there is no such pool, or `votes`
      has a setting that attention itself has not: chunks, or no normalisation.
  """

  value_width: int = 8
  pool: str = 'mean'

  def __post_init__(self) -> None:
    ranges.check_counts(value_width=self.value_width)
    if self.pool not in POOLS:
      raise ValueError(f'pool must be one of {POOLS}, got {self.pool!r}')
    chunk = self.votes.chunk
    normalized = getattr(self.votes, 'normalized', True)
    if chunk is not None or not normalized:
      raise ValueError(
        'IAP-trans takes votes with chunk=None and normalized=True, got '
        f'{chunk=} {normalized=}'
      )
    super().__post_init__()

  def setup(self) -> None:
    """Makes the projection of values, too."""
    super().setup()
    self.value = Projection(self.patches, self.value_width, self.bias)

  def __call__(
    self, picture: Picture, projection: PyTree = None
  ) -> Float[Array, ' n']:
    """The embedding.

    Args:
      picture: see the module.
      projection: of `draw`.

    Raises:
      ValueError: 'flatten' would give more than 4096 numbers.
    """
    picture = _floats(picture)
    # Positions first, as attention reads them; see `votes.Exact`.
    q, k = jax.lax.optimization_barrier(self._pairs(picture))
    sides = picture.shape[:2]
    places = 2 * self.patches.centers(*sides) / np.array(sides) - 1
    v = jnp.concatenate([self.value(picture).T, jnp.float32(places)], axis=1)
    heads = lambda x: x[None, :, None]
    out = self.votes.attention(
      heads(q), heads(k), heads(v), projection=projection, causal=False
    )[0, :, 0]
    if self.pool == 'mean':
      return out.mean(axis=0)
    if self.pool == 'max':
      return out.max(axis=0)
    if self.pool == 'votes':
      found = self.votes(q, k, projection=projection)
      return found.values @ out / found.values.sum()
    if out.size > _MOST_FLAT:
      raise ValueError(
        f"pool='flatten' may give {_MOST_FLAT} numbers, got {out.shape=}"
      )
    return out.reshape(-1)


class Flat(nn.Module):
  """Mean colours of squares of pixels, without parameters.

  Attributes:
    factor: pixels along each side of a square.

  Raises:
    ValueError: if the factor is not positive.
  """

  factor: int = 4

  def __post_init__(self) -> None:
    ranges.check_counts(factor=self.factor)
    super().__post_init__()

  def __call__(
    self, picture: Picture, projection: None = None
  ) -> Float[Array, ' n']:
    """The means; pixels that are left at the end are not seen."""
    del projection
    patches_lib.Patches(self.factor, self.factor).grid(*picture.shape[:2])
    window = (self.factor, self.factor)
    return nn.avg_pool(_floats(picture), window, window).reshape(-1)


class Convolutions(nn.Module):
  """Strided convolutions, each with ReLU.

  Attributes:
    channels: outputs of each layer.
    sizes: of their kernels.
    strides: of their kernels.

  Raises:
    ValueError: if a number is not positive, or the layers are not as many in
      each attribute.
  """

  channels: tuple[int, ...] = (8, 8, 8)
  sizes: tuple[int, ...] = (5, 3, 3)
  strides: tuple[int, ...] = (3, 2, 2)

  def __post_init__(self) -> None:
    layers = {name: getattr(self, name) for name in _OF_LAYERS}
    ranges.check_counts(**layers)
    if len({*map(len, layers.values())}) > 1:
      raise ValueError(f'layers must have as many {_OF_LAYERS}, got {layers}')
    super().__post_init__()

  @nn.compact
  def __call__(
    self, picture: Picture, projection: None = None
  ) -> Float[Array, ' n']:
    """The last layer, flattened."""
    del projection
    x = _floats(picture)
    for channels, size, stride in zip(
      self.channels, self.sizes, self.strides, strict=True
    ):
      cut = patches_lib.Patches(size, stride)
      rows, columns = cut.grid(*x.shape[:2])
      x = nn.relu(Projection(cut, channels)(x)).T.reshape(rows, columns, -1)
    return x.reshape(-1)


class Blind(nn.Module):
  """Sees nothing; shows how far a controller gets without pictures."""

  def __call__(
    self, picture: Picture, projection: None = None
  ) -> Float[Array, ' 1']:
    """The number 1."""
    del picture, projection
    return jnp.ones(1)
