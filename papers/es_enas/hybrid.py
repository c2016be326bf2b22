"""Numbers and categories together: BBOB functions over hybrid spaces.

All methods begin at points of one distribution, uniform in [-5, 5], and have the
same number of evaluations. Each chooses its step size from the same number of
values, by runs with seeds that are not reported.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nas.es_enas import controllers, hybrid, opponents
from nas.es_enas import search as search_lib
from papers import claims, figures, rows, study
from rl.es import bbob, estimators, strategy

FUNCTIONS = (
  *('Sphere', 'Rastrigin', 'Ellipsoidal', 'RosenbrockRotated'),
  *('SharpRidge', 'DifferentPowers'),
)
# Methods that move all coordinates by an estimated gradient, and the others.
_OURS = 'ES-ENAS, evolution'
_MUTATING = (
  *('evolution, uniform', 'evolution, Gaussian', 'NEAT, Gaussian'),
  'evolution, one by one',
)


@dataclasses.dataclass(frozen=True)
class Setting:
  """One method on one problem."""

  function: str  # Name of the BBOB function.
  numbers: int  # D_c.
  # Searches; called with the problem, a key and this setting.
  method: Callable[..., Any]
  step: float = 0.1  # Step size of the method; see the methods.
  categories: int = 10  # D_k.
  options: int = 5  # L.
  evaluations: int = 12_000  # Of a run.
  pairs: int = 50  # Half the evaluations of a generation.
  sigma: float = 0.1  # Of the perturbations of ES.


def _by_es(
  problem: hybrid.Hybrid,
  key: Any,
  setting: Setting,
  step: Any,
  *,
  controller: Callable[..., controllers.Controller],
  paired: bool = True,
) -> Any:
  """ES-ENAS; the step size falls to 0 linearly."""
  generations = setting.evaluations // (2 * setting.pairs)
  config = strategy.ESConfig(
    setting.pairs, setting.sigma, estimators.Antithetic(), normalize=False
  )
  rate = optax.linear_schedule(step, 0.0, generations)
  inner = strategy.Strategy(config, optax.sgd(rate))
  search = search_lib.ESENAS(inner, controller(problem.space), paired=paired)
  start_key, key = jax.random.split(key)
  state = search.init(problem.start(start_key)[0], key)
  evaluator = hybrid.Evaluator(problem)

  def generation(state: Any, _: Any) -> tuple[Any, Any]:
    state, metrics = search.step(state, evaluator)
    return state, -metrics['episode_return_max']

  values = jax.lax.scan(generation, state, length=generations)[1]
  return jax.lax.cummin(values)


def _by_mutation(
  problem: hybrid.Hybrid,
  key: Any,
  setting: Setting,
  step: Any,
  *,
  controller: Callable[..., controllers.Controller],
  gaussian: bool = True,
  batch: int | None = None,
) -> Any:
  """A controller of the whole space; the step size is that of a mutation."""
  del step  # It is part of the space, so static.
  space = opponents.mixed(problem, setting.step if gaussian else None)
  return opponents.search(
    problem,
    controller(space),
    key,
    evaluations=setting.evaluations,
    batch=batch or 2 * setting.pairs,
  )


def _by_gradient(
  problem: hybrid.Hybrid, key: Any, setting: Setting, step: Any
) -> Any:
  """Policy gradient of the whole space; a tenth of the step size is Adam's."""
  del step
  controller = opponents.Gaussian.of(
    problem, optimizer=optax.adam(setting.step / 10)
  )
  return opponents.search(
    problem,
    controller,
    key,
    evaluations=setting.evaluations,
    batch=2 * setting.pairs,
  )


_LEARNER = functools.partial(
  controllers.PolicyGradient, optimizer=optax.adam(0.1)
)
METHODS: Mapping[str, Callable[..., Any]] = {
  _OURS: functools.partial(_by_es, controller=controllers.Evolution),
  'ES-ENAS, evolution, independent': functools.partial(
    _by_es, controller=controllers.Evolution, paired=False
  ),
  'ES-ENAS, NEAT': functools.partial(_by_es, controller=controllers.Neat),
  'ES-ENAS, policy gradient': functools.partial(_by_es, controller=_LEARNER),
  'ES-ENAS, random': functools.partial(_by_es, controller=controllers.Random),
  'evolution, uniform': functools.partial(
    _by_mutation, controller=controllers.Evolution, gaussian=False
  ),
  'evolution, Gaussian': functools.partial(
    _by_mutation, controller=controllers.Evolution
  ),
  # Told after every evaluation, not after as many as the others have at once.
  'evolution, one by one': functools.partial(
    _by_mutation,
    controller=functools.partial(controllers.Evolution, population=100),
    batch=1,
  ),
  'NEAT, Gaussian': functools.partial(
    _by_mutation, controller=controllers.Neat
  ),
  'policy gradient': _by_gradient,
  'random': functools.partial(
    _by_mutation, controller=controllers.Random, gaussian=False
  ),
}


@functools.partial(jax.jit, static_argnames='setting')
def _best(keys: Any, step: Any, setting: Setting) -> Any:
  """Least values so far, [seeds, generations]; a problem for every seed."""

  def one(key: Any) -> Any:
    problem_key, key = jax.random.split(key)
    problem = hybrid.draw(
      problem_key,
      bbob.FUNCTIONS[setting.function],
      setting.numbers,
      setting.categories,
      setting.options,
    )
    return setting.method(problem, key, setting, step)

  return jax.vmap(one)(keys)


def run(setting: Setting, *, seeds: Sequence[int]) -> list[study.Record]:
  """The smallest values so far; a problem and a start for every seed."""
  keys = jnp.stack([jax.random.key(seed) for seed in seeds])
  static, by_es = setting, getattr(setting.method, 'func', None) is _by_es
  if by_es:  # One program for all step sizes.
    static = dataclasses.replace(setting, step=0.0)
  values = np.asarray(_best(keys, setting.step, static), np.float64)
  # As often for all methods.
  count = setting.evaluations // (2 * setting.pairs)
  values = values.reshape(len(seeds), count, -1)[:, :, -1]
  return [{'best': each, 'last': each[-1]} for each in values]


_label = '{}: {}'.format


def _study(numbers: int) -> study.Study:
  arms = {
    _label(function, name): Setting(function, numbers, method)
    for function in FUNCTIONS
    for name, method in METHODS.items()
  }
  # Trials are as long as the runs: what is best depends on the length.
  trials = study.Trials(
    'step',
    (0.3, 1.0, 3.0),
    lambda setting: setting,
    lambda record: -float(np.log10(record['last'])),
    seeds=tuple(range(1000, 1005)),
  )
  return study.Study(run, arms, seeds=5, trials=trials, together=True)


def _ours(results: study.Results) -> dict[str, np.ndarray]:
  """Logarithms of the smallest values: their spread is alike for all methods."""
  return {arm: np.log10(results(arm, 'last')) for arm in results.arms}


def _wins(table: claims.Table) -> int:
  """Functions on which ours is below every mutation of the whole space."""
  return sum(
    all(
      claims.below(_label(f, _OURS), than=_label(f, other), paired=True)
      .judge(table)
      .verdict
      == 'holds'
      for other in _MUTATING
    )
    for f in FUNCTIONS
  )


def _worth(name: str) -> claims.Check:
  """Learned choices beat random ones, on most functions."""
  random = 'ES-ENAS, random'

  def holds(table: claims.Table) -> bool:
    better = [
      np.mean(table[_label(f, name)]) < np.mean(table[_label(f, random)])
      for f in FUNCTIONS
    ]
    return sum(better) > len(FUNCTIONS) / 2

  return claims.Check(f'{name} below random choices on most functions', holds)


def _explain(results: study.Results) -> str:
  table = _ours(results)
  best = {
    f: min(METHODS, key=lambda name, f=f: np.mean(table[_label(f, name)]))
    for f in FUNCTIONS
  }
  named = '; '.join(f'{f}: {name}' for f, name in best.items())
  return (
    '10 categories of 5 options, 12,000 evaluations, 50 pairs; every method chose '
    'its step size from three. ES-ENAS is below all mutation of the whole space, '
    f'by a 95 % interval, on {_wins(table)} of {len(FUNCTIONS)} functions. The '
    f'best by the mean: {named}.'
  )


def _row(numbers: int, trend: str, stated: Sequence[claims.Claim]) -> rows.Row:
  return rows.Row(
    id=f'hybrid-{numbers}',
    claim=f'Over {numbers} numbers and 10 categories, ES-ENAS beats mutation of '
    'the whole space where numbers are many (log10 of the least value).',
    study=_study(numbers),
    ours=_ours,
    trend=trend,
    claims=stated,
    figure=lambda results: [
      figures.Lines(
        lines=[
          figures.Line(
            name if i == 0 else '',
            np.arange(1, 121) * 100,
            results.curves(_label(function, name), 'best'),
            spread='quartiles',
          )
          for name in METHODS
        ],
        options={'title': function},
        xlabel='evaluations',
        ylabel='least value so far',
        yscale='log',
      )
      for i, function in enumerate(FUNCTIONS)
    ],
    explain=_explain,
    headline=_label('Sphere', _OURS),
  )


_LEARNED = (_worth(_OURS), _worth('ES-ENAS, NEAT'))
ROWS = (
  *(
    _row(
      numbers,
      'learned choices below random ones on most functions; mutation may win '
      'here',
      _LEARNED,
    )
    for numbers in (10, 100)
  ),
  _row(
    400,
    'ES-ENAS with evolution, in pairs, below evolution and NEAT of the whole '
    'space on at least 5 of 6 functions',
    (
      claims.Check(
        f'{_OURS} below {", ".join(_MUTATING)} on at least 5 of 6 functions',
        lambda table: _wins(table) >= 5,
      ),
      *_LEARNED,
    ),
  ),
)
