import jax
import jax.numpy as jnp

from runtime.devices import mesh as mesh_lib
from runtime.record import summary


def test_bytes_of_a_tree_and_of_one_device():
  mesh = mesh_lib.MeshConfig(fsdp=2).make()
  tree = {
    'w': jax.ShapeDtypeStruct((8, 4), jnp.float32),
    'key': jax.eval_shape(lambda: jax.random.key(0)),
  }
  spec = jax.sharding.PartitionSpec('fsdp')
  shardings = {
    'w': jax.sharding.NamedSharding(mesh, spec),
    'key': mesh_lib.replicated(mesh),
  }
  assert summary.tree_bytes(tree) == 8 * 4 * 4 + 8
  assert summary.tree_bytes(tree, shardings) == 8 * 4 * 4 // 2 + 8


def test_residuals_grow_with_the_batch_and_shrink_with_remat():
  def loss(params, x):
    for _ in range(4):
      x = jnp.tanh(x @ params)
    return x.sum(), None

  params = jax.ShapeDtypeStruct((16, 16), jnp.float32)

  def kept(function, rows):
    x = jax.ShapeDtypeStruct((rows, 16), jnp.float32)
    return summary.residual_bytes(function, params, x)

  # Each layer keeps its input and its output's derivative, at least.
  assert kept(loss, 64) >= 4 * 64 * 16 * 4
  assert kept(loss, 128) - kept(loss, 64) == kept(loss, 64) - kept(loss, 0)
  assert kept(jax.checkpoint(loss), 64) < kept(loss, 64) / 4


def test_activations_are_shared_by_the_devices_that_split_them():
  array = jax.ShapeDtypeStruct((4,), jnp.float32)

  def text(**axes):
    mesh = mesh_lib.MeshConfig(**axes).make()
    return summary.dry_run_text(
      config='',
      params={'w': array},
      state={'w': array},
      shardings={'w': mesh_lib.replicated(mesh)},
      mesh=mesh,
      batch_size=8,
      activation_bytes=2**20,
      population_bytes=2**22,
    )

  for axes in ({'data': 8}, {'data': 2, 'sequence': 4}):
    assert 'about 1.0 MiB, 0.1 MiB per device' in text(**axes)
  assert 'all members of a step: 4.0 MiB, 0.5 MiB per device' in text(data=8)
  assert 'about 1.0 MiB, 0.5 MiB per device' in text(data=2, tensor=4)
