"""Fig. 7, left, and Appendix D.2: pictures pixel by pixel, by depth and kernel.

At `tiny` the pictures are 8x8 digits, of 64 pixels with 17 levels each. The
largest published case, one gradient of 12,288 pixels with 6 layers, is compiled
at both scales and its memory compared with that of exact attention.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from papers import claims, figures, rows, study
from papers.performer import learning, proteins
from performer import attention, objective
from performer.data import pictures
from performer.data import pixels as pixel_data
from performer.models import grid
from runtime.record import ledger

WITHIN = 0.1  # Bits per dimension.
DEPTHS = (1, 2, 4)
PUBLISHED = {'relu': 3.67, 'softmax': 3.69, 'softmax_reg': 3.67}
GIB = 2**30
LIMIT = 8.0  # GiB of a core of TPU-v2.
MEMORY = {'relu, 12288 pixels': 'relu', 'exact, 12288 pixels': 'exact'}


def kernels(features: int) -> dict[str, attention.Favor]:
  """The published kernels by label."""
  return {
    'relu': attention.Favor(kernel='relu', features=None, projection=False),
    'softmax': attention.Favor(kernel='softmax_pos', features=features),
    'softmax_reg': attention.Favor(kernel='softmax_pos_reg', features=features),
  }


def _model(**sizes: Any) -> grid.GridTransformer:
  return grid.GridTransformer(attention=attention.Exact(), causal=True, **sizes)


def published_model() -> grid.GridTransformer:
  """Six layers on ImageNet64."""
  return _model(
    vocab_size=256,
    max_length=12288,
    grid=(64, 64, 3),
    num_layers=6,
    num_heads=8,
    d_model=512,
    d_ff=2048,
    dropout=0.1,
    remat=True,
  )


def settings(scale: str) -> proteins.Setting:
  """What all arms of a scale share."""
  if scale == 'paper':
    return proteins.Setting(
      published_model().clone(dtype='bfloat16'),
      pixel_data.Pixels(source=pictures.imagenet64()),
      batch=64,
      steps=100_000,
      rate=1e-3,
      warmup=None,
      every=5000,
    )
  return proteins.Setting(
    _model(
      vocab_size=17,
      max_length=64,
      grid=(8, 8, 1),
      num_layers=2,
      num_heads=4,
      d_model=64,
      d_ff=128,
      dropout=0.0,
    ),
    pixel_data.Pixels(source=pictures.Digits()),
    batch=32,
    steps=600,
    rate=3e-3,
    warmup=50,
    every=50,
  )


def _depths(scale: str) -> study.Study:
  setting = settings(scale)
  mechanism = kernels(256 if scale == 'paper' else 64)['relu']
  models = {
    f'{depth} layers': setting.model.clone(
      attention=mechanism, num_layers=depth
    )
    for depth in (DEPTHS if scale == 'tiny' else (3, 6, 12))
  }
  return study.Study(
    learning.run, study.vary(setting, 'model', models), seeds=3
  )


def _kernels(scale: str) -> study.Study:
  found = kernels(256 if scale == 'paper' else 64)
  return study.Study(
    learning.run, learning.arms(settings(scale), found), seeds=3
  )


def planned(model: grid.GridTransformer) -> study.Record:
  """Bytes that the compiler plans for a gradient of one picture."""
  length = model.max_length
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  key = jax.random.key(0)

  def loss(params: Any, tokens: jax.Array, w: Any) -> jax.Array:
    logits = model.apply(params, tokens, mask=tokens >= 0, projections=w)
    return objective.token_losses(logits, tokens).mean()

  w = jax.eval_shape(lambda: model.draw_projections(key, 0))
  params = jax.eval_shape(
    lambda tokens, w: model.init(key, tokens, mask=tokens >= 0, projections=w),
    tokens,
    w,
  )
  compiled = jax.jit(jax.grad(loss)).lower(params, tokens, w).compile()
  return {'gib': compiled.memory_analysis().temp_size_in_bytes / GIB}


def _memory() -> study.Study:
  model = published_model().clone(dropout=0.0)
  mechanisms = {'relu': kernels(256)['relu'], 'exact': attention.Exact()}
  arms = {
    label: model.clone(attention=mechanisms[name])
    for label, name in MEMORY.items()
  }
  return study.Study(planned, arms, seeds=None)


def _bits(results: study.Results) -> dict[str, np.ndarray]:
  losses = rows.table(results, 'loss', form='{arm}')
  return {arm: loss / np.log(2) for arm, loss in losses.items()}


def _figure(results: study.Results) -> figures.Panel:
  setting = results.settings[results.arms[0]]
  return figures.by_arm(
    results,
    'loss',
    learning.steps_of(setting),
    spread='mean',
    xlabel='step',
    ylabel='nats per dimension, validation',
  )


def _bars(results: study.Results) -> figures.Panel:
  return figures.Bars(
    names=list(MEMORY),
    groups={'': [results(arm, 'gib')[0] for arm in MEMORY]},
    xlabel='GiB of one gradient, besides parameters',
  )


def _falls(table: claims.Table) -> list[claims.Claim]:
  labels = [label for label in table if label.endswith('layers')]
  return [claims.grows(labels, falls=True)]


_SOURCE = 'arXiv:2009.14794, Appendix D.2 (ImageNet64, 6 layers)'
ROWS = (
  rows.Row(
    id='fig7-pixels-depth',
    claim='Deeper Performers predict pixels better (bits per dimension, '
    'validation).',
    study={scale: _depths(scale) for scale in ('tiny', 'paper')},
    ours=_bits,
    published=ledger.Published(
      'curves: 12 layers below 6', 'arXiv:2009.14794, Fig. 7 (left)'
    ),
    trend='bits fall with the number of layers',
    claims=_falls,
    figure=_figure,
  ),
  rows.Row(
    id='fig15-pixels-kernels',
    claim='ReLU, softmax and regularised softmax predict pixels equally well '
    '(bits per dimension, validation).',
    study={scale: _kernels(scale) for scale in ('tiny', 'paper')},
    ours=_bits,
    published=ledger.Published(PUBLISHED, _SOURCE),
    trend=f'all within {WITHIN} bits of each other',
    claims=[
      claims.close(one, to=two, within=WITHIN)
      for one, two in (
        ('softmax', 'relu'),
        ('softmax_reg', 'relu'),
        ('softmax_reg', 'softmax'),
      )
    ],
    figure=_figure,
  ),
  rows.Row(
    id='fig7-pixels-memory',
    claim='A gradient of all 12,288 pixels of a picture fits into the memory of '
    'one device (GiB, planned by the compiler, 6 layers, float32).',
    study=_memory(),
    ours=lambda results: {arm: results(arm, 'gib') for arm in results.arms},
    trend=f'ReLU Performer below {LIMIT:g} GiB, the memory of a core of the '
    "paper's devices; exact attention above",
    claims=[
      claims.below('relu, 12288 pixels', than=LIMIT),
      claims.above('exact, 12288 pixels', than=LIMIT),
    ],
    figure=_bars,
  ),
)
