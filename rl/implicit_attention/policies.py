"""Policies from pictures, for evolution strategies.

Reference: arXiv:2102.04353; arXiv:2003.08165, Section 3.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from rl.envs import spaces
from rl.es import policies
from rl.implicit_attention import controllers
from runtime import seeds

__all__ = ['PixelPolicy']


class _Network(nn.Module):
  """Front, controller, and a linear layer."""

  front: nn.Module
  controller: nn.Module
  outputs: int

  @nn.compact
  def __call__(
    self, memory: PyTree, picture: Array, projection: PyTree
  ) -> tuple[PyTree, Float[Array, ' a']]:
    memory, x = self.controller(memory, self.front(picture, projection))
    init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    return memory, nn.Dense(self.outputs, kernel_init=init, name='head')(x)

  def chosen(self, picture: Array, projection: PyTree) -> Int[Array, ' k']:
    return self.front.chosen(picture, projection)


@dataclasses.dataclass(frozen=True)
class PixelPolicy(policies.FlaxParameters):
  """Looks at one picture and remembers; a `rl.es.policies.Policy`.

  The random matrices of its attention are drawn once from a seed and are the
  same for all members and generations.

  Attributes:
    observation_space: pictures [h, w, c]: uint8, or floats in [0, 1].
    action_space: see `rl.es.policies.to_action`.
    front: of `fronts`.
    controller: of `controllers`.
    ordered: the actions of a discrete space in an order in which neighbours are
      alike, such as left, stay, right. Then a single output, in tanh, chooses
      among as many equal parts of [-1, 1]. None: one output for each action.
    seed: of the random matrices.

  Raises:
    ValueError: the observations are no pictures, `ordered` is not all actions, or
      the seed is out of range.
  """

  observation_space: spaces.Space
  action_space: spaces.Space
  front: nn.Module
  controller: nn.Module = dataclasses.field(default_factory=controllers.LSTM)
  ordered: tuple[int, ...] | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    space = self.observation_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
      raise ValueError(
        f'a policy from pictures observes [height, width, channels], got {space}'
      )
    policies.num_outputs(self.action_space)
    seeds.check(self.seed)
    if self.ordered is not None:
      count = getattr(self.action_space, 'n', None)
      if count is None or sorted(self.ordered) != list(range(count)):
        raise ValueError(
          'ordered must be all actions of a discrete space, got '
          f'{self.ordered} for {self.action_space}'
        )

  @property
  def _network(self) -> _Network:
    outputs = 1
    if self.ordered is None:
      outputs = policies.num_outputs(self.action_space)
    return _Network(self.front, self.controller, outputs)

  def _projection(self) -> PyTree:
    draw = getattr(self.front, 'draw', None)
    return None if draw is None else draw(jax.random.key(self.seed))

  def _init(self, key: Key[Array, '']) -> PyTree:
    space = self.observation_space
    picture = jnp.zeros(space.shape, space.dtype)
    return {
      'params': self._network.init(
        key, self.initial_memory(), picture, self._projection()
      )['params']
    }

  def unravel(self, theta: Float[Array, ' d']) -> PyTree:
    """Variables of the network, and the random matrices."""
    return super().unravel(theta), self._projection()

  def initial_memory(self) -> PyTree:
    """That of the controller."""
    return self.controller.initial_memory()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `rl.es.policies.Policy.act`."""
    variables, projection = params
    memory, outputs = self._network.apply(
      variables, memory, observation, projection
    )
    if self.ordered is None:
      return memory, policies.to_action(self.action_space, outputs)
    count = len(self.ordered)
    place = jnp.floor((jnp.tanh(outputs[0]) + 1) / 2 * count)
    place = jnp.clip(place, 0, count - 1).astype(jnp.int32)
    order = jnp.asarray(self.ordered, self.action_space.dtype)
    return memory, order[place]

  @property
  def highlights(self) -> Callable[[PyTree, Array], Float[Array, 'h w']]:
    """Maps params and an observation to how much each pixel was looked at.

    That is 1 in the first patch. Patches of lower rank count less, and the
    higher rank counts where they overlap; all else is 0.

    Raises:
      AttributeError: the front chooses no patches.
    """
    if not hasattr(self.front, 'chosen'):
      raise AttributeError(f'the front chooses no patches, got {self.front}')
    return self._highlights

  def _highlights(
    self, params: PyTree, observation: Shaped[Array, '...']
  ) -> Float[Array, 'h w']:
    variables, projection = params
    index = self._network.apply(
      variables, observation, projection, method='chosen'
    )
    cut = self.front.patches
    height, width = self.observation_space.shape[:2]
    offsets = np.arange(cut.size)
    columns = cut.grid(height, width)[1]
    top, left = index // columns * cut.stride, index % columns * cut.stride
    rows = top[:, None, None] + offsets[:, None]
    places = left[:, None, None] + offsets
    weights = 1 - jnp.arange(index.shape[0]) / index.shape[0]
    blank = jnp.zeros((height, width))
    return blank.at[rows, places].max(weights[:, None, None])
