"""Attention on a mesh is attention on one device."""

import jax
import numpy as np
import pytest

from performer import attention
from performer.models import parallel
from runtime import mesh as mesh_lib
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin


@pytest.mark.parametrize('auto', [False, True])
@pytest.mark.parametrize('per_head', [False, True])
def test_heads_keep_their_own_matrices(auto, per_head):
  favor = cases.favor(per_head=per_head)
  mechanism = attention.Auto(favor, exact_below=0) if auto else favor
  w = cases.projection(favor)
  q, k, v = twin.inputs(7, l=12)
  mesh = mesh_lib.MeshConfig(data=2, tensor=2).make(jax.devices()[:4])
  spread = parallel.MeshAttention(
    mechanism, mesh, mesh_lib.BATCH_AXES, 'tensor'
  )
  mask = twin.mask(8, 2, 12)
  options = {'projection': w, 'causal': True, 'key_mask': mask}
  expected = favor(q, k, v, **options)
  out = jax.jit(lambda q, k, v: spread(q, k, v, **options))(q, k, v)
  np.testing.assert_allclose(out, expected, atol=1e-6)
