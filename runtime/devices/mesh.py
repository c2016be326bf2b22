"""Device meshes, logical axes and the placement of states and batches.

One configuration serves a laptop, one accelerator and a pod: `data=-1` takes
the devices that the other axes leave over. Models name the axes of their
parameters logically ('embed', 'mlp', 'heads', ...); `LOGICAL_RULES` says which
mesh axis carries each.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from flax import linen as nn

__all__ = [
  'BATCH_AXES',
  'LOGICAL_RULES',
  'MeshConfig',
  'batch_sharding',
  'describe',
  'fitting',
  'optimizer_shardings',
  'param_shardings',
  'place_batch',
  'process_slice',
  'replicated',
]

AXES = ('data', 'fsdp', 'tensor', 'sequence')

# A batch is split over both of these; FSDP also splits parameters.
BATCH_AXES = ('data', 'fsdp')

# Logical axis of a parameter -> mesh axis. Vocabularies here are too small (29
# symbols) to be worth splitting.
LOGICAL_RULES: tuple[tuple[str, str | None], ...] = (
  ('embed', 'fsdp'),
  ('heads', 'tensor'),
  ('mlp', 'tensor'),
  ('kv', None),
  ('vocab', None),
  ('position', None),
  ('layers', None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes.

  Attributes:
    data: copies of the model, each with its share of the batch; -1 takes all
      devices that the other axes leave over.
    fsdp: the batch and the parameters are both split over this axis.
    tensor: heads and MLP columns are split over this axis.
    sequence: positions are split over this axis.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1

  def sizes(self, num_devices: int) -> tuple[int, ...]:
    """Axis sizes on `num_devices` devices, in the order of the fields.

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    sizes = dataclasses.astuple(self)
    if any(size < 1 for size in sizes[1:]) or not (
      self.data == -1 or self.data >= 1
    ):
      raise ValueError(
        f'mesh axes must be at least 1 (data may be -1), got {self}'
      )
    rest = math.prod(sizes[1:])
    data = num_devices // rest if self.data == -1 else self.data
    if data * rest != num_devices:
      raise ValueError(
        'the mesh axes must multiply to the number of devices, '
        f'got {self} for {num_devices} devices'
      )
    return (data, *sizes[1:])

  def make(
    self, devices: Sequence[jax.Device] | None = None
  ) -> jax.sharding.Mesh:
    """Builds the mesh over `devices` (default: all of the job)."""
    devices = jax.devices() if devices is None else devices
    sizes = self.sizes(len(devices))
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=auto, devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Every device holds the whole array."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The leading axis is split over the batch axes of the mesh."""
  spec = jax.sharding.PartitionSpec(BATCH_AXES)
  return jax.sharding.NamedSharding(mesh, spec)


def param_shardings(
  mesh: jax.sharding.Mesh,
  boxed: Any,
  rules: Sequence[tuple[str, str | None]] = LOGICAL_RULES,
) -> Any:
  """Shardings of a parameter tree whose leaves name their logical axes.

  Args:
    mesh: the device mesh.
    boxed: parameters as made by `flax.linen.with_logical_partitioning`, usually
      their shapes from `jax.eval_shape`.
    rules: logical axis -> mesh axis.

  Returns:
    A tree of `NamedSharding` with the structure of the unboxed parameters.

  Raises:
    ValueError: if an axis is not divisible by the mesh axis that carries it.
  """
  specs = nn.get_partition_spec(boxed)
  shardings = nn.logical_to_mesh_sharding(specs, mesh, list(rules))

  def check(path: Any, leaf: Any, sharding: jax.sharding.NamedSharding) -> None:
    for size, axis in zip(leaf.shape, sharding.spec, strict=False):
      if axis is not None and size % mesh.shape[axis]:
        raise ValueError(
          f'parameter {jax.tree_util.keystr(path)} of shape {leaf.shape}: '
          f'{size} is not divisible by mesh axis {axis}={mesh.shape[axis]}'
        )

  jax.tree_util.tree_map_with_path(check, nn.unbox(boxed), shardings)
  return shardings


def optimizer_shardings(
  mesh: jax.sharding.Mesh,
  optimizer: optax.GradientTransformation,
  opt_state: Any,
  shardings: Any,
) -> Any:
  """Moments are split as their parameters; counters are replicated.

  So are moments of another shape than their parameter, such as the factored ones
  of Adafactor, which are small.
  """
  return optax.tree_map_params(
    optimizer,
    lambda moment, sharding: (
      sharding if _fits(moment, sharding) else replicated(mesh)
    ),
    opt_state,
    shardings,
    transform_non_params=lambda _: replicated(mesh),
  )


def _fits(array: Any, sharding: jax.sharding.NamedSharding) -> bool:
  if array.ndim < len(sharding.spec):
    return False
  shares = (
    1 if axis is None else sharding.mesh.shape[axis] for axis in sharding.spec
  )
  return not any(
    size % share for size, share in zip(array.shape, shares, strict=False)
  )


def process_slice(mesh: jax.sharding.Mesh, batch_size: int) -> tuple[int, int]:
  """The share of every global batch that this process must load.

  Args:
    mesh: the device mesh.
    batch_size: examples per step, over all devices.

  Returns:
    (index, count): the process loads rows [index, index + 1) * batch / count.

  Raises:
    ValueError: if the batch is empty or not divisible by the batch axes, or
      this process's devices hold no contiguous share of it.
  """
  if batch_size < 1:
    raise ValueError(f'batch_size must be at least 1, got {batch_size=}')
  shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  if batch_size % shards:
    raise ValueError(
      'batch_size must be divisible by the mesh axes data x fsdp, '
      f'got {batch_size=} and data={mesh.shape["data"]} x '
      f'fsdp={mesh.shape["fsdp"]}'
    )
  rows = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  spans = sorted({s[0].indices(batch_size)[:2] for s in rows.values()})
  low, high = spans[0][0], spans[-1][1]
  size = sum(stop - start for start, stop in spans)
  if size != high - low or low % size:
    raise ValueError(
      'the devices of each process must hold one contiguous share of the '
      f'batch, got rows {spans}; reorder the mesh axes'
    )
  return low // size, batch_size // size


def place_batch(
  mesh: jax.sharding.Mesh, batch: Mapping[str, np.ndarray]
) -> dict[str, jax.Array | np.ndarray]:
  """Turns this process's share of a batch into arrays for a jitted step.

  Global arrays, in general. For one device the arrays stay as they are: a
  jitted function moves them itself, ten times faster than `device_put`.
  """
  if mesh.size == 1:
    return dict(batch)
  sharding = batch_sharding(mesh)
  if jax.process_count() == 1:
    return jax.device_put(dict(batch), sharding)
  return {
    name: jax.make_array_from_process_local_data(sharding, value)
    for name, value in batch.items()
  }


def fitting(mesh: jax.sharding.Mesh, **setting: int) -> jax.sharding.Mesh:
  """The mesh, or its first devices, by whose number a batch divides.

  With several processes the mesh stays as it is.

  Args:
    mesh: all devices.
    **setting: examples of a batch, by the name of the setting that says so.
  """
  [(name, count)] = setting.items()
  shards = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  fits = math.gcd(count, shards)
  if fits == shards or jax.process_count() > 1:
    return mesh
  logging.warning(
    'choose %s divisible by the %d devices: with %d only %d devices work',
    name,
    mesh.size,
    count,
    fits,
  )
  return MeshConfig(data=fits).make(list(mesh.devices.flat[:fits]))


def describe(mesh: jax.sharding.Mesh) -> str:
  """One line: axes, devices and processes."""
  axes = ', '.join(f'{name}={size}' for name, size in mesh.shape.items())
  kind = mesh.devices.flat[0].device_kind
  return (
    f'mesh {axes} over {mesh.size} x {kind}, {jax.process_count()} process(es)'
  )
