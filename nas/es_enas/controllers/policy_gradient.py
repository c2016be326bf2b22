"""A factorised distribution of architectures, learnt by policy gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from nas.es_enas import space as space_lib
from nas.es_enas.controllers import draws, plackett_luce, policy
from rl import distributions

__all__ = ['PolicyGradient']

_ADAM = optax.adam(0.1)
_Logits = dict[str, Float[Array, '...']]


@dataclasses.dataclass(frozen=True)
class PolicyGradient(policy.PolicyController):
  """Independent decisions with logits of their own; see `PolicyController`.

  A decision of `space.Choices` has a softmax. The elements of a `space.Subset`
  have a softmax without replacement (`plackett_luce`).

  `best` has the greatest logit of each decision, and the greatest ones of a set.

  Attributes:
    space: what it proposes from.
    optimizer: gets minus the gradient.
    entropy_weight: see `policy.PolicyController`, as the others.
    clip: see there.
    epochs: see there.
    minibatches: see there.

  Raises:
    ValueError: see there.
  """

  optimizer: optax.GradientTransformation = _ADAM

  def initial(self, key: Key[Array, '']) -> _Logits:
    """Logits of 0, by group: [count, options], of a set [options]."""
    del key
    return {group.name: _zeros(group) for group in self.space.groups}

  def sample(self, params: _Logits, key: Key[Array, '']) -> Int[Array, ' D']:
    """See `policy.PolicyController`."""
    keys = jax.random.split(key, max(1, len(self.space.groups)))
    drawn = zip(self.space.groups, keys, strict=False)
    return self.space.joined(
      {g.name: _sampled(g, params[g.name], k) for g, k in drawn}
    )

  def score(
    self, params: _Logits, architecture: Int[Array, ' D']
  ) -> tuple[Float[Array, ''], Float[Array, '']]:
    """See `policy.PolicyController`."""
    parts = self.space.parts(architecture)
    log_prob, entropy = jnp.zeros(()), jnp.zeros(())
    for group in self.space.groups:
      found = _distribution(group, params[group.name])
      part = parts[group.name]
      if isinstance(found, plackett_luce.PlackettLuce):
        ours, uncertain = found.score(part)
      else:
        ours, uncertain = (
          jnp.sum(found.log_prob(part)),
          jnp.sum(found.entropy()),
        )
      log_prob, entropy = log_prob + ours, entropy + uncertain
    return log_prob, entropy

  def mode(self, params: _Logits) -> Int[Array, ' D']:
    """See the class."""
    groups = self.space.groups
    return self.space.joined(
      {g.name: _distribution(g, params[g.name]).mode() for g in groups}
    )


def _zeros(group: space_lib.Group) -> Float[Array, '...']:
  if isinstance(group, space_lib.Choices):
    return jnp.zeros((group.count, group.options))
  return jnp.zeros(group.options)


def _sampled(
  group: space_lib.Group, logits: Float[Array, '...'], key: Key[Array, '']
) -> Int[Array, ' count']:
  if not isinstance(group, space_lib.Choices):
    return plackett_luce.PlackettLuce(logits, group.count).sample(key)
  uniform = jax.random.uniform(key, (group.count,))
  return draws.inverted(uniform, jax.nn.softmax(logits))


def _distribution(
  group: space_lib.Group, logits: Float[Array, '...']
) -> distributions.Categorical | plackett_luce.PlackettLuce:
  if isinstance(group, space_lib.Choices):
    return distributions.Categorical(logits)
  return plackett_luce.PlackettLuce(logits, group.count)
