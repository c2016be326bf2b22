"""A suggestion of OptFormer beside those of Gaussian processes and of TPE.

A case is a study of random trials of D real parameters. A form suggests one point
from all of them. `cached` has read the study up to its last trial, `uncached` reads it
all, as with the published shuffling of parameters. Where the study is longer than the
decoder was trained for, other trials are kept at each call, so that both read all of
them; `all trials` reads the whole study nevertheless.

The default GP bandit of Vizier is compiled anew for each number of trials, as a user's
study grows: each of its calls has one trial more than the last. The padded one is
compiled for powers of two.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from benchmarks import harness, programs, record
from hpo import spaces, studies
from hpo.optformer import (
  acquisitions,
  bbob_problems,
  behaviours,
  presets,
  suggesting,
  tokens,
  trained,
  vocabulary,
)
from hpo.optformer import vizier as vizier_lib

CACHED, UNCACHED, ALL = 'EI, cached', 'EI, uncached', 'EI, all trials'
PRIOR, GP_UCB = 'prior', 'GP-UCB, batched'
GP, PADDED, TPE = 'Vizier GP', 'Vizier GP, padded', 'Optuna TPE'
SHIPPED = 'shipped'
BATCH = 'studies of GP-UCB'


@dataclasses.dataclass(frozen=True)
class Case:
  """A study."""

  parameters: int
  trials: int

  def __str__(self) -> str:
    return f'D={self.parameters}, t={self.trials}'


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the measurement."""

  model: str = SHIPPED  # Or a size of `presets.SIZES`, untrained.
  candidates: int = 100
  trials: tuple[int, ...] = (10, 50, 200)  # Of four parameters.
  parameters: tuple[int, ...] = (1, 8, 16)  # Of studies of 50 trials.
  batch: int = 64  # Studies of GP-UCB at once.


@functools.cache
def _model(size: str) -> trained.Trained:
  if size == SHIPPED:
    if not trained.SHIPPED.exists():
      raise programs.MissingError(f'{trained.SHIPPED} is missing')
    return trained.shipped()
  words = vocabulary.Compact()
  network = presets.make(words, size)
  ids = np.ones((1, 2), np.int32)
  made = jax.jit(network.init)(jax.random.key(0), ids, ids)
  maker = tokens.Tokenizer(words, encoder_length=144, decoder_length=280)
  return trained.Trained(network, maker, nn.unbox(made))


@functools.cache
def _study(case: Case, more: int = 0) -> studies.Study:
  """Random trials; the last one is no extreme, so that it moves no bin."""
  names = [f'x{place}' for place in range(case.parameters)]
  space = spaces.Space([spaces.Float(name, -5.0, 5.0) for name in names])
  codes = space.sample(np.random.default_rng(0), case.trials + more)
  values = (codes**2).sum(axis=1)
  values[case.trials - 1] = np.median(values[: case.trials])
  problem = studies.Problem(space, 'MINIMIZE')
  return studies.Study(problem, codes, values, np.zeros(len(codes), np.int8))


def _suggestion(sizes: Sizes, name: str, case: Case) -> programs.Program:
  """One point; the key is the same, so that all calls do the same."""
  model, study = _model(sizes.model), _study(case)
  count, acquisition = sizes.candidates, acquisitions.EI()
  if name == PRIOR:
    count, acquisition = 1, acquisitions.Prior()
  policy = suggesting.Policy(
    acquisition,
    count,
    permute=False,
    max_tokens=(case.parameters + 3) * (case.trials + 2)
    if name == ALL
    else None,
  )
  suggest = functools.partial(
    suggesting.suggest, model, study.problem, policy=policy
  )
  key, trials, history = jax.random.key(0), study.trials, None
  if name == CACHED:
    history = suggest(trials[:-1], key).history
  return programs.Program(lambda: suggest(trials, key, history=history).points)


def _gp_ucb(sizes: Sizes) -> programs.Program:
  """A batch of studies of 40 trials, four parameters of all types."""
  behaviour, trials = behaviours.GpUcb(), 40
  kinds = bbob_problems.PUBLISHED

  def studies_of(key: Any) -> Any:
    def one(key: Any) -> Any:
      first, second = jax.random.split(key)
      problem = bbob_problems.draw(first, 4, (0, 1), kinds)
      gain = bbob_problems.objective(problem, ('Sphere',))
      return behaviours.run(behaviour, second, problem.cube, gain, trials)

    return jax.vmap(one)(jax.random.split(key, sizes.batch))

  return programs.compiled(
    studies_of,
    lambda seed: (jax.random.key(seed),),
    units=sizes.batch * trials,
  )


def _vizier(padded: bool, case: Case) -> programs.Program:
  """Vizier's GP bandit, from all trials; see the module."""
  vz = programs.peer('vizier.pyvizier')
  vza = programs.peer('vizier.algorithms')
  bandit = programs.peer('vizier._src.algorithms.designers.gp_bandit')
  padding = programs.peer('vizier.pyvizier.converters.padding')
  options = {}
  if padded:
    kinds = padding.PaddingType
    options['padding_schedule'] = padding.PaddingSchedule(
      num_trials=kinds.POWERS_OF_2
    )
  calls = itertools.count()

  def suggest() -> Any:
    more = 0 if padded else next(calls)
    study = _study(case, more)
    name = vizier_lib.metric_name(study.problem)
    done = []
    for number, trial in enumerate(study.trials, 1):
      one = vz.Trial(id=number, parameters=trial.parameters)
      done.append(one.complete(vz.Measurement(metrics={name: trial.value})))
    designer = bandit.VizierGPBandit(
      vizier_lib.to_statement(study.problem),
      rng=jax.random.PRNGKey(0),
      **options,
    )
    designer.update(vza.CompletedTrials(done), vza.ActiveTrials())
    return vizier_lib.to_point(designer.suggest(1)[0])

  return programs.Program(lambda: [suggest()])


def _tpe(case: Case) -> programs.Program:
  """Optuna's TPE, from all trials."""
  optuna = programs.peer('optuna')
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  study = _study(case)
  places = {
    p.name: optuna.distributions.FloatDistribution(p.low, p.high)
    for p in study.problem.space.parameters
  }
  made = [
    optuna.trial.create_trial(
      params=dict(trial.parameters), distributions=places, value=trial.value
    )
    for trial in study.trials
  ]

  def suggest() -> list[dict[str, float]]:
    # The last study of a call would know the point that it asked for.
    found = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    found.add_trials(made)
    return [found.ask(places).params]

  return programs.Program(suggest)


def legal(case: Case, built: programs.Program) -> str | None:
  """Says whether a form suggests a point of the space that was not tried."""
  study = _study(case)
  [point] = built.call()
  codes = study.problem.space.codes(point)
  is_new = (np.abs(study.codes - codes) > 1e-9).any(axis=1).all()
  return None if is_new else f'{point} was tried before'


def _forms(sizes: Sizes, case: Any) -> list[harness.Form]:
  if case == BATCH:
    return [harness.Form(GP_UCB, lambda case: _gp_ucb(sizes), ours=True)]
  names = [CACHED, UNCACHED, PRIOR]
  if case.trials == max(sizes.trials):
    names.append(ALL)
  ours = [
    harness.Form(
      name, functools.partial(_suggestion, sizes, name), legal, ours=True
    )
    for name in names
  ]
  return [
    *ours,
    harness.Form(TPE, _tpe, legal),
    harness.Form(GP, functools.partial(_vizier, False), legal, peer=True),
    harness.Form(PADDED, functools.partial(_vizier, True), legal, peer=True),
  ]


def _cases(sizes: Sizes) -> list[Any]:
  lengths = [Case(4, trials) for trials in sizes.trials]
  widths = [Case(parameters, 50) for parameters in sizes.parameters]
  return [BATCH, *lengths, *widths]


def summary(sizes: Sizes, results: harness.Results) -> Iterator[record.Row]:
  """The bars: a second for a suggestion, a tenth of the GP bandit, the teacher."""
  del sizes
  main, row = Case(4, 50), record.value_row
  seconds = results.median(main, UNCACHED, 'wall')
  text = f'{UNCACHED}, {main}: seconds of wall time'
  yield row(text, seconds, at_most=1.0)
  ratio = results.ratio(main, GP, UNCACHED).cpu
  yield row(f'{GP} over {UNCACHED}, {main}: CPU time', ratio, at_least=10)
  seconds = results.median(BATCH, GP_UCB, 'cpu')
  yield row(f'{GP_UCB}: CPU seconds of a suggestion', seconds, at_most=0.3)
  for case in [m.case for m in results if m.form == CACHED]:
    ratio = results.ratio(case, CACHED, UNCACHED).cpu
    yield row(f'{CACHED} over {UNCACHED}, {case}: CPU time', ratio)
    speed = 1 / results.median(case, UNCACHED, 'wall')
    yield row(f'{UNCACHED}, {case}: suggestions per second', speed)


SUBJECT = harness.Subject(
  'optformer',
  Sizes(),
  quick=Sizes('tiny', 4, (5,), (2,), 2),
  cases=_cases,
  forms=_forms,
  beside=lambda one, two: (
    one.form == UNCACHED and two.form in (GP, PADDED, TPE)
  ),
  summary=summary,
  settings=programs.Settings(rounds=9, seconds=20.0),
  clock='cpu',
  unit='CPU ms per suggestion',
  packages=('jax', 'jaxlib', 'flax', 'numpy', 'optuna', 'google-vizier'),
)
