"""Trains a Transformer language model; the root of the configurations."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from clu import metrics as clu_metrics
from jaxtyping import PyTree

from performer import attention, norm_watch, results
from performer import trainer as trainer_lib
from performer.data import dataset
from performer.models import language_model
from performer.slim import drift as drift_lib
from performer.slim import options as slim_options
from performer.slim import training as slim_training
from runtime import context as context_lib
from runtime import loop as loop_lib
from runtime.devices import mesh as mesh_lib
from runtime.record import summary

__all__ = ['build', 'evaluate', 'train']


def evaluate(
  trainer: trainer_lib.Trainer,
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
    trainer: whose model is judged.
    data: has the split.
    split: its name.
    mesh: the devices.
    batch_size: sequences at a time, over all devices.
  """
  index, count = mesh_lib.process_slice(mesh, batch_size)

  @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
  def eval_step(
    params: PyTree, projections: PyTree, batch: trainer_lib.Batch
  ) -> dict[str, clu_metrics.Metric]:
    return trainer.metrics(params, projections, batch)

  def run(state: trainer_lib.TrainState) -> dict[str, float]:
    total = None
    for batch in data.eval_batches(
      split, batch_size=batch_size, process_index=index, process_count=count
    ):
      placed = mesh_lib.place_batch(mesh, batch)
      update = eval_step(state.params, state.projections, placed)
      update = jax.tree.map(np.float64, jax.device_get(update))
      total = update if total is None else _merge(total, update)
    return {name: float(metric.compute()) for name, metric in total.items()}

  return run


def _merge(
  a: dict[str, clu_metrics.Metric], b: dict[str, clu_metrics.Metric]
) -> dict[str, clu_metrics.Metric]:
  return {name: metric.merge(b[name]) for name, metric in a.items()}


def build(
  *,
  model: language_model.LanguageModel,
  data: dataset.DataSet,
  optimizer: optax.GradientTransformation,
  batch_size: int,
  seed: int,
  mesh: mesh_lib.MeshConfig,
  eval_splits: tuple[str, ...],
  eval_batch_size: int | None,
  slim: slim_options.Slim | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> tuple[trainer_lib.Trainer, loop_lib.Experiment[trainer_lib.TrainState]]:
  """Assembles model, data and optimiser for the loop.

  Args and errors are those of `train`; `devices` are those of the mesh, all of
  the job if None.
  """
  _check(model, data, eval_splits)
  if mesh.sequence != 1 and not isinstance(model.attention, attention.Favor):
    raise ValueError(
      'only attention.Favor can split positions over devices, got '
      f'{mesh.sequence=} for {model.attention}'
    )
  grid = mesh.make(devices)
  trainer = trainer_lib.Trainer(model, optimizer, seed, grid)
  index, count = mesh_lib.process_slice(grid, batch_size)
  if slim is not None:
    trainer = _chunked(trainer, slim, batch_size, data.max_length)
  evaluators = {
    split: evaluate(
      trainer,
      data,
      split,
      mesh=grid,
      batch_size=eval_batch_size or batch_size,
    )
    for split in eval_splits
  }
  for split in eval_splits[:1]:
    evaluators[split] = norm_watch.watch(
      evaluators[split],
      trainer,
      data,
      split,
      mesh=grid,
      batch_size=eval_batch_size or batch_size,
    )
  experiment = loop_lib.Experiment(
    init=trainer.init,
    step=trainer.step,
    shardings=trainer.shardings(grid),
    batches=data.train_iterator(
      batch_size=batch_size,
      seed=seed,
      process_index=index,
      process_count=count,
    ),
    mesh=grid,
    batch_size=batch_size,
    num_examples=data.num_examples('train'),
    evaluators=evaluators,
    activation_bytes=lambda: _activation_bytes(
      trainer, batch_size, data.max_length
    ),
    params=lambda state: state.params,
    refresh=trainer.redraw,
    refresh_every=model.attention.redraw_every,
    on_metrics=None if slim is None else _drift_watch(slim.drift_threshold),
  )
  return trainer, experiment


def _chunked(
  trainer: trainer_lib.Trainer,
  slim: slim_options.Slim,
  batch_size: int,
  length: int,
) -> trainer_lib.Trainer:
  """The trainer, with gradients by chunks; says which."""
  state = jax.eval_shape(trainer.init)
  chunked = slim_training.make(
    trainer.model,
    slim,
    params=state.params,
    projections=state.projections,
    batch=_batch_shapes(batch_size, length),
    mesh=trainer.mesh,
    batch_axes=mesh_lib.BATCH_AXES,
  )
  logging.info('gradients by chunks: %s', chunked.plan.describe())
  return dataclasses.replace(trainer, chunked=chunked)


def _drift_watch(
  threshold: float,
) -> Callable[[Mapping[str, float]], None]:
  """Warns, once, if subtraction loses the states of a layer."""
  warned = False

  def watch(metrics: Mapping[str, float]) -> None:
    nonlocal warned
    names = [n for n in metrics if n.startswith(trainer_lib.DRIFT)]
    names.sort(key=lambda n: int(n.removeprefix(trainer_lib.DRIFT)))
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
      "task 'causal' needs a causal model, 'mlm' a bidirectional one, "
      f'got {model.causal=} {data.task=}'
    )
  unknown = sorted(set(eval_splits) - set(data.splits))
  if unknown:
    raise ValueError(
      f'eval_splits {unknown} are not in the data, which has {data.splits}'
    )


def _batch_shapes(
  batch_size: int, length: int
) -> dict[str, jax.ShapeDtypeStruct]:
  shape = (batch_size, length)
  return {
    'tokens': jax.ShapeDtypeStruct(shape, jnp.int32),
    'targets': jax.ShapeDtypeStruct(shape, jnp.int32),
    'weights': jax.ShapeDtypeStruct(shape, jnp.float32),
    'mask': jax.ShapeDtypeStruct(shape, jnp.bool_),
  }


def _activation_bytes(
  trainer: trainer_lib.Trainer, batch_size: int, length: int
) -> int:
  if trainer.chunked is not None:
    shares = trainer.mesh.size
    return trainer.chunked.plan.temporary_bytes * shares
  state = jax.eval_shape(trainer.init)
  return summary.residual_bytes(
    trainer.loss,
    state.params,
    state.projections,
    _batch_shapes(batch_size, length),
    state.key,
  )


def train(
  *,
  workdir: str,
  model: language_model.LanguageModel,
  data: dataset.DataSet,
  optimizer: optax.GradientTransformation,
  loop: loop_lib.LoopConfig,
  batch_size: int,
  seed: int = 0,
  mesh: mesh_lib.MeshConfig = mesh_lib.MeshConfig(),
  eval_splits: tuple[str, ...] = ('valid',),
  eval_batch_size: int | None = None,
  slim: slim_options.Slim | None = None,
  context: context_lib.RunContext = context_lib.RunContext(),
) -> loop_lib.Result[trainer_lib.TrainState]:
  """Trains a language model, or continues to, and reports what it learnt.

  Args:
    workdir: folder of the run.
    model: the language model.
    data: training and evaluation sequences.
    optimizer: from optax.
    loop: duration and intervals.
    batch_size: sequences per step, over all devices.
    seed: of parameters, dropout, random matrices and the order of the data.
    mesh: how devices share the work.
    eval_splits: splits judged at the evaluation interval; all are at the end.
    eval_batch_size: sequences per evaluation step; None: as in training.
    slim: gradients by chunks, in memory that does not grow with the length;
      None: whole sequences.
    context: what the launcher knows.

  Returns:
    The last state and how the run ended.

  Raises:
    ValueError: if parts do not fit each other; names the values and the rule.
  """
  trainer, experiment = build(
    model=model,
    data=data,
    optimizer=optimizer,
    batch_size=batch_size,
    seed=seed,
    mesh=mesh,
    eval_splits=eval_splits,
    eval_batch_size=eval_batch_size,
    slim=slim,
  )
  result = loop_lib.run(
    experiment, loop, workdir=workdir, seed=seed, context=context
  )
  if result.finished:
    size = eval_batch_size or batch_size
    scores = {
      split: evaluate(
        trainer, data, split, mesh=experiment.mesh, batch_size=size
      )(result.state)
      for split in data.splits
    }
    state = _on_host(result.state, experiment.mesh)
    results.report(
      workdir,
      model=model,
      data=data,
      params=state.params,
      projections=state.projections,
      scores=scores,
      batch_size=size,
      argv=context.argv,
    )
  return result


def _on_host(
  state: trainer_lib.TrainState, mesh: jax.sharding.Mesh
) -> trainer_lib.TrainState:
  """Gathers a state that may be spread over hosts."""
  everywhere = mesh_lib.replicated(mesh)
  return jax.device_get(
    jax.jit(lambda s: s.replace(key=None), out_shardings=everywhere)(state)
  )
