"""The networks of SAC: a policy, and two critics in one."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from rl import networks

__all__ = ['Critic', 'Policy']

# Bounds of log_std, as in the authors' code.
_LOWEST, _HIGHEST = -20.0, 2.0


class _Layers(nn.Module):
  """Dense layers with ReLU between them."""

  widths: tuple[int, ...]
  outputs: int

  @nn.compact
  def __call__(self, x: Float[Array, 'b d']) -> Float[Array, 'b o']:
    for width in self.widths:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.outputs)(x)


def _features(
  encoder: nn.Module | None, observation: Shaped[Array, 'b ...']
) -> Float[Array, 'b d']:
  if encoder is not None:
    return encoder(observation)
  return networks.to_float(observation).reshape(len(observation), -1)


class Policy(nn.Module):
  """Means and log deviations before squashing.

  Attributes:
    size: a, numbers in an action.
    hidden: widths.
    encoder: [b, ...] -> [b, features]; None: the flat observation.
  """

  size: int
  hidden: tuple[int, ...] = (256, 256)
  encoder: nn.Module | None = None

  @nn.compact
  def __call__(
    self, observation: Shaped[Array, 'b ...']
  ) -> tuple[Float[Array, 'b a'], Float[Array, 'b a']]:
    """Applies the network."""
    x = _features(self.encoder, observation)
    mean, log_std = jnp.split(_Layers(self.hidden, 2 * self.size)(x), 2, -1)
    return mean, jnp.clip(log_std, _LOWEST, _HIGHEST)


class Critic(nn.Module):
  """Two soft values of every action, after one encoder.

  Attributes:
    hidden: widths of each.
    encoder: [b, ...] -> [b, features]; None: the flat observation.
  """

  hidden: tuple[int, ...] = (256, 256)
  encoder: nn.Module | None = None

  @nn.compact
  def __call__(
    self, observation: Shaped[Array, 'b ...'], action: Float[Array, 'b a']
  ) -> Float[Array, '2 b']:
    """Applies both."""
    features = _features(self.encoder, observation)
    x = jnp.concatenate([features, action], axis=-1)
    twins = nn.vmap(
      _Layers,
      in_axes=None,
      axis_size=2,
      variable_axes={'params': 0},
      split_rngs={'params': True},
    )
    return twins(self.hidden, 1)(x)[..., 0]
