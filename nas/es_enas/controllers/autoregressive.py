"""A recurrent network that makes one decision after the other."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from nas.es_enas import space as space_lib
from nas.es_enas.controllers import policy
from rl import distributions, ranges

__all__ = ['Autoregressive']

_ADAM = optax.adam(1e-2)
_LECUN = jax.nn.initializers.lecun_normal()
_Params = dict[str, dict]


@flax.struct.dataclass
class _Walk:
  """Between two decisions.

  Attributes:
    cell: carry of the LSTM.
    previous: embedding of the last decision.
    chosen: options of this group that are taken; of `Choices` none is.
    log_prob: of the decisions so far.
    entropy: sum of theirs.
  """

  cell: Any
  previous: Any
  chosen: Any
  log_prob: Any
  entropy: Any


@dataclasses.dataclass(frozen=True)
class Autoregressive(policy.PolicyController):
  """Each decision depends on those before it; see `policy.PolicyController`.

  An LSTM reads the embedding of the last decision and that of the place. A
  decision of `space.Choices` has a softmax on the LSTM's output h, one layer per
  group. The elements of a `space.Subset` are pointed at: element j has the score
  (W1 e_j) . (W2 h), and those chosen before are left out. The inner product takes
  the place of the additive score of pointer networks, which costs tens of times more on a CPU.

  `best` takes the most probable option at each step.

  Attributes:
    space: what it proposes from.
    optimizer: gets minus the gradient.
    entropy_weight: see `policy.PolicyController`, as the next three.
    clip: see there.
    epochs: see there.
    minibatches: see there.
    embedding: width of the embeddings.
    hidden: width of the LSTM.

  Raises:
    ValueError: see there, or if a width is not positive.

  References: arXiv:1802.03268 (ENAS), arXiv:1506.03134 (pointer networks).
  """

  optimizer: optax.GradientTransformation = _ADAM
  embedding: int = 64
  hidden: int = 64

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_counts(embedding=self.embedding, hidden=self.hidden)

  def initial(self, key: Key[Array, '']) -> _Params:
    """Weights whose last layers are 0: the distribution is uniform."""
    cell_key, place_key, key = jax.random.split(key, 3)
    places = (self.space.length, self.embedding)
    gates = (self.embedding + self.hidden, 4 * self.hidden)
    groups = self.space.groups
    keys = jax.random.split(key, max(1, len(groups)))
    drawn = zip(groups, keys, strict=False)
    return {
      'cell': {
        'kernel': _LECUN(cell_key, gates),
        'bias': jnp.zeros(4 * self.hidden),
      },
      'places': {'embedding': jax.random.normal(place_key, places)},
      'groups': {group.name: self._head(group, k) for group, k in drawn},
    }

  def _head(
    self, group: space_lib.Group, key: Key[Array, '']
  ) -> dict[str, Float[Array, '...']]:
    options, width = group.options, self.hidden
    key, key_key = jax.random.split(key)
    head = {'embedding': jax.random.normal(key, (options, self.embedding))}
    if isinstance(group, space_lib.Choices):
      zeros = jnp.zeros
      return head | {'kernel': zeros((width, options)), 'bias': zeros(options)}
    return head | {
      'keys': _LECUN(key_key, (self.embedding, width)),
      'query': jnp.zeros((width, width)),
    }

  def sample(self, params: _Params, key: Key[Array, '']) -> Int[Array, ' D']:
    """See `policy.PolicyController`."""
    keys = jax.random.split(key, self.space.length)
    drawn = lambda logits, key: distributions.Categorical(logits).sample(key)
    return self._walked(params, keys, drawn)[0]

  def score(
    self, params: _Params, architecture: Int[Array, ' D']
  ) -> tuple[Float[Array, ''], Float[Array, '']]:
    """See `policy.PolicyController`."""
    given = lambda logits, option: option
    return self._walked(params, architecture, given)[1:]

  def mode(self, params: _Params) -> Int[Array, ' D']:
    """See the class."""
    greedy = lambda logits, _: distributions.Categorical(logits).mode()
    return self._walked(params, jnp.arange(self.space.length), greedy)[0]

  def _walked(
    self,
    params: _Params,
    inputs: Array,
    choose: Callable[[Float[Array, ' options'], Array], Int[Array, '']],
  ) -> tuple[Int[Array, ' D'], Float[Array, ''], Float[Array, '']]:
    """Makes all decisions.

    Args:
      params: of the network.
      inputs: of `choose`, one for each decision.
      choose: an option by its logits and an input.

    Returns:
      The architecture, its log-probability, and the sum of the entropies.
    """
    zero = jnp.zeros(())
    start = jnp.zeros(self.embedding)
    cell = (jnp.zeros(self.hidden), jnp.zeros(self.hidden))
    walk = _Walk(cell, start, jnp.zeros(0, bool), zero, zero)
    parts, begin = {}, 0
    for group in self.space.groups:
      end = begin + group.count
      walk = walk.replace(chosen=jnp.zeros(group.options, bool))
      step = self._step(group, params, choose)
      places = params['places']['embedding'][begin:end]
      # Recomputing a step is cheaper than keeping its scores of all elements.
      walk, parts[group.name] = jax.lax.scan(
        jax.checkpoint(step, prevent_cse=False),
        walk,
        (places, inputs[begin:end]),
      )
      begin = end
    return self.space.joined(parts), walk.log_prob, walk.entropy

  def _step(
    self, group: space_lib.Group, params: _Params, choose: Callable
  ) -> Callable[[_Walk, tuple], tuple[_Walk, Int[Array, '']]]:
    """The function that makes one decision of a group."""
    head = params['groups'][group.name]
    distinct = not isinstance(group, space_lib.Choices)
    if distinct:
      keys = head['embedding'] @ head['keys']

    def step(walk: _Walk, one: tuple) -> tuple[_Walk, Int[Array, '']]:
      place, given = one
      cell = _cell(params['cell'], walk.cell, walk.previous + place)
      hidden = cell[1]
      if distinct:
        logits = keys @ (hidden @ head['query'])
        logits = jnp.where(walk.chosen, -jnp.inf, logits)
      else:
        logits = hidden @ head['kernel'] + head['bias']
      option = choose(logits, given)
      log_probs = jax.nn.log_softmax(logits)
      # An option with probability 0 adds 0, not 0 * -inf.
      finite = jnp.where(walk.chosen, 0, log_probs)
      entropy = -jnp.sum(jnp.exp(log_probs) * finite)
      return walk.replace(
        cell=cell,
        previous=head['embedding'][option],
        chosen=walk.chosen.at[option].set(distinct),
        log_prob=walk.log_prob + log_probs[option],
        entropy=walk.entropy + entropy,
      ), option

    return step


def _cell(
  params: dict[str, Array],
  carry: tuple[Float[Array, ' h'], Float[Array, ' h']],
  inputs: Float[Array, ' e'],
) -> tuple[Float[Array, ' h'], Float[Array, ' h']]:
  """A step of the LSTM: its memory and its output."""
  memory, hidden = carry
  joined = jnp.concatenate([inputs, hidden])
  gates = joined @ params['kernel'] + params['bias']
  write, keep, value, show = jnp.split(gates, 4)
  # Remembering is the default: at first, three quarters of it.
  kept = jax.nn.sigmoid(keep + 1) * memory
  memory = kept + jax.nn.sigmoid(write) * jnp.tanh(value)
  return memory, jax.nn.sigmoid(show) * jnp.tanh(memory)
