import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from runtime.devices import mesh as mesh_lib


def test_data_takes_what_is_left():
  mesh = mesh_lib.MeshConfig(fsdp=2, tensor=2).make()
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2, 'sequence': 1}


@pytest.mark.parametrize('config', [{'fsdp': 3}, {'data': 4}, {'data': 16}])
def test_axes_must_multiply_to_the_devices(config):
  with pytest.raises(ValueError, match='8 devices'):
    mesh_lib.MeshConfig(**config).make()


@pytest.mark.parametrize('config', [{'data': 0}, {'tensor': 0}, {'fsdp': -1}])
def test_axes_must_be_positive(config):
  with pytest.raises(ValueError, match='at least 1'):
    mesh_lib.MeshConfig(**config).make()


def test_batch_must_divide():
  mesh = mesh_lib.MeshConfig(fsdp=2).make()
  with pytest.raises(ValueError, match='batch_size=12 and data=4 x fsdp=2'):
    mesh_lib.process_slice(mesh, 12)
  assert mesh_lib.process_slice(mesh, 16) == (0, 1)


def test_batch_lands_in_rows():
  mesh = mesh_lib.MeshConfig(tensor=2).make()
  batch = {'x': np.arange(8.0)}
  placed = mesh_lib.place_batch(mesh, batch)['x']
  np.testing.assert_array_equal(placed, batch['x'])
  assert {shard.data.shape for shard in placed.addressable_shards} == {(2,)}


def test_batch_for_one_device_goes_there_with_the_call():
  device = jax.devices()[3]
  mesh = mesh_lib.MeshConfig().make([device])
  batch = {'x': np.arange(8.0, dtype=np.float32)}
  double = jax.jit(
    lambda batch: 2 * batch['x'], in_shardings=mesh_lib.batch_sharding(mesh)
  )
  found = double(mesh_lib.place_batch(mesh, batch))
  assert found.devices() == {device}
  np.testing.assert_array_equal(found, 2 * batch['x'])


def boxed(*shape, axes):
  init = nn.with_logical_partitioning(nn.initializers.zeros, axes)
  return jax.eval_shape(lambda: init(jax.random.key(0), shape))


def test_parameters_follow_their_logical_axes():
  mesh = mesh_lib.MeshConfig(fsdp=2, tensor=2).make()
  params = {
    'w': boxed(8, 6, axes=('embed', 'mlp')),
    'b': boxed(6, axes=('mlp',)),
    'v': boxed(29, 8, axes=('vocab', 'embed')),
  }
  found = mesh_lib.param_shardings(mesh, params)
  assert found['w'].shard_shape((8, 6)) == (4, 3)
  assert found['b'].shard_shape((6,)) == (3,)
  assert found['v'].shard_shape((29, 8)) == (29, 4)


def test_axis_that_does_not_divide_is_named():
  mesh = mesh_lib.MeshConfig(fsdp=4).make()
  with pytest.raises(ValueError, match=r"'w'.*6 is not divisible .* fsdp=4"):
    mesh_lib.param_shardings(mesh, {'w': boxed(6, 2, axes=('embed', 'kv'))})


def test_moments_lie_with_their_parameters():
  mesh = mesh_lib.MeshConfig(fsdp=2).make()
  params = {'w': boxed(8, 6, axes=('embed', 'mlp'))}
  shardings = mesh_lib.param_shardings(mesh, params)
  optimizer = optax.adam(1e-3)
  state = jax.eval_shape(optimizer.init, nn.unbox(params))
  placed = mesh_lib.optimizer_shardings(mesh, optimizer, state, shardings)
  assert placed[0].mu['w'] == shardings['w']
  assert placed[0].count == mesh_lib.replicated(mesh)
