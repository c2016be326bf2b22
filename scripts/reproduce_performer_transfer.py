"""E4: a pretrained model with its attention exchanged (Fig. 5, left).

AntiBERTy, a published BERT of antibodies, gets FAVOR+ (r = 256, the default
kernel) in the place of softmax, and is trained on for a few steps on germline
genes; the same steps from new parameters are the control. Accuracy is that of
masked residues (15 %, all shown as the mask symbol) of genes held out, under
the random matrices of the step. `prepare_antibodies.py` makes the data.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reproduce_common as common
from flax import linen as nn
from jaxtyping import Array, Float, Int, PyTree

from performer import attention
from performer.data import fasta, masking, vocabulary
from performer.models import bert, convert_bert
from runtime.record import ledger, tables, verdicts

__all__ = ['Curves', 'Setting', 'finding', 'measure', 'rows']

SOURCE = (
  'arXiv:2009.14794, Fig. 5 (left): one-billion-word benchmark, no antibodies'
)
PUBLISHED = 0.07  # Accuracy after the exchange.
RECOVERED = 0.95  # Of the accuracy of the pretrained model.
TUNED, SCRATCH = 'Performer, pretrained', 'Performer, new parameters'
# AntiBERTy's ids by ours: residues, begin, end, padding and mask.
_RESIDUES = 'ACDEFGHIKLMNPQRSTVWY'
_ID = np.full(vocabulary.SIZE, 1, np.int32)
_ID[: len(_RESIDUES)] = 5 + np.arange(len(_RESIDUES))
_ID[[vocabulary.BOS, vocabulary.EOS, vocabulary.PAD, vocabulary.MASK]] = (
  2,
  3,
  0,
  4,
)
_NO_TARGET = -1


@dataclasses.dataclass(frozen=True)
class Setting:
  """The experiment.

  Attributes:
    num_heads: of the pretrained model.
    features: r.
    steps: of training.
    every: steps between evaluations.
    batch: genes per step.
    rate: of Adam.
    held_out: genes.
  """

  num_heads: int = 8
  features: int = 256
  steps: int = 100
  every: int = 20
  batch: int = 8
  rate: float = 1e-4
  held_out: int = 64


class Curves(NamedTuple):
  """Accuracies on held-out genes.

  Attributes:
    exact: of the pretrained model as it is, by seed.
    common: of the commonest residue, by seed.
    steps: at which the others were measured.
    performers: by start, [seed, step].
  """

  exact: tuple[float, ...]
  common: tuple[float, ...]
  steps: tuple[int, ...]
  performers: dict[str, Float[np.ndarray, 's n']]


class _Batch(NamedTuple):
  tokens: Int[Array, 'b l']
  targets: Int[Array, 'b l']


def _encode(
  genes: Sequence[str], length: int, rng: np.random.Generator
) -> _Batch:
  """Masks genes: ids to feed, and the ids of what is masked."""
  tokens = np.full((len(genes), length), vocabulary.PAD, np.int64)
  inputs = tokens.copy()
  chosen = np.zeros(tokens.shape, bool)
  for i, gene in enumerate(genes):
    ids = np.array(
      [vocabulary.BOS, *vocabulary.encode(gene), vocabulary.EOS], np.int64
    )
    part = (i, slice(0, ids.size))
    tokens[part] = ids
    how = masking.Preset(mask=1.0, random=0.0)
    inputs[part], chosen[part] = masking.mask_tokens(ids, rng, how)
  targets = np.where(chosen, _ID[tokens], _NO_TARGET)
  return _Batch(jnp.asarray(_ID[inputs]), jnp.asarray(targets))


def _logits(
  model: bert.Bert, params: PyTree, batch: _Batch, w: PyTree
) -> Float[Array, 'b l v']:
  return model.apply(
    {'params': params}, batch.tokens, mask=batch.tokens > 0, projections=w
  )


@functools.partial(jax.jit, static_argnums=0)
def _accuracy(
  model: bert.Bert, params: PyTree, batch: _Batch, w: PyTree
) -> Float[Array, '']:
  hits = jnp.argmax(_logits(model, params, batch, w), -1) == batch.targets
  return hits.sum() / (batch.targets != _NO_TARGET).sum()


def _train(
  model: bert.Bert,
  params: PyTree,
  batches: Iterator[_Batch],
  held_out: _Batch,
  setting: Setting,
  key: Array,
) -> list[float]:
  """Accuracies before training and after every few steps."""
  optimizer = optax.adam(setting.rate)
  w = model.draw_projections(key, 0)

  def loss(params: PyTree, batch: _Batch) -> Float[Array, '']:
    keep = batch.targets != _NO_TARGET
    losses = optax.softmax_cross_entropy_with_integer_labels(
      _logits(model, params, batch, w), jnp.where(keep, batch.targets, 0)
    )
    return jnp.sum(losses, where=keep) / keep.sum()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params: PyTree, state: PyTree, batch: _Batch) -> tuple:
    updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
    return optax.apply_updates(params, updates), state

  # Steps may overwrite what they are given.
  params = jax.tree.map(jnp.copy, params)
  state, found = optimizer.init(params), []
  for number in range(setting.steps + 1):
    if number % setting.every == 0:
      found.append(float(_accuracy(model, params, held_out, w)))
    if number < setting.steps:
      params, state = step(params, state, next(batches))
  return found


def _model(
  params: Mapping[str, PyTree], setting: Setting, mechanism: Callable
) -> bert.Bert:
  layers, width, d_ff = params['blocks']['mlp_in']['kernel'].shape
  return bert.Bert(
    vocab_size=params['tokens']['embedding'].shape[0],
    max_length=params['positions'].shape[0],
    attention=mechanism,
    num_layers=layers,
    num_heads=setting.num_heads,
    d_model=width,
    d_ff=d_ff,
    dropout=0.0,
  )


def measure(
  weights: convert_bert.Weights,
  genes: Sequence[str],
  seeds: Sequence[int],
  setting: Setting,
) -> Curves:
  """Exchanges the attention and trains.

  Args:
    weights: of AntiBERTy, by PyTorch's names.
    genes: proteins, of the 20 standard residues.
    seeds: one split, masks, random matrices and new parameters each.
    setting: sizes.

  Returns:
    The accuracies.
  """
  params, _ = convert_bert.from_pytorch(weights, num_heads=setting.num_heads)
  favor = attention.Favor(features=setting.features)
  fast = _model(params, setting, favor)
  exact_model = _model(params, setting, attention.Exact())
  length = max(map(len, genes)) + 2
  exact, commonest, performers = [], [], {TUNED: [], SCRATCH: []}
  for seed in seeds:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(genes))
    tests, rest = np.split(order, [setting.held_out])
    held_out = _encode([genes[i] for i in tests], length, rng)
    exact.append(float(_accuracy(exact_model, params, held_out, None)))
    counts = np.bincount(held_out.targets[held_out.targets != _NO_TARGET])
    commonest.append(float(counts.max() / counts.sum()))
    chosen = rng.choice(rest, (setting.steps, setting.batch))
    batches = [_encode([genes[i] for i in c], length, rng) for c in chosen]
    key, fresh = jax.random.split(jax.random.key(seed))
    w = fast.draw_projections(key, 0)
    start = fast.init(
      fresh, batches[0].tokens, mask=batches[0].tokens > 0, projections=w
    )
    starts = {TUNED: params, SCRATCH: nn.meta.unbox(start['params'])}
    for name, values in starts.items():
      curve = _train(fast, values, iter(batches), held_out, setting, key)
      performers[name].append(curve)
      print(f'{name}, seed {seed}: {[round(x, 3) for x in curve]}', flush=True)
  steps = tuple(range(0, setting.steps + 1, setting.every))
  return Curves(
    tuple(exact),
    tuple(commonest),
    steps,
    {name: np.array(curves) for name, curves in performers.items()},
  )


def rows(folder: str, scale: str, seeds: Sequence[int]) -> list[common.Finding]:
  """Measures and judges.

  Args:
    folder: of `prepare_antibodies.py`.
    scale: 'tiny' or 'paper', which are the same here.
    seeds: one run of each kind.

  Returns:
    The finding.

  Raises:
    FileNotFoundError: if the folder lacks a file.
  """
  del scale
  root = pathlib.Path(folder)
  with np.load(root / 'antiberty.npz') as file:
    weights = dict(file)
  records = fasta.read(str(root / 'antibodies.fasta'))
  genes = [record.sequence for record in records]
  standard = [gene for gene in genes if set(gene) <= set(_RESIDUES)]
  setting = Setting()
  return [finding(measure(weights, standard, seeds, setting), setting)]


def finding(curves: Curves, setting: Setting) -> common.Finding:
  """Judges whether a pretrained model recovers.

  Args:
    curves: as measured.
    setting: of the measurement.
  """
  tuned, scratch = (curves.performers[name] for name in (TUNED, SCRATCH))
  wanted = RECOVERED * np.asarray(curves.exact)
  higher = functools.partial(
    verdicts.verdict, higher_is_better=True, paired=True
  )
  parts = {
    'above the commonest residue before training': higher(
      tuned[:, 0], curves.common
    ),
    'below the original before training': higher(curves.exact, tuned[:, 0]),
    f'{RECOVERED:.0%} of the original at the end': higher(tuned[:, -1], wanted),
    'above new parameters at the end': higher(tuned[:, -1], scratch[:, -1]),
  }
  ours = {
    'exact attention, as published': curves.exact,
    'commonest residue': curves.common,
  }
  for name, values in curves.performers.items():
    for column in (0, -1):
      label = f'{name}, step {curves.steps[column]}'
      ours[label] = tuple(map(float, values[:, column]))
  verdict_list = '; '.join(f'{name}: {part}' for name, part in parts.items())
  return common.Finding(
    {
      'id': 'fig5-transfer',
      'claim': 'A pretrained model with its attention exchanged for FAVOR+ '
      'keeps some of its accuracy, and recovers it in few steps.',
      'ours': ours,
      'published': ledger.Published(PUBLISHED, SOURCE),
      'trend': f'masked accuracy between the commonest residue and the original '
      f'before training; at least {RECOVERED:.0%} of the original, and above new '
      f'parameters, after {setting.steps} steps (95 % intervals over seeds)',
      'verdict': common.combine(list(parts.values())),
      'explanation': f'{verdict_list}. AntiBERTy (26 million parameters, '
      'arXiv:2112.07782) read from the arrays it was published with; r = '
      f'{setting.features}, Adam at {setting.rate:g}, {setting.batch} genes a '
      f'step, {setting.held_out} held out, which the original may have been '
      'trained on. The published number is of another model and of words.',
    },
    functools.partial(_picture, curves),
  )


def _picture(curves: Curves, path: pathlib.Path) -> None:
  """Accuracy over steps, one line a seed."""
  fig, (axis,) = common.new_axes(1)
  table = []
  for color, (name, values) in zip(
    common.COLORS, curves.performers.items(), strict=False
  ):
    axis.plot(curves.steps, values.T, color=color, lw=0.8, alpha=0.6)
    axis.plot(curves.steps, values.mean(0), color=color, label=name)
    table += [
      {'model': name, 'run': run, 'step': step, 'accuracy': float(value)}
      for run, curve in enumerate(values)
      for step, value in zip(curves.steps, curve, strict=True)
    ]
  tables.write_csv(table, path.with_name(f'{path.stem}-curves.csv'))
  levels = {'exact attention': curves.exact, 'commonest residue': curves.common}
  for style, (name, values) in zip(('--', ':'), levels.items(), strict=True):
    axis.axhline(np.mean(values), color='0.4', ls=style, lw=1, label=name)
  axis.set_xlabel('step')
  axis.set_ylabel('accuracy of masked residues')
  axis.set_ylim(0, 1)
  axis.legend(frameon=False, fontsize='x-small', loc='center right')
  common.save(fig, path)
