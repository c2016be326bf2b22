"""Fig. 7, left, and Appendix D.2: pictures pixel by pixel, by depth and kernel.

At `tiny` the pictures are 8x8 digits, of 64 pixels with 17 levels each. The
largest published case, one gradient of 12,288 pixels with 6 layers, is compiled
at both scales and its memory compared with that of exact attention.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import programs
from papers import claims, figures, rows, study
from papers.performer import learning, proteins
from performer import attention, objective
from performer.data import pictures
from performer.data import pixels as pixel_data
from performer.models import grid
from runtime.record import ledger

WITHIN = 0.1  # Bits per dimension.
PUBLISHED = {'relu': 3.67, 'softmax': 3.69, 'softmax_reg': 3.67}
GIB = 2**30
LIMIT = 8.0  # GiB of a core of TPU-v2.


_model = functools.partial(proteins.model, grid.GridTransformer, causal=True)


def published_model() -> grid.GridTransformer:
  """Six layers on ImageNet64."""
  return _model(
    vocab_size=256,
    max_length=12288,
    grid=(64, 64, 3),
    sizes=proteins.REGULAR,
    dropout=0.1,
    remat=True,
  )


_SETTINGS = {
  'tiny': proteins.Setting(
    _model(vocab_size=17, max_length=64, grid=(8, 8, 1), sizes=(2, 4, 64, 128)),
    pixel_data.Pixels(source=pictures.Digits()),
    batch=32,
    steps=600,
    every=50,
    rate=3e-3,
    warmup=50,
  ),
  'paper': proteins.Setting(
    published_model().clone(dtype='bfloat16'),
    pixel_data.Pixels(source=pictures.imagenet64()),
    batch=64,
    steps=100_000,
    every=5000,
  ),
}
_DEPTHS = {'tiny': (1, 2, 4), 'paper': (3, 6, 12)}


def _depths(scale: str) -> study.Study:
  setting = _SETTINGS[scale]
  models = {
    f'{depth} layers': setting.model.clone(
      attention=proteins.RELU_KERNEL, num_layers=depth
    )
    for depth in _DEPTHS[scale]
  }
  return study.Study(learning.run, study.vary(setting, 'model', models))


def _kernels(scale: str) -> study.Study:
  """The published kernels."""
  favor = functools.partial(
    attention.Favor, features=256 if scale == 'paper' else 64
  )
  found = {
    'relu': proteins.RELU_KERNEL,
    'softmax': favor(kernel='softmax_pos'),
    'softmax_reg': favor(kernel='softmax_pos_reg'),
  }
  return study.Study(learning.run, proteins.arms(_SETTINGS[scale], found))


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
  return {'gib': programs.temporary_bytes(compiled) / GIB}


_bits = rows.numbers('loss', factor=1 / np.log(2))
_figure = learning.curves('loss', 'nats per dimension, validation')
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
    claims=lambda table: [claims.grows([*table], falls=True)],
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
    study=study.Study(
      planned,
      {
        f'{name}, 12288 pixels': published_model().clone(
          dropout=0.0, attention=mechanism
        )
        for name, mechanism in (
          ('relu', proteins.RELU_KERNEL),
          ('exact', attention.Exact()),
        )
      },
      seeds=None,
    ),
    ours=rows.numbers('gib'),
    trend=f'ReLU Performer below {LIMIT:g} GiB, the memory of a core of the '
    "paper's devices; exact attention above",
    claims=[
      claims.below('relu, 12288 pixels', than=LIMIT),
      claims.above('exact, 12288 pixels', than=LIMIT),
    ],
    figure=figures.bars(
      {'': 'gib'}, xlabel='GiB of one gradient, besides parameters'
    ),
  ),
)
