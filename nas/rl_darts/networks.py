"""Encoders made of cells, for any agent of `rl` and any Flax model.

An encoder is a Linen module [n, h, w, c] -> [n, features]. Its architecture is
one object: `Relaxed` cells (a supernet), `Masked` cells (discrete ones, computed
by the supernet's program), or a `genotype.Genotype` (discrete cells alone).

`network.apply({'params': weights}, x, alpha)` takes the logits as an argument
beside the weights, so that `jax.vmap` goes over architectures; without it they
are parameters under the name 'alpha'.

References: arXiv:2106.02229; the code of its authors (google/brain_autorl,
  rl_darts/policies and rl_darts/algorithms/sac/encoders.py).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, Shaped

from nas.rl_darts import cells as cells_lib
from nas.rl_darts import convolutions, probabilities, spaces
from nas.rl_darts import genotype as genotype_lib
from rl import networks, ranges

__all__ = [
  'Architecture',
  'CellNetwork',
  'Classic',
  'Derivable',
  'Masked',
  'Micro',
  'PISACEncoder',
  'Relaxed',
]


@dataclasses.dataclass(frozen=True)
class Relaxed:
  """Cells of a supernet: every candidate on every edge.

  Attributes:
    temperature: T, of softmax(alpha / T).
    deviation: of the first logits; they are zeros if it is 0, as published.

  Raises:
    ValueError: if the temperature is not positive, or the deviation negative.
  """

  temperature: float = 1.0
  deviation: float = 0.0

  def __post_init__(self) -> None:
    ranges.check_positive(temperature=self.temperature)
    ranges.check_not_negative(deviation=self.deviation)


@dataclasses.dataclass(frozen=True)
class Masked:
  """Discrete cells, computed by the program of the supernet.

  Their masks are parameters without gradients. So many cells can be trained as
  one program, by `vmap`; one of them alone is faster as a `Genotype`.

  Attributes:
    genotype: the cells; None: drawn uniformly from the space by the key that
      draws the weights.
  """

  genotype: genotype_lib.Genotype | None = None


Architecture = Relaxed | Masked | genotype_lib.Genotype


def _first_alpha(
  architecture: Relaxed | Masked,
  space: spaces.CellSpace,
  kind: str,
  key: Key[Array, ''],
) -> dict[str, Array]:
  """Logits, or masks, of a cell type."""
  if isinstance(architecture, Relaxed):
    return probabilities.init(space, key, architecture.deviation)
  if architecture.genotype is not None:
    found = architecture.genotype[kind].mixing()
    return jax.tree.map(jnp.asarray, found)
  labels = genotype_lib.random_labels(key, space)
  drawn = {'edges': genotype_lib.mixing(labels, len(space.ops))}
  if space.output == 'weighted':
    drawn['out'] = jnp.full(space.nodes, 1 / space.nodes)
  return drawn


def _wide(x: Float[Array, '...']) -> Float[Array, '...']:
  """At least float32."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pictures(observation: Shaped[Array, '...']) -> Float[Array, 'n h w c']:
  if observation.ndim != 4:
    raise ValueError(
      f'cells need pictures [n, h, w, c], got the shape {observation.shape}'
    )
  return networks.to_float(observation)


class Derivable:
  """Has an architecture and a space: genotypes can be derived for it."""

  @property
  def strides(self) -> dict[str, int]:
    """The cell types of the network, with the strides of their inputs."""
    return {'normal': 1}

  def derive(
    self, logits: Mapping[str, probabilities.Logits], **options: Any
  ) -> genotype_lib.Genotype:
    """The genotype of logits by cell type; see `genotype.discretise`.

    Args:
      logits: of this network.
      **options: of `genotype.discretise`, but for the temperature.
    """
    if isinstance(self.architecture, Relaxed):
      options['temperature'] = self.architecture.temperature
    return genotype_lib.derive(logits, self.space, self.strides, **options)


class CellNetwork(Derivable, nn.Module):
  """What all networks of cells share.

  Attributes:
    architecture: see the module.
    space: of the cells; a genotype brings its own, and its strides.
    form: see `cells.Cell`.
    products: see `candidates.Form`.
    remat: whether the backward pass computes the inside of a cell again,
      instead of keeping it.
    dtype: of the computation, such as 'bfloat16'; None: float32. Parameters and
      results are float32 or wider.
  """

  architecture: Architecture = Relaxed()
  space: spaces.CellSpace = spaces.MICRO
  form: cells_lib.CellForm = 'fused'
  products: bool = False
  remat: bool = False
  dtype: Any = None

  def mixing(
    self, alpha: Mapping[str, probabilities.Logits] | None
  ) -> Mapping[str, probabilities.Logits] | None:
    """Mixing weights by cell type; None for discrete cells alone."""
    chosen = self.architecture
    self._check_genotype()
    if isinstance(chosen, genotype_lib.Genotype):
      if alpha is not None:
        raise ValueError('a network of discrete cells alone takes no alpha')
      return None
    if alpha is None:
      alpha = self.param(probabilities.ALPHA, self._first)
    if alpha.keys() != self.strides.keys():
      raise ValueError(
        f'alpha must have the cell types {sorted(self.strides)}, got '
        f'{sorted(alpha)}'
      )
    if isinstance(chosen, Masked):
      return jax.lax.stop_gradient(alpha)
    return {
      kind: probabilities.probabilities(logits, chosen.temperature)
      for kind, logits in alpha.items()
    }

  def _check_genotype(self) -> None:
    """Raises a ValueError if the genotype is that of another network."""
    chosen = self.architecture
    if not isinstance(chosen, Architecture):
      raise ValueError(
        'architecture must be Relaxed, Masked or a Genotype, got '
        f'{chosen!r:.80}'
      )
    masked = isinstance(chosen, Masked)
    found = chosen.genotype if masked else chosen
    if not isinstance(found, genotype_lib.Genotype):
      return
    cells = dict(found.cells)
    if cells.keys() != self.strides.keys():
      raise ValueError(
        f'{type(self).__name__} has cells of the types {sorted(self.strides)}, '
        f'got a genotype of {sorted(cells)}'
      )
    for kind, cell in cells.items() if masked else ():
      fixed = self.space, self.strides[kind]
      if (cell.space, cell.stride) != fixed:
        raise ValueError(
          "masks are of the network's space and strides, "
          f'{fixed}, got {(cell.space, cell.stride)} for {kind!r}'
        )

  def _first(self, key: Key[Array, '']) -> dict[str, dict[str, Array]]:
    keys = jax.random.split(key, len(self.strides))
    return {
      kind: _first_alpha(self.architecture, self.space, kind, one)
      for kind, one in zip(self.strides, keys, strict=True)
    }

  def cell(
    self,
    kind: str,
    name: str,
    channels: int,
    x: Float[Array, '... d'],
    mixing: Mapping[str, probabilities.Logits] | None,
  ) -> Float[Array, '... c']:
    """Applies a cell of a type."""
    own, space, stride = None, self.space, self.strides[kind]
    if isinstance(self.architecture, genotype_lib.Genotype):
      own = self.architecture[kind]
      space, stride = own.space, own.stride
    make = nn.remat(cells_lib.Cell) if self.remat else cells_lib.Cell
    cell = make(
      channels,
      space,
      stride,
      own,
      self.form,
      self.products,
      self.dtype,
      name=name,
    )
    return cell([x] * space.inputs, None if mixing is None else mixing[kind])

  def _convolution(
    self,
    name: str,
    channels: int,
    x: Float[Array, 'n h w d'],
    stride: int = 1,
    padding: convolutions.Padding = 'SAME',
  ) -> Float[Array, 'n i j c']:
    """A 3x3 convolution between cells."""
    x = x if self.dtype is None else x.astype(self.dtype)
    shape = (3, 3, x.shape[-1], channels)
    kernel = self.param(f'{name}_kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param(f'{name}_bias', nn.initializers.zeros, (channels,))
    y = convolutions.convolve(
      x,
      kernel.astype(x.dtype),
      stride=stride,
      padding=padding,
      products=self.products,
    )
    return (y + bias).astype(x.dtype)


class _Stages(CellNetwork):
  """Stages, then flat, ReLU, dense, ReLU.

  Attributes beside those of `CellNetwork`:
    depths: channels of the stages; each halves height and width.
    dense: width of the output; None: the last stage's pictures are returned.

  Raises:
    ValueError: if a size is not positive.
  """

  depths: tuple[int, ...] = (16, 32, 32)
  dense: int | None = 256

  def __post_init__(self) -> None:
    ranges.check_counts(depths=self.depths, dense=self.dense)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    observation: Shaped[Array, '...'],
    alpha: Mapping[str, probabilities.Logits] | None = None,
  ) -> Float[Array, 'n ...']:
    """Features.

    Args:
      observation: pictures, [n, h, w, c]; uint8 is divided by 255.
      alpha: logits (or masks) by cell type; None: they are parameters.
    """
    mixing = self.mixing(alpha)
    x = self._stem(_pictures(observation))
    for stage, depth in enumerate(self.depths):
      x = self._stage(stage, depth, x, mixing)
    if self.dense is None:
      return _wide(x)
    x = nn.relu(x.reshape(x.shape[0], -1))
    x = nn.relu(convolutions.Affine(self.dense, name='dense')(x))
    return _wide(x)

  def _stem(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h w d']:
    return x


class Micro(_Stages):
  """IMPALA's network with cells for its residual blocks.

  A stage is a 3x3 convolution, a 3x3 max-pooling with stride 2, and two normal
  cells.

  Attributes beside those of `_Stages`:
    pair: whether the first and the second cells of stages are of two types,
      'normal1' and 'normal2', and not of one, 'normal'.
  """

  pair: bool = False

  @property
  def strides(self) -> dict[str, int]:
    """See `CellNetwork`."""
    return {'normal1': 1, 'normal2': 1} if self.pair else {'normal': 1}

  def _stage(
    self,
    stage: int,
    depth: int,
    x: Float[Array, 'n h w c'],
    mixing: Mapping[str, probabilities.Logits] | None,
  ) -> Float[Array, 'n i j d']:
    x = self._convolution(f'conv_{stage}', depth, x)
    x = nn.max_pool(x, (3, 3), (2, 2), 'SAME')
    for index in (1, 2):
      kind = f'normal{index}' if self.pair else 'normal'
      x = self.cell(kind, f'cell_{stage}_{index}', depth, x, mixing)
    return x


class Classic(_Stages):
  """Stages of a reduction cell with stride 2 and two normal cells.

  Attributes beside those of `_Stages`:
    initial: whether a 3x3 convolution to the first depth goes before.
    reduction: stride of reduction cells.
  """

  space: spaces.CellSpace = spaces.CLASSIC
  initial: bool = True
  reduction: int = 2

  @property
  def strides(self) -> dict[str, int]:
    """See `CellNetwork`."""
    return {'normal': 1, 'reduction': self.reduction}

  def _stem(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h w d']:
    return self._convolution('conv', self.depths[0], x) if self.initial else x

  def _stage(
    self,
    stage: int,
    depth: int,
    x: Float[Array, 'n h w c'],
    mixing: Mapping[str, probabilities.Logits] | None,
  ) -> Float[Array, 'n i j d']:
    for index, kind in enumerate(('reduction', 'normal', 'normal')):
      x = self.cell(kind, f'cell_{stage}_{index}', depth, x, mixing)
    return x


class PISACEncoder(CellNetwork):
  """The encoder of PI-SAC with cells: for control from stacked pictures.

  A 3x3 convolution with stride 2, not padded; normal cells; filter response
  normalisation with a thresholded linear unit; flat, dense, layer normalisation.
  Published for 84x84 pictures of three frames.

  Attributes beside those of `CellNetwork`:
    channels: of the convolution and the cells.
    num_cells: of them. Three stand for the three convolutions of the baseline;
      the published number was not found.
    features: width of the output.

  Raises:
    ValueError: if a size is not positive.
  """

  channels: int = 32
  num_cells: int = 3
  features: int = 50

  def __post_init__(self) -> None:
    ranges.check_counts(channels=self.channels, features=self.features)
    ranges.check_counts(least=0, num_cells=self.num_cells)
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    observation: Shaped[Array, '...'],
    alpha: Mapping[str, probabilities.Logits] | None = None,
  ) -> Float[Array, 'n f']:
    """Features; arguments as of `Micro`."""
    mixing = self.mixing(alpha)
    x = _pictures(observation)
    x = self._convolution('conv', self.channels, x, 2, 'VALID')
    for index in range(self.num_cells):
      x = self.cell('normal', f'cell_{index}', self.channels, x, mixing)
    x = _FilterResponse(name='response')(_wide(x))
    x = nn.Dense(self.features, name='dense')(x.reshape(x.shape[0], -1))
    return nn.LayerNorm(epsilon=1e-5, name='norm')(x)


class _FilterResponse(nn.Module):
  """Filter response normalisation and a thresholded unit (arXiv:1911.09737)."""

  @nn.compact
  def __call__(self, x: Float[Array, 'n h w c']) -> Float[Array, 'n h w c']:
    shape = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    threshold = self.param('threshold', nn.initializers.zeros, shape)
    power = jnp.mean(x**2, axis=(1, 2), keepdims=True)
    # In squared units of x, as published.
    y = x * jax.lax.rsqrt(power + 1e-6) * scale + bias
    return jnp.maximum(y, threshold)
