"""The picture shows the matrices it says it shows."""

import numpy as np
import pytest

from performer import attention, pictures
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin

FAVOR = cases.favor()
W = cases.projection(FAVOR)


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
