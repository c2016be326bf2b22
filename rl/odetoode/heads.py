"""Input projection and readout around a body: classifiers and policies.

Letters: d width of the body, n_in inputs, n_out outputs.

Source: arXiv:2006.11421, Sections 3 and 5.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import flatten_util
from jaxtyping import Array, Float, Key, PyTree, Shaped

from rl import ranges
from rl.envs import spaces
from rl.es import policies
from rl.odetoode import bodies, geometry, manifolds

__all__ = ['SQUASHES', 'Classifier', 'Policy']

SQUASHES = ('clip', 'tanh')


class Classifier(nn.Module):
  """Logits R x_N + c of x_0 = P s + p.

  Attributes:
    body: from x_0 to x_N.
    num_classes: n_out.
    dropout: rate of x_0 and of x_N; matrices see none.

  Raises:
    ValueError: if there are no classes, or the rate is not in [0, 1).
  """

  body: bodies.Body
  num_classes: int
  dropout: float = 0.0

  def setup(self) -> None:
    """Declares the parameters."""
    ranges.check_counts(num_classes=self.num_classes)
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')
    self.input = nn.Dense(self.body.width)
    self.readout = nn.Dense(self.num_classes)
    self.drop = nn.Dropout(self.dropout)

  def __call__(
    self, s: Float[Array, 'B *inputs'], *, train: bool = False
  ) -> tuple[Float[Array, 'B n_out'], dict[str, Float[Array, '']]]:
    """Logits, and the body's certificates.

    Args:
      s: flattened after the first axis.
      train: whether dropout acts; it needs the key `dropout`.
    """
    x = self.drop(self._embed(s), deterministic=not train)
    x, aux = self.body(x)
    return self.readout(self.drop(x, deterministic=not train)), aux

  def states(
    self,
    s: Float[Array, 'B *inputs'],
    nudges: Float[Array, 'N1 B d'] | None = None,
  ) -> tuple[Float[Array, 'N1 B d'], Float[Array, 'B n_out']]:
    """x_0, ..., x_N without dropout, and logits; see `flows.states`."""
    weights, _ = self.body.weights()
    x = self.body.states(weights, self._embed(s), nudges)
    return x, self.readout(x[-1])

  def _embed(self, s: Float[Array, 'B *inputs']) -> Float[Array, 'B d']:
    if s.ndim < 2:
      raise ValueError(f's must be [B, ...], got {s.shape}')
    return self.input(s.reshape(s.shape[0], math.prod(s.shape[1:])))


@dataclasses.dataclass(frozen=True)
class Policy:
  """R x_N of x_0 = P s, as a policy of a flat vector of parameters.

  A `rl.es.policies.Policy`: the body's matrices are computed once for a vector,
  a step of a rollout moves x only.

  Parameters: `input` P [d, n_in], `readout` R [n_out, d], and the body's. What
  the body does not train is drawn once and for all policies alike.

  Attributes:
    observation_space: a box of floats, flattened.
    action_space: a bounded box of floats, or discrete: the largest output.
    body: from x_0 to x_N.
    constrain_io: whether P and R have orthonormal columns (rows, where there
      are fewer), at the start and for the geometry.
    readout_scale: factor on the first R; 0: every policy begins with the same
      action, whatever its body, as augmented random search does
      (arXiv:1803.07055). Orthonormal rows leave only 1.
    squash: maps outputs into a box: 'clip' or 'tanh'.
    perturb: 'tangent' or 'ambient'; see `geometry.Manifold`.

  Raises:
    ValueError: if a space or an option is not supported.
  """

  observation_space: spaces.Space
  action_space: spaces.Space
  body: bodies.Body
  constrain_io: bool = True
  readout_scale: float = 1.0
  squash: str = 'clip'
  perturb: str = 'tangent'

  def __post_init__(self) -> None:
    policies.check_observations(self.observation_space)
    policies.num_outputs(self.action_space)
    if self.squash not in SQUASHES:
      raise ValueError(f'squash must be one of {SQUASHES}, got {self.squash!r}')
    if self.perturb not in geometry.PERTURBATIONS:
      raise ValueError(
        f'perturb must be one of {geometry.PERTURBATIONS}, got {self.perturb!r}'
      )
    ranges.check_not_negative(readout_scale=self.readout_scale)
    if self.constrain_io and self.readout_scale != 1:
      raise ValueError(
        'readout_scale must be 1 with orthonormal rows, got '
        f'{self.readout_scale=} {self.constrain_io=}'
      )

  def _init(self, key: Key[Array, '']) -> dict[str, Any]:
    d = self.body.width
    inputs = math.prod(self.observation_space.shape)
    outputs = policies.num_outputs(self.action_space)
    keys = jax.random.split(key, 3)
    variables = self.body.init(keys[0], jnp.zeros(d))
    draw = _orthonormal if self.constrain_io else _normal
    return {
      'body': variables.get('params', {}),
      'input': draw(keys[1], (d, inputs)),
      'readout': self.readout_scale * draw(keys[2], (outputs, d)),
    }

  @functools.lru_cache(maxsize=8)  # noqa: B019 (frozen and small)
  def _layout(self) -> tuple[Any, Any]:
    """Shapes of the parameters, and the arrays that are not trained."""
    shapes = jax.eval_shape(self._init, jax.random.key(0))
    with jax.ensure_compile_time_eval():
      variables = self.body.init(jax.random.key(0), jnp.zeros(self.body.width))
      constants = variables.get('constants', {})
    return shapes, constants

  @functools.cached_property
  def geometry(self) -> geometry.Manifold:
    """The manifold of the parameters, for `rl.es`."""
    return geometry.Manifold.of(
      self.shapes, self.constraints, perturb=self.perturb
    )

  @property
  def shapes(self) -> PyTree:
    """Shapes of the parameters, by name."""
    return self._layout()[0]

  @property
  def constraints(self) -> dict[str, str]:
    """Kinds of parameters by name, as of `bodies.Body`; and 'stiefel'."""
    heads = ('input', 'readout') if self.constrain_io else ()
    return dict(self.body.constraints) | dict.fromkeys(heads, 'stiefel')

  @property
  def size(self) -> int:
    """Number of parameters, matrices counted in full."""
    return sum(x.size for x in jax.tree.leaves(self.shapes))

  def init(self, key: Key[Array, '']) -> Float[Array, ' n']:
    """P, R and W_0 uniform on their manifolds, the body's own draws."""
    return flatten_util.ravel_pytree(self._init(key))[0]

  def params(self, theta: Float[Array, ' n']) -> PyTree:
    """The parameters by name."""
    return geometry.unflatten(self.shapes, theta)

  def unravel(self, theta: Float[Array, ' n']) -> PyTree:
    """P, R, and the body's matrices before any step."""
    params = self.params(theta)
    variables = self._variables(params['body'])
    weights, _ = self.body.apply(variables, method='weights')
    return params['input'], params['readout'], params['body'], weights

  def _variables(self, body: PyTree) -> PyTree:
    return {'params': body, 'constants': self._layout()[1]}

  def initial_memory(self) -> PyTree:
    """None."""
    return ()

  def act(
    self, params: PyTree, memory: PyTree, observation: Shaped[Array, '...']
  ) -> tuple[PyTree, Shaped[Array, '...']]:
    """See `rl.es.policies.Policy.act`."""
    project, readout, body, weights = params
    s = observation.reshape(-1).astype(jnp.float32)
    variables = self._variables(body)
    x = self.body.apply(variables, weights, project @ s, method='advance')
    outputs = readout @ x
    if self.squash == 'tanh' or isinstance(self.action_space, spaces.Discrete):
      return memory, policies.to_action(self.action_space, outputs)
    low, high = self.action_space.bounds
    action = jnp.clip(outputs.reshape(self.action_space.shape), low, high)
    return memory, action.astype(self.action_space.dtype)


def _orthonormal(key: Key[Array, ''], shape: tuple[int, int]) -> Array:
  return manifolds.stiefel(key, shape)


def _normal(key: Key[Array, ''], shape: tuple[int, int]) -> Array:
  """Columns of an expected norm of 1, as orthonormal ones have."""
  return jax.random.normal(key, shape) / math.sqrt(max(shape))
