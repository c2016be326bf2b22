"""Memory that the compiler plans, against the number of inner steps."""

import jax
import jax.numpy as jnp

from benchmarks import programs
from hpo import ufom
from papers import claims, figures, rows, study

WIDTH = 100  # Of a network with 2 WIDTH^2 = 20,000 parameters.
EXAMPLES = 20
STEPS = (8, 32, 128, 512)
FOM = 'FOM'
_COPY = 4 * 2 * WIDTH**2 / 1e6  # MB of one copy of phi.


def _loss(theta: object, phi: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  del theta
  return jnp.mean((jnp.tanh(x @ phi['in']) @ phi['out'] - 1) ** 2)


def measure(mode: str, *, at: int) -> study.Record:
  """Temporary memory of a compiled gradient of MAML's form.

  Args:
    mode: of `ufom.exact_grad`, or 'FOM'.
    at: number of inner steps.

  Raises:
    RuntimeError: if this platform does not tell.
  """
  problem = ufom.ABLOProblem(lambda theta, x: theta, _loss, _loss)
  options = {} if mode == FOM else {'mode': mode}
  gradient = ufom.fom_grad if mode == FOM else ufom.exact_grad
  shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
  theta = {'in': shape(WIDTH, WIDTH), 'out': shape(WIDTH, WIDTH)}
  program = programs.compiled(
    lambda theta, x: gradient(problem, theta, x, at, 0.1, **options).grad,
    lambda seed: (theta, shape(EXAMPLES, WIDTH)),
  )
  return {'MB': program.temporary_bytes / 1e6}


_label = '{}, r={}: MB'.format


def _copies(arm: str, start: int, end: int) -> claims.Derived:
  """Copies of phi per step, between two numbers of steps."""
  return claims.computed(
    f'copies of phi per step, {arm}, r={start} to {end}',
    lambda low, high: (high - low) / (end - start) / _COPY,
    _label(arm, start),
    _label(arm, end),
  )


def _is_flat(arm: str) -> claims.Claim:
  values = lambda table: [table[_label(arm, r)][0] for r in STEPS]
  return claims.Check(
    f'{arm} is flat within 10 %',
    lambda table: max(values(table)) <= 1.1 * min(values(table)),
  )


def _is_linear(arm: str) -> tuple[claims.Claim, ...]:
  whole = _copies(arm, STEPS[0], STEPS[-1])
  end = _copies(arm, *STEPS[-2:])
  bend = claims.Derived(
    f'{end.text}, over the same from r={STEPS[0]}',
    lambda table: end.values(table) / whole.values(table),
  )
  return claims.above(whole, than=0.95), claims.close(bend, to=1.0, within=0.05)


ROWS = (
  rows.Row(
    id='memory-against-r',
    claim='First-order and recomputed gradients need memory that does not grow '
    'with the number of inner steps, stored ones grow linearly.',
    study=study.Study(
      measure, {mode: mode for mode in (FOM, *ufom.MODES)}, seeds=None, at=STEPS
    ),
    ours=rows.numbers('MB', form=_label('{arm}', '{at}')),
    trend='FOM and recompute flat within 10 %; store and store_phi on a line '
    'within 5 %, of at least one copy of phi per step',
    claims=(
      *(_is_flat(arm) for arm in (FOM, 'recompute')),
      *_is_linear('store'),
      *_is_linear('store_phi'),
    ),
    headline=_label('store', STEPS[-1]),
    figure=figures.of_arms(
      {'MB': 'temporary MB'},
      style='o-',
      xscale='log',
      yscale='log',
      xlabel='inner steps r',
    ),
    explain=f'The network has two layers and {2 * WIDTH**2} parameters, and reads '
    f'{EXAMPLES} examples. Memory is what the compiler plans for temporaries. '
    'Nothing is random.',
  ),
)
