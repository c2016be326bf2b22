"""The picture shows the matrices it says it shows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention, pictures, results
from tests import seeds
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin
from tests.performer.models import model_cases

FAVOR = cases.favor()
W = cases.projection(FAVOR)


@pytest.mark.slow
def test_panels_hold_exact_and_recovered_attention(tmp_path):
  q, k, _ = twin.inputs(1, l=9)
  mask = twin.mask(2, 2, 9)
  picture = pictures.compare_attention(
    q,
    k,
    {'hyp': (FAVOR, W), 'again': (attention.Exact(), None)},
    causal=True,
    key_mask=mask,
    sequence=1,
    heads=(1, 0),
  )
  axes = [a for a in picture.axes if a.images and a.get_xlabel()]
  assert len(axes) == 6
  drawn = [np.asarray(a.images[0].get_array()) for a in axes]
  eye = np.broadcast_to(np.eye(9)[None, :, None, :], (2, 9, 2, 9))
  eye = eye.astype(np.float32)
  for row, head in enumerate((1, 0)):
    for column, kernel in enumerate(('exact', 'softmax_hyp', 'exact')):
      expected = twin.value(q, k, eye, W, mask, kernel=kernel, causal=True)
      np.testing.assert_allclose(
        drawn[3 * row + column], expected[1, :, head], atol=1e-5
      )
  off = 0.5 * np.abs(drawn[1] - drawn[0]).sum(-1).mean()
  assert f'off by {off:.2f}' in axes[1].get_title()
  assert 'off by 0.00' in axes[2].get_title()
  assert 'off' not in axes[0].get_title()
  picture.savefig(tmp_path / 'attention.png')
  assert (tmp_path / 'attention.png').stat().st_size > 1000


@pytest.mark.parametrize(
  'which', [{'heads': (2,)}, {'heads': ()}, {'sequence': 2}]
)
def test_what_does_not_exist_is_named(which):
  q, k, _ = twin.inputs(1, l=9)
  with pytest.raises(ValueError, match='heads'):
    pictures.compare_attention(q, k, {}, causal=False, **which)


@pytest.mark.slow
@pytest.mark.parametrize('exact_below', [16, 17])
def test_maps_of_a_crop_are_those_of_the_mechanism_at_full_length(exact_below):
  make = functools.partial(model_cases.small, vocab_size=7, d_ff=8)
  favor = cases.favor(ortho='horf')
  model = make(attention.Auto(favor=favor, exact_below=exact_below))
  tokens = jnp.arange(16)[None] % 7
  batch = {'tokens': np.asarray(tokens), 'mask': np.ones((1, 16), bool)}
  w = model.draw_projections(seeds.key(0), 0)
  params = jax.jit(model.init)(
    seeds.key(1), tokens, mask=tokens >= 0, projections=w
  )['params']
  found = results.attention_maps(model, params, w, batch, length=8)
  linear, exact = (
    results.attention_maps(make(mechanism), params, matrix, batch, length=8)
    for mechanism, matrix in ((favor, w), (attention.Exact(), None))
  )
  same, other = (linear, exact) if exact_below == 16 else (exact, linear)
  np.testing.assert_array_equal(found, same)
  assert np.abs(found - other).max() > 1e-3
