"""A sequence model in the training loop: data, evaluators, chunks, warnings."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from performer import attention, cost, norm_watch, results
from performer import learner as learner_lib
from performer.attention import checks
from performer.data import dataset
from performer.models import language_model
from performer.slim import drift as drift_lib
from performer.slim import options as slim_options
from performer.slim import training as slim_training
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import summary

__all__ = ['LanguageModelTrainer', 'evaluate']


@dataclasses.dataclass(frozen=True)
class LanguageModelTrainer:
  """Trains a language model, or a classifier; a `runtime.trainer.Trainer`.

  Attributes:
    model: the language model, or a `classifier.Classifier` for labelled data.
    data: training and evaluation sequences.
    optimizer: from optax.
    batch_size: sequences per step, over all devices.
    eval_splits: splits judged at the evaluation interval; all are at the end.
    eval_batch_size: sequences per evaluation step; None: as in training.
    slim: gradients by chunks, in memory that does not grow with the length;
      None: whole sequences.
    cost_lengths: the report shows what a step costs at these lengths, beside
      exact attention; none: it does not.

  Raises:
    ValueError: if model and data do not fit each other, a number is out of
      range, a classifier is trained by chunks, or lengths are given for a model
      of one length.
  """

  model: language_model.LanguageModel
  data: dataset.DataSet
  optimizer: optax.GradientTransformation
  batch_size: int
  eval_splits: tuple[str, ...] = ('valid',)
  eval_batch_size: int | None = None
  slim: slim_options.Slim | None = None
  cost_lengths: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    _check(self.model, self.data, self.eval_splits)
    checks.check_least(1, eval_batch_size=self.eval_batch_size)
    if self.slim is not None and self.data.task == 'classify':
      raise ValueError('chunks need a target for each token: set slim=None')
    shaped = self.data.task == 'classify' or hasattr(self.model, 'grid')
    if self.cost_lengths and shaped:
      raise ValueError(
        'cost_lengths need a language model that takes any length, '
        f'got {type(self.model).__name__} and {self.cost_lengths=}'
      )

  def learner(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> learner_lib.Learner:
    """The pure functions of a run on a mesh.

    Raises:
      ValueError: if the attention cannot be split as the mesh asks, or no
        strategy by chunks fits.
    """
    if mesh.shape['sequence'] != 1 and not isinstance(
      self.model.attention, attention.Favor
    ):
      raise ValueError(
        'only attention.Favor can split positions over devices, got '
        f'{mesh.shape["sequence"]} devices for {self.model.attention}'
      )
    learner = learner_lib.Learner(self.model, self.optimizer, seed, mesh)
    if self.slim is None:
      return learner
    return _chunked(learner, self.slim, _batch_shapes(self))

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[learner_lib.TrainState]]:
    """See `runtime.trainer.Trainer`; an example is a sequence."""
    learner = self.learner(seed=seed, mesh=mesh)
    index, count = mesh_lib.process_slice(mesh, self.batch_size)
    # A file that cannot be read fails here, and not at the first evaluation.
    for split in ('train', *self.data.splits):
      self.data.num_examples(split)
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
      num_examples=self.data.num_examples('train'),
      evaluators=self._evaluators(learner, mesh),
      on_request={
        split: evaluate(
          learner, self.data, split, mesh=mesh, batch_size=self._judged_at_once
        )
        for split in self.data.splits
        if split not in self.eval_splits
      },
      scores=dict.fromkeys(
        self.eval_splits, ('loss', 'accuracy', 'perplexity')
      ),
      activation_bytes=lambda: _activation_bytes(learner, _batch_shapes(self)),
      params=lambda state: state.params,
      refresh=learner.redraw,
      refresh_every=self.model.attention.redraw_every,
      on_metrics=self._drift_watch(),
      tables=functools.partial(self._tables, learner, mesh),
      pictures=functools.partial(self._pictures, mesh),
    )

  @property
  def _judged_at_once(self) -> int:
    return self.eval_batch_size or self.batch_size

  def _evaluators(
    self, learner: learner_lib.Learner, mesh: jax.sharding.Mesh
  ) -> dict[str, loop_lib.Evaluator]:
    """By split; the first one also watches the norms of queries and keys."""
    options = {'mesh': mesh, 'batch_size': self._judged_at_once}
    found = {
      split: evaluate(learner, self.data, split, **options)
      for split in self.eval_splits
    }
    for split in self.eval_splits[:1]:
      found[split] = norm_watch.watch(
        found[split], learner, self.data, split, **options
      )
    return found

  def _drift_watch(self) -> Callable[[Mapping[str, float]], None] | None:
    return (
      None if self.slim is None else _drift_watch(self.slim.drift_threshold)
    )

  def _tables(
    self,
    learner: learner_lib.Learner,
    mesh: jax.sharding.Mesh,
    run: loop_lib.Finished[learner_lib.TrainState],
  ) -> dict[str, list[dict[str, Any]]]:
    """The model beside the baselines, on every split."""
    size = self._judged_at_once
    scores = {
      split: evaluate(learner, self.data, split, mesh=mesh, batch_size=size)(
        run.state
      )
      for split in self.data.splits
    }
    tables = {'scores': results.score_rows(self.data, scores, batch_size=size)}
    if self.cost_lengths and jax.process_index() == 0:
      tables['cost'] = cost.step_costs(self.model, self.cost_lengths)
    return tables

  def _pictures(
    self,
    mesh: jax.sharding.Mesh,
    run: loop_lib.Finished[learner_lib.TrainState],
  ) -> dict[str, loop_lib.Draw]:
    state = _on_host(run.state, mesh)
    draw = functools.partial(
      results.draw_attention,
      self.model,
      self.data,
      state.eval_params,
      state.projections,
    )
    pictures = {'attention.png': draw}
    if 'cost' in run.tables:
      pictures['cost.png'] = functools.partial(cost.draw, run.tables['cost'])
    return pictures


def evaluate(
  learner: learner_lib.Learner,
  data: dataset.DataSet,
  split: str,
  *,
  mesh: jax.sharding.Mesh,
  batch_size: int,
) -> loop_lib.Evaluator:
  """Makes an evaluator of one split: state -> loss, perplexity, accuracy.

  Masks of masked language models are fixed; the random matrices are those of
  the last training step.

  Args:
    learner: learner whose model is evaluated.
    data: has the split.
    split: its name.
    mesh: the devices.
    batch_size: sequences at a time, over all devices.
  """
  index, count = mesh_lib.process_slice(mesh, batch_size)

  batches = functools.partial(
    data.eval_batches,
    split,
    batch_size=batch_size,
    process_index=index,
    process_count=count,
  )
  return learner_lib.evaluator(learner.metrics, batches, mesh)


def _chunked(
  learner: learner_lib.Learner,
  slim: slim_options.Slim,
  batch: Mapping[str, jax.ShapeDtypeStruct],
) -> learner_lib.Learner:
  """The learner, with gradients by chunks; says which."""
  state = jax.eval_shape(learner.init)
  chunked = slim_training.make(
    learner.model,
    slim,
    params=state.params,
    projections=state.projections,
    batch=batch,
    mesh=learner.mesh,
    batch_axes=mesh_lib.BATCH_AXES,
  )
  logging.info('gradients by chunks: %s', chunked.plan.describe())
  return dataclasses.replace(learner, chunked=chunked)


def _drift_watch(
  threshold: float,
) -> Callable[[Mapping[str, float]], None]:
  """Warns, once, if subtraction loses the states of a layer."""
  warned = False

  def watch(metrics: Mapping[str, float]) -> None:
    nonlocal warned
    names = [n for n in metrics if n.startswith(learner_lib.DRIFT)]
    names.sort(key=lambda n: int(n.removeprefix(learner_lib.DRIFT)))
    values = np.array([metrics[n] for n in names])
    text = drift_lib.message(values, threshold) if names else None
    if text is not None and not warned:
      warned = True
      logging.warning('%s', text)

  return watch


def _check(
  model: language_model.LanguageModel,
  data: dataset.DataSet,
  eval_splits: tuple[str, ...],
) -> None:
  if model.vocab_size != data.vocab_size:
    raise ValueError(
      'the model must have the vocabulary of the data, '
      f'got {model.vocab_size=} {data.vocab_size=}'
    )
  if model.max_length is not None and model.max_length < data.max_length:
    raise ValueError(
      'the model must have a position for every token of the data, '
      f'got {model.max_length=} {data.max_length=}'
    )
  if model.causal != (data.task == 'causal'):
    raise ValueError(
      "task 'causal' needs a causal model, others a bidirectional one, "
      f'got {model.causal=} {data.task=}'
    )
  _check_classes(model, data)
  unknown = sorted(set(eval_splits) - set(data.splits))
  if unknown:
    raise ValueError(
      f'eval_splits {unknown} are not in the data, which has {data.splits}'
    )


def _check_classes(
  model: language_model.LanguageModel, data: dataset.DataSet
) -> None:
  classes = getattr(model, 'num_classes', None)
  wanted = data.num_classes if data.task == 'classify' else None
  if classes != wanted:
    raise ValueError(
      "task 'classify' needs a classifier.Classifier with the classes of the "
      f'data, other tasks a language model, got {type(model).__name__} with '
      f'{classes} classes for {data.task=} with {wanted}'
    )


def _batch_shapes(
  trainer: LanguageModelTrainer,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a batch over all devices."""
  tokens = (trainer.batch_size, trainer.data.max_length)
  targets = (trainer.batch_size, trainer.data.target_length)
  return {
    'tokens': jax.ShapeDtypeStruct(tokens, jnp.int32),
    'targets': jax.ShapeDtypeStruct(targets, jnp.int32),
    'weights': jax.ShapeDtypeStruct(targets, jnp.float32),
    'mask': jax.ShapeDtypeStruct(tokens, jnp.bool_),
  }


def _activation_bytes(
  learner: learner_lib.Learner, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> int:
  if learner.chunked is not None:
    shares = learner.mesh.size
    return learner.chunked.plan.temporary_bytes * shares
  state = jax.eval_shape(learner.init)
  return summary.residual_bytes(
    learner.loss,
    state.params,
    state.projections,
    batch,
    state.key,
  )


def _on_host(
  state: learner_lib.TrainState, mesh: jax.sharding.Mesh
) -> learner_lib.TrainState:
  """Gathers a state that may be spread over hosts."""
  everywhere = mesh_lib.replicated(mesh)
  return jax.device_get(
    jax.jit(lambda s: s.replace(key=None), out_shardings=everywhere)(state)
  )
