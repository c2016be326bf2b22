"""How many of the patches with most votes are those of exact attention.

Pictures are uniform noise, patches overlap, and projections are random: nothing
is learned. So the numbers say how faithful a kernel's ranks are, not how good a
policy with that kernel can become; a search adapts to whatever kernel it has.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from papers import claims, figures, mechanisms, rows, study
from rl.implicit_attention import patches, votes

SIZES = (16, 64, 256)  # m.
_MIX_ROWS = 8
_CUT = patches.Patches(3, 1)
_WIDTH = 4  # d.


@dataclasses.dataclass(frozen=True)
class Setting:
  """Votes that are compared with exact ones."""

  kernel: str  # Short name of a softmax kernel.
  norm: float = 1.2  # Mean norm of queries and keys, as the kernel sees them.
  side: int = 24  # Pixels along each side of a picture.
  pictures: int = 20  # Number of pictures.
  count: int = 10  # K, patches with most votes.

  def votes(self, m: int) -> votes.Implicit:
    """The votes with m projections."""
    hybrid = self.kernel in ('angular', 'gaussian')
    favor = mechanisms.with_projections(
      f'softmax_{self.kernel}', m, mix_rows=_MIX_ROWS if hybrid else None
    )
    return votes.Implicit(favor)


def run(setting: Setting, *, seed: int, at: int) -> study.Record:
  """Mean overlap of the patches with most votes, implicit and exact, at an m.

  The seed is of pictures, projections of patches, and random features.

  Returns:
    `overlap`, the share of the exact ones that is found; `error`, the norm of
    the difference of all votes over the norm of the exact ones; `moved`, the
    share of queries whose denominator was too near to 0.
  """
  found = _compare(setting, at, jax.random.key(seed))
  return {name: float(value.mean()) for name, value in found.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compare(
  setting: Setting, m: int, key: Key[Array, '']
) -> dict[str, Float[Array, ' n']]:
  paint, project, draw = jax.random.split(key, 3)
  shape = (setting.pictures, setting.side, setting.side, 3)
  pictures = jax.random.uniform(paint, shape)
  kernel = jax.random.normal(project, (_CUT.size, _CUT.size, 3, 2 * _WIDTH))
  pairs = jax.vmap(_CUT.project, (0, None))(pictures, kernel)
  both = jnp.stack(jnp.split(jnp.swapaxes(pairs, 1, 2), 2, axis=-1))
  # The kernel divides both by d^(1/4).
  both *= setting.norm / jnp.linalg.norm(both, axis=-1).mean()
  q, k = both * _WIDTH**0.25
  implicit = setting.votes(m)
  projection = implicit.attention.draw(
    draw, layer=0, step=0, num_heads=1, head_dim=_WIDTH
  )

  def one(pair: tuple[Array, Array]) -> dict[str, Float[Array, '']]:
    found = implicit(*pair, projection=projection)
    exact = votes.Exact()(*pair).values
    chosen = votes.top(found.values, setting.count)
    wanted = votes.top(exact, setting.count)
    distance = jnp.linalg.norm(found.values - exact)
    return {
      'overlap': jnp.isin(chosen, wanted).mean(),
      'error': distance / jnp.linalg.norm(exact),
      'moved': found.moved / exact.size,
    }

  return jax.lax.map(one, (q, k))


def _explain(results: study.Results) -> str:
  first = results.study.at[0]
  errors = results.told('.2g', 'error', at=first)
  setting = next(iter(results.settings.values()))
  patches = np.prod(_CUT.grid(setting.side, setting.side))
  return (
    f'{patches} patches, of which {setting.count} chosen at random would overlap '
    f'by {setting.count / patches:.2g}. Norms of queries and keys are '
    f'{setting.norm:g} on average, or half of it. Relative error of all votes at '
    f'm={first}: {errors}. Networks are random, so this is no parity of policies.'
  )


_KERNELS = ('pos', 'hyp', 'trig', 'angular')
_HALF = 'pos, half norm'
_MANY = {arm: f'{arm}, m={SIZES[-1]}' for arm in (*_KERNELS, _HALF)}

ROWS = (
  rows.Row(
    id='rank-overlap',
    claim='The patches that implicit attention chooses approach those of exact '
    'attention as features are added; at equal m trigonometric and hybrid '
    'features find more of them than positive ones (share of the top ten).',
    study=study.Study(
      run,
      {kernel: Setting(kernel) for kernel in _KERNELS}
      | {_HALF: Setting('pos', norm=0.6)},
      seeds=12,
      at=SIZES,
    ),
    ours=rows.numbers('overlap', form='{arm}, m={at}'),
    trend=f'every kernel finds more at m = {SIZES[-1]} than at m = {SIZES[0]}; at '
    f'm = {SIZES[-1]} trig and angular above pos and hyp; pos finds more at half '
    'the norm',
    claims=(
      *(
        claims.above(_MANY[k], f'{k}, m={SIZES[0]}', paired=True)
        for k in _KERNELS
      ),
      *(
        claims.above(_MANY[one], _MANY[two], paired=True)
        for one in ('trig', 'angular')
        for two in ('pos', 'hyp')
      ),
      claims.above(_MANY[_HALF], _MANY['pos'], paired=True),
    ),
    figure=figures.of_arms(
      {'overlap': 'share of the exact top ten'},
      spread='range',
      style='o-',
      xlabel='projections m',
      xscale='log2',
      options={'ylim': (0, 1)},
    ),
    explain=_explain,
    headline='angular, m=256',
  ),
)
