"""From observations to a value distribution for every action."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from rl import networks

__all__ = ['NOISE', 'Distributions', 'NoisyDense', 'dueling']

# The name under which `apply` takes the key of noisy layers.
NOISE = 'noise'


def dueling(
  value: Float[Array, 'b 1 z'], advantage: Float[Array, 'b a z']
) -> Float[Array, 'b a z']:
  """V + A - mean_a A, per atom (arXiv:1511.06581, Eq. 9)."""
  return value + advantage - advantage.mean(axis=-2, keepdims=True)


def _signed_root(x: Float[Array, ' k']) -> Float[Array, ' k']:
  return jnp.sign(x) * jnp.sqrt(jnp.abs(x))


class NoisyDense(nn.Module):
  """A dense layer with learnt factorised noise on its weights.

  y = x (M + S * f(e_in) f(e_out)^T) + m + s * f(e_out) with standard normal e
  and f(e) = sign(e) sqrt |e|; one draw per application, the same for the whole
  batch. Without a key under `NOISE` there is no noise. M and m start from
  U(-1, 1) / sqrt(fan in), S and s at `scale` / sqrt(fan in).

  Attributes:
    features: width of the output.
    scale: sigma_0.

  Reference: Fortunato et al. (2017), arXiv:1706.10295, section 3.
  """

  features: int
  scale: float = 0.5

  @nn.compact
  def __call__(self, x: Float[Array, 'b d']) -> Float[Array, 'b k']:
    """Applies the layer."""
    width = x.shape[-1]
    bound = 1 / math.sqrt(width)
    mean_init = lambda key, shape: jax.random.uniform(
      key, shape, minval=-bound, maxval=bound
    )
    noise_init = nn.initializers.constant(self.scale * bound)
    shape = (width, self.features)
    y = x @ self.param('kernel', mean_init, shape)
    y += self.param('bias', mean_init, shape[1:])
    kernel_noise = self.param('kernel_noise', noise_init, shape)
    bias_noise = self.param('bias_noise', noise_init, shape[1:])
    if not self.has_rng(NOISE):
      return y
    keys = jax.random.split(self.make_rng(NOISE))
    rows, columns = (
      _signed_root(jax.random.normal(key, (size,)))
      for key, size in zip(keys, shape, strict=True)
    )
    return y + (((x * rows) @ kernel_noise) + bias_noise) * columns


class Distributions(nn.Module):
  """An encoder, then layers for values and for advantages.

  Attributes:
    encoder: [b, ...] -> [b, features]; None: the flat observation.
    num_actions: a.
    num_atoms: z.
    hidden: widths between the encoder and the atoms, of each stream.
    dueling: whether there are two streams; otherwise only one.
    noisy: whether these layers are `NoisyDense`.
  """

  encoder: nn.Module | None
  num_actions: int
  num_atoms: int
  hidden: tuple[int, ...] = (512,)
  dueling: bool = True
  noisy: bool = False

  @nn.compact
  def __call__(
    self, observation: Shaped[Array, 'b ...']
  ) -> Float[Array, 'b a z']:
    """Logits of the distribution after every action."""
    features = networks.to_float(observation).reshape(len(observation), -1)
    if self.encoder is not None:
      features = self.encoder(observation)
    logits = self._stream('advantage', features, self.num_actions)
    if not self.dueling:
      return logits
    return dueling(self._stream('value', features, 1), logits)

  def _stream(
    self, name: str, x: Float[Array, 'b d'], outputs: int
  ) -> Float[Array, 'b o z']:
    layer = NoisyDense if self.noisy else nn.Dense
    for index, width in enumerate(self.hidden):
      x = nn.relu(layer(width, name=f'{name}_{index}')(x))
    x = layer(outputs * self.num_atoms, name=f'{name}_out')(x)
    return x.reshape(x.shape[0], outputs, self.num_atoms)
