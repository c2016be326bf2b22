"""Optimisers of other libraries, as methods."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from hpo import spaces, studies
from hpo.autorl.search import optuna as optuna_lib
from hpo.autorl.search import vizier as vizier_search
from hpo.optformer import vizier as vizier_lib
from papers.optformer import methods
from runtime import optional

__all__ = ['Optuna', 'Vizier']


@dataclasses.dataclass(frozen=True)
class Vizier:
  """A designer of google-vizier."""

  # 'gp': GP bandit, compiled for 2, 4, 8, ... trials rather than for each
  # number of them; 'eagle'.
  designer: str

  def start(
    self, problem: studies.Problem, seed: int, trials: int
  ) -> methods.Choose:
    """See `methods.Method`."""
    vza = optional.load('vizier.algorithms', extra='vizier')
    vz = optional.load('vizier.pyvizier', extra='vizier')
    designer = _designer(self.designer, problem, seed)
    metric, known = vizier_lib.metric_name(problem), 0

    def choose(study: studies.Study) -> Float[np.ndarray, 'd']:
      nonlocal known
      done = []
      for number, trial in enumerate(study.trials[known:], known + 1):
        one = vz.Trial(id=number, parameters=trial.parameters)
        done.append(one.complete(vz.Measurement(metrics={metric: trial.value})))
      known = len(study)
      designer.update(vza.CompletedTrials(done), vza.ActiveTrials())
      [found] = designer.suggest(1)
      return problem.space.codes(vizier_lib.to_point(found))

    return choose


def _designer(name: str, problem: studies.Problem, seed: int) -> Any:
  folder = 'vizier._src.algorithms.designers'
  statement = vizier_lib.to_statement(problem)
  if name == 'eagle':
    return vizier_search.eagle(statement, seed)
  if name != 'gp':
    raise ValueError(f"designer must be 'gp' or 'eagle', got {name!r}")
  bandit = optional.load(f'{folder}.gp_bandit', extra='vizier')
  padding = optional.load('vizier.pyvizier.converters.padding', extra='vizier')
  schedule = padding.PaddingSchedule(num_trials=padding.PaddingType.POWERS_OF_2)
  return bandit.VizierGPBandit(
    statement, rng=jax.random.PRNGKey(seed), padding_schedule=schedule
  )


@dataclasses.dataclass(frozen=True)
class Optuna:
  """A sampler of Optuna."""

  sampler: str  # 'tpe' or 'cma'. CMA-ES draws categories uniformly.

  def start(
    self, problem: studies.Problem, seed: int, trials: int
  ) -> methods.Choose:
    """See `methods.Method`."""
    optuna = optional.load('optuna', extra='optuna')
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
      sampler=_sampler(optuna, self.sampler, seed),
      direction=problem.goal.lower(),
    )
    space = problem.space
    places = {p.name: optuna_lib.distribution(p) for p in space.parameters}
    asked = None

    def choose(found: studies.Study) -> Float[np.ndarray, 'd']:
      nonlocal asked
      if asked is None:
        for codes, value in zip(found.codes, found.values, strict=True):
          study.add_trial(
            optuna.trial.create_trial(
              params=_outside(space, codes), distributions=places, value=value
            )
          )
      else:
        study.tell(asked, found.values[-1])
      asked = study.ask(places)
      return optuna_lib.codes(space, asked.params)

    return choose


def _sampler(optuna: Any, name: str, seed: int) -> Any:
  if name == 'tpe':
    return optuna.samplers.TPESampler(seed=seed)
  if name == 'cma':
    return optuna.samplers.CmaEsSampler(
      seed=seed, warn_independent_sampling=False
    )
  raise ValueError(f"sampler must be 'tpe' or 'cma', got {name!r}")


def _outside(
  space: spaces.Space, codes: Float[np.ndarray, 'd']
) -> dict[str, float | int]:
  return {
    p.name: float(code) if isinstance(p, spaces.Float) else int(code)
    for p, code in zip(space.parameters, codes, strict=True)
  }
