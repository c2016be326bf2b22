"""Gradients of one few-shot task: ours, unrolled by torch, differentiated scans.

Five classes of 28x28 pictures, three convolutions of stride 2 and 32 filters, a
linear layer, mean cross-entropy; plain gradient descent inside.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from benchmarks import programs
from hpo import ufom
from hpo.ufom.tasks import networks

WAYS, SIZE, FILTERS, BLOCKS = 5, 28, 32, 3
ALPHA = 0.01
FORMS = ('fom', 'store', 'store_phi', 'sqrt', 'recompute', 'ufom')
PEERS = ('torch fom', 'torch exact', 'autodiff fom', 'autodiff exact')
Gradient = Callable[..., PyTree]


@dataclasses.dataclass(frozen=True)
class Case:
  """A task."""

  shots: int  # Support and query pictures of a class.
  r: int  # Inner steps.
  timed: bool = True  # Or only compiled.

  def __str__(self) -> str:
    return f'{self.shots} shots, r={self.r}'

  def arrays(self, seed: int = 0) -> tuple[PyTree, dict[str, np.ndarray]]:
    """Parameters and a task, float32."""
    rng = np.random.default_rng(seed)
    count = WAYS * self.shots
    shape = (count, SIZE, SIZE, 1)
    task = {
      'support_x': rng.random(shape, np.float32),
      'query_x': rng.random(shape, np.float32),
      'y': np.repeat(np.arange(WAYS, dtype=np.int32), self.shots),
    }
    pictures = jnp.asarray(task['query_x'])
    theta = _network('lax').init(jax.random.key(seed), pictures)
    return theta['params'], task


def _network(form: networks.Form) -> networks.ConvNet:
  return networks.ConvNet(WAYS, FILTERS, BLOCKS, normalize=False, form=form)


def problem(form: networks.Form = 'auto') -> ufom.ABLOProblem:
  """The bi-level problem, with convolutions in a form."""
  net = _network(form)

  def loss(part: str, phi: PyTree, task: PyTree) -> jax.Array:
    logits = net.apply({'params': phi}, task[part])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, task['y'])
    return losses.mean()

  return ufom.ABLOProblem(
    V=lambda theta, task: theta,
    inner_loss=lambda theta, phi, task: loss('support_x', phi, task),
    outer_loss=lambda theta, phi, task: loss('query_x', phi, task),
  )


def form(name: str, r: int) -> Gradient:
  """Ours: (theta, task, key) -> gradient; the key is for UFOM's xi, q = 0.1."""
  shape = problem()

  def gradient(theta: PyTree, task: PyTree, key: jax.Array) -> PyTree:
    if name == 'fom':
      found = ufom.fom_grad(shape, theta, task, r, ALPHA)
    elif name == 'ufom':
      inner = ufom.Inner(r, ALPHA)
      found = ufom.ufom_grad(shape, theta, task, key, 0.1, inner)
    else:
      found = ufom.exact_grad(shape, theta, task, r, ALPHA, mode=name)
    return found.grad

  return gradient


def program(name: str, case: Case, key: int = 0) -> programs.Program:
  """Compiles a form of ours; `key` is that of its random draws."""
  built = _compiled(name, dataclasses.replace(case, timed=True))
  theta, task, _ = built.inputs(0)
  draw = jax.random.key(key)
  return dataclasses.replace(built, inputs=lambda seed: (theta, task, draw))


@functools.cache
def _compiled(name: str, case: Case) -> programs.Program:
  arrays = jax.tree.map(jnp.asarray, case.arrays())
  inputs = lambda seed: (*arrays, jax.random.key(0))
  return programs.compiled(form(name, case.r), inputs)


def peer(name: str, case: Case) -> programs.Program:
  """A peer, whose gradient is like theta.

  Raises:
    MissingError: if it is not installed.
  """
  kind, _, order = name.partition(' ')
  make = _autodiff if kind == 'autodiff' else _torch
  return make(case, exact=order == 'exact')


def _autodiff(case: Case, *, exact: bool) -> programs.Program:
  """As a user of JAX writes it: a scan, the compiler's convolutions."""
  shape = problem('lax')

  def unrolled(theta: PyTree, task: PyTree) -> jax.Array:
    def body(phi: PyTree, _: None) -> tuple[PyTree, None]:
      slope = jax.grad(shape.inner_loss, argnums=1)(theta, phi, task)
      if not exact:
        slope = jax.lax.stop_gradient(slope)
      return jax.tree.map(lambda x, d: x - ALPHA * d, phi, slope), None

    phi, _ = jax.lax.scan(body, theta, length=case.r)
    return shape.outer_loss(theta, phi, task)

  arrays = jax.tree.map(jnp.asarray, case.arrays())
  return programs.compiled(jax.grad(unrolled), lambda seed: arrays)


class _TorchTask:
  """The task and the network in torch, with the same parameters."""

  def __init__(self, torch: Any, case: Case) -> None:
    self.torch = torch
    self._theta, task = case.arrays()
    images = lambda x: torch.from_numpy(
      np.ascontiguousarray(x[:, None, :, :, 0])
    )
    self.support = images(task['support_x'])
    self.query = images(task['query_x'])
    self.y = torch.from_numpy(task['y'].astype(np.int64))
    self.names = [f'Convolution_{i}' for i in range(BLOCKS)]

  def params(self) -> list[Any]:
    """Kernels [f, c, 3, 3] and biases, then the linear layer."""
    found = []
    for name in self.names:
      kernel, bias = (self._theta[name][k] for k in ('kernel', 'bias'))
      found += [np.asarray(kernel).transpose(3, 2, 0, 1), np.asarray(bias)]
    dense = self._theta['Dense_0']
    found += [self._to_channels(np.asarray(dense['kernel'])).T, dense['bias']]
    return [
      self.torch.tensor(np.ascontiguousarray(x)).requires_grad_() for x in found
    ]

  @staticmethod
  def _to_channels(kernel: np.ndarray, *, back: bool = False) -> np.ndarray:
    """Rows of pictures flattened (h w c) as (c h w), or back."""
    side = round((len(kernel) / FILTERS) ** 0.5)
    shape = (FILTERS, side, side) if back else (side, side, FILTERS)
    order = (1, 2, 0, 3) if back else (2, 0, 1, 3)
    parts = kernel.reshape(*shape, -1).transpose(order)
    return parts.reshape(len(kernel), -1)

  def tree(self, grads: list[Any]) -> PyTree:
    """Gradients like theta."""
    arrays = [g.detach().numpy() for g in grads]
    found = {
      name: {'kernel': kernel.transpose(2, 3, 1, 0), 'bias': bias}
      for name, kernel, bias in zip(
        self.names, arrays[0:-2:2], arrays[1:-2:2], strict=True
      )
    }
    kernel = self._to_channels(arrays[-2].T, back=True)
    return found | {'Dense_0': {'kernel': kernel, 'bias': arrays[-1]}}

  def logits(self, params: list[Any], x: Any) -> Any:
    """The network; padding as 'SAME' in JAX."""
    functional = self.torch.nn.functional
    for kernel, bias in zip(params[0:-2:2], params[1:-2:2], strict=True):
      even = x.shape[-1] % 2 == 0
      x = functional.pad(x, (0, 1, 0, 1) if even else (1, 1, 1, 1))
      x = functional.relu(functional.conv2d(x, kernel, bias, stride=2))
    return x.flatten(1) @ params[-2].T + params[-1]

  def loss(self, params: list[Any], x: Any) -> Any:
    """Mean cross-entropy."""
    return self.torch.nn.functional.cross_entropy(
      self.logits(params, x), self.y
    )


def _torch(case: Case, *, exact: bool) -> programs.Program:
  """Unrolling by hand: the steps of learn2learn's MAML without its modules."""
  torch = programs.torch()
  task = _TorchTask(torch, case)

  def run() -> PyTree:
    first = task.params()
    params = first
    for _ in range(case.r):
      grads = torch.autograd.grad(
        task.loss(params, task.support), params, create_graph=exact
      )
      params = [p - ALPHA * g for p, g in zip(params, grads, strict=True)]
    return task.tree(torch.autograd.grad(task.loss(params, task.query), first))

  return programs.Program(run)
