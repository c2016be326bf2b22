"""Ways to compute the gradient of a language model's loss.

Ours are the strategies of `performer.slim`. The peers are what a user would
write without it:

- `autodiff`: `jax.value_and_grad` of the model's call on the whole sequence;
- `layer remat`: the same, each layer under `jax.checkpoint`;
- `chunk remat`: a scan over chunks whose body is under `jax.checkpoint`. This
  is the idea of our strategy `checkpoint`, written out for one model: only
  chunks that divide the length, no drift, no budget.

All return the mean loss and its gradient in the parameters.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree

from benchmarks import programs
from performer import attention, objective, slim
from performer.attention.sums import state as state_lib
from performer.slim import language, planner
from performer.slim import model as model_lib

OURS = slim.STRATEGIES
PEERS = ('autodiff', 'layer remat', 'chunk remat')
WHOLE = ('full', 'autodiff', 'layer remat')

CHECK_LENGTH = 512
# Of loss and gradient against float64, relative; rounding gives 1e-7 to 1e-6.
_TOLERANCE = 1e-5

# (parameters, inputs, projections) -> (mean loss, its gradient, drift or None).
Gradient = Callable[..., tuple[Array, PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Of a model."""

  width: int = 128  # d.
  heads: int = 4  # h.
  layers: int = 3  # s.
  inner: int = 512  # f, of the MLP.
  vocab: int = 256  # Symbols.
  kernel: str = 'square'  # Of the attention.
  norm: str = 'post_branch'  # Where LayerNorm stands.
  dtype: str = 'float32'  # Of activations.
  random: int = 2  # M over the width of a head, for random features.


@dataclasses.dataclass(frozen=True)
class Case:
  """The gradient of one sequence of this length."""

  length: int

  def __str__(self) -> str:
    return f'L={self.length}'


@dataclasses.dataclass(frozen=True)
class Form:
  """A way to compute the gradient."""

  kind: str  # A member of `OURS` or `PEERS`.
  chunk: int | None = None  # Positions; None for kinds in `WHOLE`.

  def __post_init__(self) -> None:
    if self.kind not in (*OURS, *PEERS):
      known = (*OURS, *PEERS)
      raise ValueError(f'kind must be one of {known}, got {self.kind!r}')
    if (self.kind in WHOLE) != (self.chunk is None):
      raise ValueError(f'{self.kind!r} and {self.chunk=} do not go together')

  @property
  def ours(self) -> bool:
    """Whether the library computes it."""
    return self.kind in OURS

  def __str__(self) -> str:
    return self.kind if self.chunk is None else f'{self.kind} C={self.chunk}'


def build(sizes: Sizes, **options: Any) -> model_lib.SlimTransformer:
  """The model of these sizes; options replace its attributes."""
  if sizes.kernel.startswith('softmax'):
    features = sizes.random * sizes.width // sizes.heads
    kernel = {'features': features, 'stabilizer': 'none'}
  else:
    kernel = {'projection': False, 'features': None, 'kernel_epsilon': 1e-6}
  mechanism = attention.Favor(kernel=sizes.kernel, **kernel)
  fields = {'attention': mechanism, 'dtype': jnp.dtype(sizes.dtype), **options}
  return model_lib.SlimTransformer(
    vocab_size=sizes.vocab,
    num_layers=sizes.layers,
    num_heads=sizes.heads,
    d_model=sizes.width,
    d_ff=sizes.inner,
    norm=sizes.norm,
    **fields,
  )


def parameters(
  model: model_lib.SlimTransformer, seed: int
) -> tuple[PyTree, PyTree]:
  """Parameters of a seed, and the random matrices."""
  drawn, start = jax.random.split(jax.random.key(seed))
  w = model.draw_projections(drawn, 0)
  token = jnp.zeros((1, 1), jnp.int32)

  @jax.jit
  def init(key: Array) -> PyTree:
    return model.init(key, token, mask=token == 0, projections=w)

  return nn.unbox(init(start))['params'], w


def inputs(
  vocab: int, length: int, *, seed: int, batch: int = 1
) -> dict[str, np.ndarray]:
  """Uniform tokens, all of which count."""
  tokens = np.random.default_rng(seed).integers(0, vocab, (batch, length + 1))
  return {
    'tokens': tokens[:, :-1].astype(np.int32),
    'targets': tokens[:, 1:].astype(np.int32),
    'weights': np.ones((batch, length), np.float32),
    'mask': np.ones((batch, length), bool),
  }


def state_bytes(model: model_lib.SlimTransformer) -> int:
  """Bytes of S and z of all layers, sigma."""
  state = jax.eval_shape(lambda: model.empty_state(1))
  return state.S.size * 4 + state.z.size * 4


def gradient(form: Form, model: model_lib.SlimTransformer) -> Gradient:
  """The function that a form stands for; see `Gradient`."""
  if form.ours:
    return functools.partial(_ours, form, model)
  if form.kind == 'chunk remat':
    return functools.partial(_by_value, _chunk_loss(model, form.chunk))
  model = model.clone(remat=form.kind == 'layer remat')
  return functools.partial(_by_value, functools.partial(_whole_loss, model))


def _ours(
  form: Form,
  model: model_lib.SlimTransformer,
  params: PyTree,
  batch: dict[str, Array],
  projections: PyTree,
) -> tuple[Array, PyTree, PyTree]:
  found = slim.slim_value_and_grad(
    language.problem(model),
    params,
    batch,
    chunk=form.chunk or batch['tokens'].shape[1],
    strategy=form.kind,
    constants=language.Constants(projections),
    normalizer=batch['weights'].sum(),
  )
  return found.loss, found.params, found.drift


def _by_value(
  loss: Callable[..., Array],
  params: PyTree,
  batch: dict[str, Array],
  projections: PyTree,
) -> tuple[Array, PyTree, None]:
  def mean(params: PyTree) -> Array:
    return loss(params, batch, projections) / batch['weights'].sum()

  return *jax.value_and_grad(mean)(params), None


def _whole_loss(
  model: model_lib.SlimTransformer,
  params: PyTree,
  batch: dict[str, Array],
  projections: PyTree,
) -> Float[Array, '']:
  call = functools.partial(model.apply, {'params': params}, batch['tokens'])
  logits = call(mask=batch['mask'], projections=projections)
  losses = objective.token_losses(logits, batch['targets'])
  return jnp.sum(losses * batch['weights'])


def _chunk_loss(
  model: model_lib.SlimTransformer, chunk: int
) -> Callable[..., Array]:
  def loss(
    params: PyTree, batch: dict[str, Array], projections: PyTree
  ) -> Float[Array, '']:
    rows, length = batch['tokens'].shape
    size = min(chunk, length)
    pieces = jax.tree.map(
      lambda x: x.reshape(rows, -1, size).swapaxes(0, 1), batch
    )

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def body(
      carry: tuple[state_lib.State, Array], x: tuple[Array, dict[str, Array]]
    ) -> tuple[tuple[state_lib.State, Array], None]:
      (state, total), (index, piece) = carry, x
      positions = index * size + jnp.arange(size)
      logits, state = model.apply(
        {'params': params},
        piece['tokens'],
        positions=jnp.broadcast_to(positions, (rows, size)),
        mask=piece['mask'],
        projections=projections,
        state=state,
        method='extend',
      )
      losses = objective.token_losses(logits, piece['targets'])
      return (state, total + jnp.sum(losses * piece['weights'])), None

    start = (model.empty_state(rows), jnp.zeros((), jnp.float32))
    indices = jnp.arange(length // size)
    return jax.lax.scan(body, start, (indices, pieces))[0][1]

  return loss


def program(form: Form, sizes: Sizes, case: Case) -> programs.Program:
  """Compiles a form for a length.

  Returns:
    The program; its extras are the lines of the compiled text, which no clock
    disturbs, and for ours the bytes that the planner expects.
  """
  model = build(sizes)
  params, projections = parameters(model, 0)

  def arguments(seed: int) -> tuple:
    batch = inputs(sizes.vocab, case.length, seed=seed)
    return params, jax.tree.map(jax.device_put, batch), projections

  built = programs.compiled(gradient(form, model), arguments)
  extras = {'instructions': len(built.call.as_text().splitlines())}
  if form.ours:
    plan = planner.plan(
      language.problem(model),
      *arguments(0)[:2],
      strategy=form.kind,
      chunk=form.chunk,
      constants=language.Constants(None),
    )
    extras['planned_bytes'] = plan.chosen.temporary_bytes
  return dataclasses.replace(built, extras=extras)


@functools.cache
def wrong(form: Form, model: model_lib.SlimTransformer) -> str | None:
  """Says which part of a form's gradient is off, by how much; None: none."""
  arrays, expected = _reference(model)
  loss, grads, _ = jax.jit(gradient(form, model))(*arrays)
  return disagreement((loss, grads), expected)


@functools.cache
def _reference(
  model: model_lib.SlimTransformer,
) -> tuple[tuple, tuple[float, PyTree]]:
  """Arrays of a short sequence; loss and gradient of the whole in float64."""
  params, w = parameters(model, 1)
  arrays = (params, inputs(model.vocab_size, CHECK_LENGTH, seed=1), w)
  wide = gradient(Form('autodiff'), model.clone(dtype=jnp.float64))
  loss, grads, _ = programs.in_float64(wide, *arrays)
  return arrays, (float(loss), grads)


def disagreement(
  found: tuple[Any, PyTree], expected: tuple[float, PyTree]
) -> str | None:
  """Compares losses and gradients; None if they agree."""
  gaps = {
    'loss': abs(float(found[0]) - expected[0]) / abs(expected[0]),
    'gradient': programs.distance(found[1], expected[1]),
  }
  return programs.judged(gaps, _TOLERANCE)
