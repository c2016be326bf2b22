"""Classifiers of pictures in the training loop.

Several models can be trained at once, by one program: model i of a run with
seed s draws parameters, dropout and the order of pictures as the only model of
a run with seed s * num_models + i.

Source: arXiv:2006.11421, Section 5.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from jaxtyping import Array, Float, Key, PyTree

from rl.odetoode import bodies, certificates, class_results, heads
from rl.odetoode.images import corrupted as corrupted_lib
from runtime import loop as loop_lib
from runtime.data import images as images_lib
from runtime.data import indexed
from runtime.devices import mesh as mesh_lib
from runtime.record import metrics as metrics_lib

__all__ = ['ClassifierTrainer', 'TrainState']

_DEPTH_SCORES = ('gradient_first', 'gradient_least', 'gradient_greatest')
_PROBE = 64  # Pictures of the test set whose gradients are followed.


@flax.struct.dataclass
class TrainState:
  """All that training changes; models lie along the leading axis.

  Attributes:
    step: steps so far, int32 scalar.
    params: parameters.
    constants: arrays that are drawn and not learnt, such as a fixed W_0.
    opt_state: of the optimiser.
    key: never changes; steps fold their number into it.
  """

  step: Any
  params: Any
  constants: Any
  opt_state: Any
  key: Any


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierTrainer:
  """Trains a classifier of pictures; a `runtime.trainer.Trainer`.

  Attributes:
    data: clean pictures to learn from and to be judged on.
    body: from x_0 to x_N.
    optimizer: from optax; `trivialization.trivialize` where the body has
      orthogonal parameters.
    batch_size: pictures in a step.
    dropout: rate of x_0 and of x_N.
    corrupted: makes the corrupted test sets.
    num_models: number of models trained at once, each with its own seed.
    eval_batch_size: pictures of a test set at a time.

  Raises:
    ValueError: if a number is out of range.
  """

  data: images_lib.Images
  body: bodies.Body
  optimizer: optax.GradientTransformation
  batch_size: int
  dropout: float = 0.0
  corrupted: corrupted_lib.Corrupted = dataclasses.field(
    default_factory=corrupted_lib.Remade
  )
  num_models: int = 1
  eval_batch_size: int = 500

  def __post_init__(self) -> None:
    for name in ('batch_size', 'num_models', 'eval_batch_size'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name} must be positive, got {getattr(self, name)}')
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')

  @functools.cached_property
  def model(self) -> heads.Classifier:
    """The classifier."""
    return heads.Classifier(self.body, self.data.num_classes, self.dropout)

  @functools.cached_property
  def test_sets(self) -> dict[str, images_lib.ImageSet]:
    """Clean pictures, as 'test', and corrupted ones, made when first asked."""
    return {'test': self.data.test} | self.corrupted(self.data)

  @contextlib.contextmanager
  def experiment(
    self, *, seed: int, mesh: jax.sharding.Mesh
  ) -> Iterator[loop_lib.Experiment[TrainState]]:
    """See `runtime.trainer.Trainer`; an example is a picture, of each model."""
    seeds = range(seed * self.num_models, (seed + 1) * self.num_models)
    init = functools.partial(self._init, seeds)
    whole = mesh_lib.replicated(mesh)
    index, count = mesh_lib.process_slice(mesh, self.batch_size)
    yield loop_lib.Experiment(
      init=init,
      step=self._step,
      shardings=jax.tree.map(lambda _: whole, jax.eval_shape(init)),
      batches=indexed.iterator(
        indexed.side_by_side(
          [self.data.train.training_examples(seed) for seed in seeds]
        ),
        batch_size=self.batch_size,
        process_index=index,
        process_count=count,
      ),
      mesh=mesh,
      batch_size=self.batch_size,
      num_examples=len(self.data.train),
      evaluators=self._evaluators(),
      scores={
        'test': ('loss', 'accuracy'),
        'corrupted': ('accuracy', *(set(self.test_sets) - {'test'})),
        'depth': _DEPTH_SCORES,
      },
      params=lambda state: state.params,
      tables=lambda run: {'accuracy': self._accuracies(run.state)},
      pictures=lambda run: class_results.pictures(
        run.tables['accuracy'],
        norms=self.gradient_norms(run.state),
        sheet={name: s.images[0] for name, s in self.test_sets.items()},
      ),
    )

  def _accuracies(self, state: TrainState) -> list[dict[str, Any]]:
    """The final table: every test set."""
    return class_results.score_rows(
      {
        name: self.scores(state, image_set)
        for name, image_set in self.test_sets.items()
      }
    )

  def scores(
    self, state: TrainState, image_set: images_lib.ImageSet
  ) -> dict[str, Float[np.ndarray, ' m']]:
    """Mean loss and accuracy of every model on a set of pictures."""
    sums = np.zeros((2, self.num_models))
    # The last batch is filled up, so that one program serves all.
    for batch in indexed.eval_batches(
      image_set.examples, len(image_set), batch_size=self.eval_batch_size
    ):
      found = self._score(state.params, state.constants, batch)
      sums += np.asarray(jax.device_get(found), np.float64)
    loss, accuracy = sums / len(image_set)
    return {'loss': loss, 'accuracy': accuracy}

  def gradient_norms(
    self, state: TrainState
  ) -> Float[np.ndarray, 'm N1 b'] | None:
    """|g_n| / |g_N| of every model on some clean test pictures.

    Returns:
      None where the steps of the body depend on x.
    """
    if not self.body.layered:
      return None
    images = self.data.test.images[:_PROBE]
    labels = self.data.test.labels[:_PROBE]
    found = self._probe(state.params, state.constants, images, labels)
    return np.asarray(jax.device_get(found), np.float64)

  def _init(self, seeds: Sequence[int]) -> TrainState:
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    params, constants, opt_state = jax.vmap(self._fresh)(keys)
    return TrainState(jnp.int32(0), params, constants, opt_state, keys)

  def _fresh(self, key: Key[Array, '']) -> tuple[PyTree, PyTree, PyTree]:
    shape = self.data.train.images.shape[1:]
    variables = self.model.init(_keys(key)[0], jnp.zeros((1, *shape)))
    params = variables.pop('params')
    return params, variables, self.optimizer.init(params)

  def _loss(
    self,
    params: PyTree,
    constants: PyTree,
    batch: Mapping[str, Array],
    key: Key[Array, ''],
  ) -> tuple[Float[Array, ''], dict[str, Array]]:
    logits, aux = self.model.apply(
      {'params': params, **constants},
      batch['images'],
      train=True,
      rngs={'dropout': key},
    )
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch['labels']
    ).mean()
    hits = jnp.argmax(logits, axis=-1) == batch['labels']
    return loss, {'loss': loss, 'accuracy': hits.mean(), **aux}

  def _step_one(
    self,
    params: PyTree,
    constants: PyTree,
    opt_state: PyTree,
    key: Key[Array, ''],
    batch: Mapping[str, Array],
    step: Array,
  ) -> tuple[PyTree, PyTree, dict[str, Array]]:
    """One optimiser step of one model; metrics are those before it."""
    key = jax.random.fold_in(_keys(key)[1], step)
    gradients, metrics = jax.grad(self._loss, has_aux=True)(
      params, constants, batch, key
    )
    updates, opt_state = self.optimizer.update(gradients, opt_state, params)
    metrics['grad_norm'] = optax.tree.norm(gradients)
    return optax.apply_updates(params, updates), opt_state, metrics

  def _step(
    self, state: TrainState, batch: Mapping[str, Array]
  ) -> tuple[TrainState, clu_metrics.Collection]:
    step = jax.vmap(self._step_one, in_axes=(0, 0, 0, 0, 1, None))
    params, opt_state, values = step(
      state.params,
      state.constants,
      state.opt_state,
      state.key,
      batch,
      state.step,
    )
    metrics = {k: metrics_lib.Average.of(v) for k, v in values.items()}
    state = state.replace(
      step=state.step + 1, params=params, opt_state=opt_state
    )
    return state, clu_metrics.Collection.create_collection(**metrics)

  @functools.cached_property
  def _score(self) -> Any:
    """Weighted sums of losses and hits of every model."""

    def score(
      params: PyTree, constants: PyTree, batch: Mapping[str, Array]
    ) -> Array:
      variables = {'params': params, **constants}
      logits, _ = self.model.apply(variables, batch['images'])
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, batch['labels']
      )
      hits = jnp.argmax(logits, axis=-1) == batch['labels']
      weights = batch['weights']
      return jnp.stack([jnp.sum(losses * weights), jnp.sum(hits * weights)])

    over_models = jax.vmap(score, in_axes=(0, 0, None), out_axes=1)
    return jax.jit(over_models)

  @functools.cached_property
  def _probe(self) -> Any:
    def probe(
      params: PyTree, constants: PyTree, images: Array, labels: Array
    ) -> Array:
      norms = certificates.gradient_norms(
        self.model, {'params': params, **constants}, images, labels
      )
      return certificates.relative_norms(norms)

    return jax.jit(jax.vmap(probe, in_axes=(0, 0, None, None)))

  def _evaluators(self) -> dict[str, loop_lib.Evaluator]:
    def test(state: TrainState) -> dict[str, float]:
      scores = self.scores(state, self.data.test)
      return {name: values.mean() for name, values in scores.items()}

    def corrupted(state: TrainState) -> dict[str, float]:
      found = {
        name: self.scores(state, image_set)['accuracy'].mean()
        for name, image_set in self.test_sets.items()
        if name != 'test'
      }
      mean = {'accuracy': np.mean(list(found.values()))} if found else {}
      return mean | found

    def depth(state: TrainState) -> dict[str, float]:
      norms = self.gradient_norms(state)
      if norms is None:
        return {}
      found = np.nanmean(norms[:, 0]), np.nanmin(norms), np.nanmax(norms)
      return dict(zip(_DEPTH_SCORES, found, strict=True))

    return {'test': test, 'corrupted': corrupted, 'depth': depth}


def _keys(key: Key[Array, '']) -> tuple[Key[Array, ''], Key[Array, '']]:
  """Keys of parameters and of dropout."""
  return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
