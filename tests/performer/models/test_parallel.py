"""Attention on a mesh is attention on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention
from performer.models import parallel
from runtime.devices import mesh as mesh_lib
from tests import marks
from tests.performer.attention import attention_cases as cases
from tests.performer.attention import attention_twin as twin


@pytest.mark.parametrize(
  ('per_head', 'auto'),
  [(False, True), *marks.slow((True, False), (False, False), (True, True))],
)
def test_heads_keep_their_own_matrices(auto, per_head):
  favor = cases.favor(per_head=per_head)
  mechanism = attention.Auto(favor, exact_below=0) if auto else favor
  q, k, v, w = cases.arguments(favor, 7, l=12)
  mesh = mesh_lib.MeshConfig(data=2, tensor=2).make(jax.devices()[:4])
  spread = parallel.MeshAttention(
    mechanism, mesh, mesh_lib.BATCH_AXES, 'tensor'
  )
  mask = twin.mask(8, 2, 12)
  options = {'projection': w, 'causal': True, 'key_mask': mask}
  expected = favor(q, k, v, **options)
  out = jax.jit(lambda q, k, v: spread(q, k, v, **options))(q, k, v)
  np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.slow
def test_segments_on_a_mesh():
  favor = cases.favor()
  q, k, v, w = cases.arguments(favor, 8, l=16)
  config = mesh_lib.MeshConfig(data=2, tensor=1, sequence=2)
  spread = parallel.MeshAttention(
    favor, config.make(jax.devices()[:4]), mesh_lib.BATCH_AXES, 'tensor'
  )
  names = jnp.repeat(
    jnp.array([[0, 1, 2], [3, 4, 5]]), jnp.array([5, 8, 3]), axis=1
  )
  options = {'projection': w, 'causal': True, 'segment_ids': names}
  out = jax.jit(lambda q, k, v: spread(q, k, v, **options))(q, k, v)
  np.testing.assert_allclose(out, favor(q, k, v, **options), atol=1e-6)
