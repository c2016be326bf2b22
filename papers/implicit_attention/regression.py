"""Learning by gradients where the target is, from pictures.

An arm hides a target or not; a front, a hidden layer and a linear one say where
the target is. The fronts differ, all else is equal: every step has new pictures,
which all fronts of a seed share. IAP-rank has no gradient through its choice of
patches, so that only the layers behind it learn.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from papers import claims, figures, rows, study
from performer import attention
from rl.envs import pixels, reacher
from rl.implicit_attention import controllers, fronts, patches, votes

TRANS, RANK, CONVOLUTIONS = 'IAP-trans', 'IAP-rank', 'convolutions'
_REACH = 0.9  # Metres: targets are uniform in the disc of this radius.
_CENTRE = 2 / 3 * _REACH  # Mean distance of targets from the centre.


@dataclasses.dataclass(frozen=True)
class Setting:
  """A regression."""

  front: nn.Module  # Makes features of a picture.
  side: int = 32  # Pixels along each side.
  steps: int = 1200  # Of training.
  records: int = 12  # Judgements, at equal distances, the last at the end.
  batch: int = 32  # Pictures of a step.
  rate: float = 3e-3  # Step size of Adam.
  judged: int = 256  # Pictures of a judgement.


class _Regressor(nn.Module):
  """A front and what follows it."""

  front: nn.Module

  @nn.compact
  def __call__(self, picture: Array, projection: PyTree) -> Float[Array, ' 2']:
    _, x = controllers.MLP((32,))((), self.front(picture, projection))
    return nn.Dense(2)(x)


def _scenes(
  setting: Setting, key: Key[Array, ''], count: int
) -> tuple[Array, Float[Array, 'n 2']]:
  """Pictures, and the places of their targets in metres."""
  view = pixels.PixelView(reacher.Reacher(), pixels.arm_scene, setting.side)
  states, pictures = jax.vmap(view.reset)(jax.random.split(key, count))
  return pictures, states.target


def run(setting: Setting, *, seed: int) -> study.Record:
  """Trains, and judges on pictures that training does not have.

  The seed is of parameters, random features and pictures.

  Returns:
    `steps` and `error`, the mean distance in metres from the target after them;
    `parameters`, their number.
  """
  errors, count = _train(setting, jax.random.key(seed))
  steps = setting.steps // setting.records * np.arange(1, setting.records + 1)
  return {'steps': steps, 'error': errors, 'parameters': int(count)}


@functools.partial(jax.jit, static_argnums=0)
def _train(
  setting: Setting, key: Key[Array, '']
) -> tuple[Float[Array, ' r'], int]:
  init, draw, data, test = jax.random.split(key, 4)
  model, front = _Regressor(setting.front), setting.front
  projection = front.draw(draw) if hasattr(front, 'draw') else None
  pictures, targets = _scenes(setting, test, setting.judged)
  variables = model.init(init, pictures[0], projection)
  optimizer = optax.adam(setting.rate)
  apply = jax.vmap(model.apply, (None, 0, None))

  def loss(variables: PyTree, seen: Array, places: Array) -> Array:
    return jnp.square(apply(variables, seen, projection) - places).mean()

  def step(carry: PyTree, key: Array) -> tuple[PyTree, None]:
    variables, state = carry
    gradient = jax.grad(loss)(variables, *_scenes(setting, key, setting.batch))
    updates, state = optimizer.update(gradient, state, variables)
    return (optax.apply_updates(variables, updates), state), None

  def round_(carry: PyTree, keys: Array) -> tuple[PyTree, Array]:
    carry, _ = jax.lax.scan(step, carry, keys)
    gap = apply(carry[0], pictures, projection) - targets
    return carry, jnp.linalg.norm(gap, axis=-1).mean()

  each = setting.steps // setting.records
  keys = jax.random.split(data, (setting.records, each))
  carry = variables, optimizer.init(variables)
  _, errors = jax.lax.scan(round_, carry, keys)
  return errors, sum(x.size for x in jax.tree.leaves(variables))


_VOTES = votes.Implicit(attention.Favor(kernel='softmax_hyp', features=32))
_CUT = patches.Patches(4, 2)
_FRONTS = {
  TRANS: fronts.Trans(_VOTES, _CUT),
  RANK: fronts.Rank(_VOTES, _CUT),
  CONVOLUTIONS: fronts.Convolutions(),
}

ROWS = (
  rows.Row(
    id='where-is-the-target',
    claim='IAP-trans learns from pictures by gradients, where IAP-rank learns '
    'only behind its choice of patches (mean distance in metres from the target '
    'of an arm).',
    study=study.Study(
      run, {name: Setting(front) for name, front in _FRONTS.items()}
    ),
    ours=rows.numbers('error', 'parameters'),
    trend=f'IAP-trans below IAP-rank, and below half of the {_CENTRE:g} m of who '
    'always says the centre',
    claims=(
      claims.below(f'{TRANS}: error', f'{RANK}: error', paired=True),
      claims.below(f'{TRANS}: error', _CENTRE / 2),
    ),
    figure=figures.of_arms(
      {'error': 'mean distance from the target (m)'},
      x='steps',
      spread='mean',
      levels={'always the centre': _CENTRE},
      xlabel='steps',
    ),
    explain='Pictures of 32 x 32 pixels, 225 patches of 4 x 4, 32 features; 32 '
    'pictures in a step of Adam. Judged on 256 pictures of other seeds. The '
    'convolutions stand beside, without a claim.',
    headline=f'{TRANS}: error',
    curves=True,
  ),
)
