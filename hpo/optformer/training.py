"""OptFormer in the training loop: data, evaluators, tables."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from hpo.optformer import datasets, models, trained
from hpo.optformer import learner as learner_lib
from performer import learner as states
from rl import ranges
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import summary

__all__ = ['OptFormerTrainer']

_SCORES = ('loss', 'param_loss', 'objective_loss', 'study_loss')


@dataclasses.dataclass(frozen=True)
class OptFormerTrainer:
  """Trains OptFormer on studies; a `runtime.trainer.Trainer`.

  Attributes:
    model: the network, made for the vocabulary of the data.
    data: training and evaluation studies.
    optimizer: from optax.
    batch_size: studies per step, over all devices.
    loss: switches of the loss.
    eval_splits: splits judged at the evaluation interval; all are at the end.
    eval_batch_size: studies per evaluation step; None: as in training.

  Raises:
    ValueError: a split is not in the data, the model has other tables, or a
      number is out of range.
  """

  model: models.OptFormer
  data: datasets.StudyData
  optimizer: optax.GradientTransformation
  batch_size: int
  loss: learner_lib.Loss = learner_lib.Loss()
  eval_splits: tuple[str, ...] = ()
  eval_batch_size: int | None = None

  def __post_init__(self) -> None:
    ranges.check_counts(eval_batch_size=self.eval_batch_size)
    unknown = sorted(set(self.eval_splits) - set(self.data.splits))
    if unknown:
      raise ValueError(
        f'eval_splits {unknown} are not in the data, which has '
        f'{self.data.splits}'
      )
    words = self.data.tokenizer.vocabulary
    ids = words.trial_ids
    expected = (words.text_size, ids.size, ids.first_bin, ids.bins)
    model = self.model
    tables = (model.text_size, model.trial_size, model.first_bin, model.bins)
    if tables != expected:
      raise ValueError(
        'the model must have (text_size, trial_size, first_bin, bins) of the '
        f'vocabulary of the data, {expected}, got {tables}'
      )

  def trained(self, state: states.TrainState) -> trained.Trained:
    """A state, on one host, as what suggestions are made with."""
    augmentation = self.data.augmentation
    return trained.Trained(
      self.model,
      self.data.tokenizer,
      {'params': state.eval_params},
      state.projections,
      minimal=augmentation.minimal == 1,
      knows_pending=augmentation.pending > 0,
      longest_list=self.data.longest_list,
    )

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[states.TrainState]]:
    """See `runtime.trainer.Trainer`; an example is a study."""
    learner = learner_lib.Learner(self.model, self.optimizer, self.loss, seed)
    index, count = mesh_lib.process_slice(mesh, self.batch_size)
    judges = self._evaluators(learner, mesh)
    yield loop_lib.Experiment(
      init=learner.init,
      step=learner.step,
      shardings=learner.shardings(mesh),
      batches=self.data.train_iterator(
        batch_size=self.batch_size,
        seed=seed,
        process_index=index,
        process_count=count,
      ),
      mesh=mesh,
      batch_size=self.batch_size,
      num_examples=self.data.num_studies,
      evaluators={split: judges[split] for split in self.eval_splits},
      on_request={
        split: judges[split]
        for split in self.data.splits
        if split not in self.eval_splits
      },
      scores=dict.fromkeys(self.eval_splits, _SCORES),
      activation_bytes=lambda: self._activation_bytes(learner),
      params=lambda state: state.params,
      refresh=learner.redraw,
      refresh_every=self.model.attention.redraw_every,
      tables=lambda run: {
        'scores': self._score_rows(
          {split: judge(run.state) for split, judge in judges.items()}
        )
      },
    )

  def _evaluators(
    self, learner: learner_lib.Learner, mesh: jax.sharding.Mesh
  ) -> dict[str, loop_lib.Evaluator]:
    """By split; they share one program."""
    size = self.eval_batch_size or self.batch_size
    index, count = mesh_lib.process_slice(mesh, size)

    def metrics(params: PyTree, projections: PyTree, batch: Any) -> Any:
      return learner.evaluate(params, projections, batch)[1]

    return {
      split: states.evaluator(
        metrics,
        functools.partial(
          self.data.eval_batches,
          split,
          batch_size=size,
          process_index=index,
          process_count=count,
        ),
        mesh,
      )
      for split in self.data.splits
    }

  def _score_rows(
    self, scores: dict[str, dict[str, float]]
  ) -> list[dict[str, Any]]:
    """The final table, beside a model that knows nothing but the bins."""
    uniform = math.log(self.data.tokenizer.ids.bins)
    rows = [
      {'split': split} | {name: found[name] for name in _SCORES}
      for split, found in scores.items()
    ]
    nothing = dict.fromkeys(_SCORES[:3], uniform)
    return [*rows, {'split': 'uniform over bins', **nothing}]

  def _activation_bytes(self, learner: learner_lib.Learner) -> int:
    maker = self.data.tokenizer
    shape = lambda width, dtype=jnp.int32: jax.ShapeDtypeStruct(
      (self.batch_size, width), dtype
    )
    length = maker.decoder_length
    batch = {
      'metadata': shape(maker.encoder_length),
      'tokens': shape(length),
      'targets': shape(length),
      'weights': shape(length, jnp.float32),
      'slots': shape(length),
      'legal': shape(length),
    }
    state = jax.eval_shape(learner.init)
    return summary.residual_bytes(
      learner.evaluate, state.params, state.projections, batch, state.key
    )
