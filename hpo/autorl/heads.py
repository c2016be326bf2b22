"""A policy and values with several heads, which may know their settings."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, Shaped

from rl import distributions, networks

__all__ = ['Heads', 'Outputs']


class Outputs(NamedTuple):
  """The outputs of all heads.

  Attributes:
    policy: of each, logits [*b, h, a].
    value: of each.
  """

  policy: distributions.Categorical
  value: Float[Array, '*b h']


class _Linear(nn.Module):
  """A linear layer of its own for each head."""

  features: int
  kernel_init: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x: Float[Array, 'b h d']) -> Float[Array, 'b h k']:
    _, heads, width = x.shape

    def init(key: Key[Array, '']) -> Float[Array, 'h d k']:
      one = lambda key: self.kernel_init(key, (width, self.features))
      return jax.vmap(one)(jax.random.split(key, heads))

    kernel = self.param('kernel', init)
    bias = self.param(
      'bias', nn.initializers.zeros_init(), (heads, self.features)
    )
    return jnp.einsum('bhd,hdk->bhk', x, kernel) + bias


class Heads(nn.Module):
  """An encoder, then a policy and a value for each head.

  Attributes:
    encoder: [n, ...] -> [n, features]; None: the flat observation.
    num_actions: a.
    condition: width of a layer that reads the features and the head's own
      settings, as targets of values change with these; 0: none.
  """

  encoder: nn.Module | None
  num_actions: int
  condition: int = 0

  @nn.compact
  def __call__(
    self,
    observation: Shaped[Array, 'n ...'],
    settings: Float[Array, 'h e'],
  ) -> Outputs:
    """Applies all heads.

    Args:
      observation: of n steps.
      settings: of each head, numbers of order 1.
    """
    count, heads = observation.shape[0], settings.shape[0]
    x = networks.to_float(observation).reshape(count, -1)
    if self.encoder is not None:
      x = self.encoder(observation)
    x = jnp.broadcast_to(x[:, None], (count, heads, x.shape[-1]))
    if self.condition:
      shape = count, *settings.shape
      both = jnp.concatenate([x, jnp.broadcast_to(settings, shape)], -1)
      x = nn.tanh(nn.Dense(self.condition, name='condition')(both))
    logits = _Linear(self.num_actions, networks.SMALL, name='policy')(x)
    value = _Linear(1, nn.initializers.lecun_normal(), name='value')(x)
    return Outputs(distributions.Categorical(logits), value[..., 0])
