"""ES-ENAS in the training loop."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jaxtyping import Array, Int

from nas.es_enas import controllers, policies, results, scores, selection
from nas.es_enas import population as population_lib
from nas.es_enas import search as search_lib
from rl import ranges
from rl.es import evaluator as evaluator_lib
from rl.es import geometry as geometry_lib
from rl.es import policy_training
from rl.es import population as rl_population
from rl.es import search as rl_search
from rl.es import strategy as es_strategy
from runtime import loop as loop_lib

__all__ = ['ESENASTrainer']


@dataclasses.dataclass(frozen=True)
class ESENASTrainer(policy_training.PolicyTrainer):
  """Searches parameters and architectures; a `runtime.trainer.Trainer`.

  Evaluations, the report and the film show one architecture: that which
  `selection.choose` finds. Each evaluation thus has `proposals` + 1 times
  `choice_episodes` episodes more than `eval_episodes`.

  Attributes:
    strategy: over parameters: `strategy.Strategy`, or `cma.CMAES` for few; in
      the geometry of the policy.
    controller: makes the controller of a space of architectures.
    paired: see `search.ESENAS`; as the next three.
    score: what is maximised; None: the return.
    front: settings of the archive of the best returns for their costs.
    center_feedback: see `search.ESENAS`; as the next.
    same_environments: whether all members of a generation meet the same ones.
    proposals: candidates of a choice; see `selection.choose`.
    choice_episodes: of each candidate.
    final_episodes: of the chosen architecture, for the report.

  Raises:
    ValueError: if a number is out of range, or the policy has no space of
      architectures.
  """

  strategy: rl_search.Search
  controller: Callable[..., controllers.Controller]
  paired: bool = True
  score: scores.Score | None = None
  front: search_lib.Front | None = None
  center_feedback: bool = False
  same_environments: bool = False
  proposals: int = 16
  choice_episodes: int = 16
  final_episodes: int = 50

  def __post_init__(self) -> None:
    super().__post_init__()
    ranges.check_counts(
      choice_episodes=self.choice_episodes, final_episodes=self.final_episodes
    )
    ranges.check_counts(least=0, proposals=self.proposals)
    if not isinstance(self.fitted_policy, policies.SharedPolicy):
      raise ValueError(
        'policy must make a SharedPolicy, as policies.feed_forward does, got '
        f'{type(self.fitted_policy).__name__}'
      )
    self._fitted_strategy()  # Refuses one that does not fit the policy.

  def _fitted_strategy(self) -> rl_search.Search:
    geometry = geometry_lib.of(self.fitted_policy)
    if geometry == geometry_lib.EUCLIDEAN:
      return self.strategy
    if not isinstance(self.strategy, es_strategy.Strategy):
      raise ValueError(
        'parameters on a manifold need a strategy.Strategy, got '
        f'{type(self.strategy).__name__} for {self.fitted_policy}'
      )
    return dataclasses.replace(self.strategy, geometry=geometry)

  def search(self, seed: int) -> search_lib.ESENAS:
    """See `policy_training.PolicyTrainer`."""
    del seed
    return search_lib.ESENAS(
      search=self._fitted_strategy(),
      controller=self.controller(space=self.fitted_policy.space),
      paired=self.paired,
      costs=self.fitted_policy.member_costs,
      score=self.score,
      front=self.front,
      center_feedback=self.center_feedback,
      same_environments=self.same_environments,
    )

  def center(
    self, state: search_lib.State, evaluator: evaluator_lib.Evaluator
  ) -> rl_population.Population:
    """Theta, with the architecture that `chosen` finds."""
    architecture = self.chosen(state, evaluator)
    theta = rl_population.Repeated(state.theta)
    return population_lib.WithArchitectures(theta, architecture[None])

  def chosen(
    self, state: search_lib.State, evaluator: evaluator_lib.Evaluator
  ) -> Int[Array, ' D']:
    """The best candidate of this state; see `selection.choose`."""
    return selection.choose(
      self.search(0),
      state,
      evaluator,
      proposals=self.proposals,
      episodes=self.choice_episodes,
    )

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[search_lib.State]]:
    """See `runtime.trainer.Trainer`; an example is a member of a generation."""
    with self.opened(seed=seed, mesh=mesh) as opened:
      experiment = opened.experiment
      count, _ = self.search(seed).proposals(opened.request)
      end = _End(self, opened.evaluator, count)
      yield dataclasses.replace(
        experiment,
        tables=lambda run: {**experiment.tables(run), **end.tables(run)},
        files=end.files,
        pictures=lambda run: {**experiment.pictures(run), **end.pictures(run)},
      )


class _End:
  """The end of a run; the architecture is chosen once.

  Args:
    trainer: of the run.
    evaluator: runs the rollouts.
    count: architectures of a generation.
  """

  def __init__(
    self,
    trainer: ESENASTrainer,
    evaluator: evaluator_lib.Evaluator,
    count: int,
  ) -> None:
    self._count = count
    self._trainer = trainer
    self._policy = trainer.fitted_policy
    self._search = trainer.search(0)
    self._evaluator = evaluator
    self._chosen: tuple[search_lib.State, selection.Selection] | None = None

  def _selection(self, state: search_lib.State) -> selection.Selection:
    if self._chosen is None or self._chosen[0] is not state:
      architecture = self._trainer.chosen(state, self._evaluator)
      returns = selection.final_returns(
        state,
        self._evaluator,
        architecture,
        episodes=self._trainer.final_episodes,
      )
      self._chosen = state, selection.Selection(architecture, returns)
    return self._chosen[1]

  def tables(
    self, run: loop_lib.Finished[search_lib.State]
  ) -> dict[str, list[dict[str, Any]]]:
    """What was chosen, and how long the controller takes."""
    chosen = self._selection(run.state)
    random = selection.random_returns(self._search, run.state, self._evaluator)
    seconds = results.controller_seconds(
      self._search.controller, run.state.controller, self._count
    )
    tables = {
      'architectures': results.architecture_rows(self._policy, chosen, random),
      'controller': results.time_rows(run.rows, seconds),
    }
    if run.state.front is not None:
      returns = selection.front_returns(run.state, self._evaluator)
      tables['front'] = results.front_rows(run.state, returns)
    return tables

  def files(
    self, run: loop_lib.Finished[search_lib.State]
  ) -> dict[str, loop_lib.Draw]:
    """The chosen architecture."""
    return results.files(self._policy, self._selection(run.state))

  def pictures(
    self, run: loop_lib.Finished[search_lib.State]
  ) -> dict[str, loop_lib.Draw]:
    """Its network and weights, and the front."""
    chosen = self._selection(run.state)
    front = run.tables.get('front', ())
    return results.pictures(self._policy, run.state, chosen, front)
