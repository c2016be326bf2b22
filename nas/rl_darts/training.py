"""Searches in the training loop: agents of `rl`, and their genotypes."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from nas.rl_darts import results, search
from rl import training
from runtime import loop as loop_lib

__all__ = ['SearchTrainer']


@dataclasses.dataclass(frozen=True)
class SearchTrainer(training.AgentTrainer):
  """Trains an agent that searches; the report has its genotypes.

  Of several agents, the report shows the first one's genotype.

  Attributes beside those of `rl.training.AgentTrainer`, whose algorithm is a
  `search.Search`:
    judge_cells: whether each evaluation also judges the derived cells, with the
      weights of the supernet: sets 'NAME_discrete', of the same draws as NAME.
      The difference is the discretisation gap.

  Raises:
    ValueError: if the algorithm does not search; as `AgentTrainer`.
  """

  judge_cells: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    if not isinstance(self.algorithm, search.Search):
      raise ValueError(
        f'algorithm must be a search.Search, got {self.algorithm!r}'
      )

  def _evaluators(self) -> dict[str, loop_lib.Evaluator]:
    found = super()._evaluators()
    if self.judge_cells:
      env = self.env
      cells = self.algorithm.discrete(
        env.observation_space, env.action_space, env.num_lanes
      )
      found |= {
        f'{name}_discrete': self._evaluator(cells, env, index)
        for index, (name, env) in enumerate(self.eval_envs.items())
      }
    return found

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[training.TrainState]]:
    """See `runtime.trainer.Trainer`."""
    with super().experiment(seed=seed, mesh=mesh) as found:

      def tables(run: loop_lib.Finished) -> Mapping[str, Sequence[Any]]:
        state = results.first_agent(run.state.learner, self.num_agents)
        return {
          **found.tables(run),
          'edges': results.edge_rows(self.algorithm, self._params(run.state)),
          'snapshots': results.snapshot_rows(self.algorithm, state),
        }

      def pictures(run: loop_lib.Finished) -> Mapping[str, loop_lib.Draw]:
        params = self._params(run.state)
        more = results.pictures(self.algorithm, params, run.rows)
        return {**found.pictures(run), **more}

      def files(run: loop_lib.Finished) -> Mapping[str, loop_lib.Draw]:
        state = results.first_agent(run.state.learner, self.num_agents)
        return results.files(self.algorithm, state, self._params(run.state))

      yield dataclasses.replace(
        found, tables=tables, files=files, pictures=pictures
      )

  def _params(self, state: training.TrainState) -> Any:
    """Parameters of the first agent."""
    one = results.first_agent(state.learner, self.num_agents)
    return jax.device_get(self.learner.params(one))
