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

  Attributes beside those of `rl.training.AgentTrainer`: none; the algorithm is a
  `search.Search`.

  Raises:
    ValueError: if the algorithm does not search; as `AgentTrainer`.
  """

  def __post_init__(self) -> None:
    super().__post_init__()
    if not isinstance(self.algorithm, search.Search):
      raise ValueError(
        f'algorithm must be a search.Search, got {self.algorithm!r}'
      )

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
