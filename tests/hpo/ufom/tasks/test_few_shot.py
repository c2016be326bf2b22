"""Episodes, networks and convolutions of few-shot classification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from hpo import ufom
from hpo.ufom.tasks import class_sets, few_shot, networks
from tests import marks, seeds, trees


@pytest.mark.parametrize(
  ('stride', 'shape'),
  [(1, (7, 4)), (2, (7, 4)), (2, (8, 5)), *marks.slow((1, (8, 5)))],
)
def test_products_are_convolutions(stride, shape):
  rng = seeds.rng(0)
  x = jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 5)), jnp.float32)

  def values(form):
    run = lambda x, k: networks.convolve(x, k, stride, form=form)
    weigh = lambda *args: jnp.sum(jnp.sin(run(*args)))
    return run(x, kernel), jax.grad(weigh, (0, 1))(x, kernel)

  ours, theirs = jax.jit(lambda: (values('products'), values('lax')))()
  trees.check_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_published_sizes():
  for net, shape, wanted in (
    (networks.ConvNet(5), (28, 28, 1), 113_221),
    (networks.ConvNet(20), (28, 28, 1), 117_076),
    (networks.ConvNet(20), (32, 32, 3), 118_228),
    (networks.ConvNet(5, filters=32, pool=True), (84, 84, 3), 34_661),
    (networks.ConvNet(15, filters=32, pool=True), (84, 84, 3), 46_191),
  ):
    params = jax.eval_shape(net.init, seeds.key(0), jnp.zeros((1, *shape)))
    assert sum(x.size for x in jax.tree.leaves(params)) == wanted


def test_batch_statistics():
  x = seeds.rng(1).normal(3, 2, size=(4, 5, 6))
  x = jnp.asarray(x, jnp.float32)
  net = networks.BatchStatistics()
  params = jax.jit(net.init)(seeds.key(0), x)
  y = np.asarray(jax.jit(net.apply)(params, x))
  np.testing.assert_allclose(y.mean((0, 1)), 0, atol=1e-5)
  np.testing.assert_allclose(y.std((0, 1)), 1, atol=1e-3)
  assert set(params) == {'params'}  # No running averages.


def family(**options):
  """Pictures of one pixel, which is their row; six classes of five."""
  images = np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1)
  part = class_sets.ClassSet(images, np.arange(30) // 5)
  return few_shot.FewShot(
    class_sets.ClassSplit(part, part),
    networks.MLP(3, widths=(8,)),
    **{'shots': 2, 'queries': 3, 'eval_tasks': 5, **options},
  )


def test_episodes():
  tasks = family().sample(seeds.rng(2), 40)
  assert {name: x.shape for name, x in tasks.items()} == {
    'support_x': (40, 6, 1, 1, 1),
    'support_y': (40, 6),
    'query_x': (40, 9, 1, 1, 1),
    'query_y': (40, 9),
  }
  for i in range(40):
    rows = {p: tasks[f'{p}_x'][i].ravel() for p in ('support', 'query')}
    assert not set(rows['support']) & set(rows['query'])
    classes = {}
    for p in rows:
      for row, label in zip(rows[p], tasks[f'{p}_y'][i], strict=True):
        assert classes.setdefault(label, row // 5) == row // 5
    assert len(set(classes.values())) == 3


def test_the_losses_are_those_of_the_two_sets():
  tasks = family(reduction='sum')
  theta = jax.jit(tasks.init)(seeds.key(0))
  task = jax.tree.map(
    lambda x: jnp.asarray(x[0]), tasks.sample(seeds.rng(3), 1)
  )
  pictures = jnp.asarray(np.float32(task['query_x']) / 255)
  logits = jax.jit(tasks.network.apply)(theta, pictures)
  logs = special.log_softmax(logits, axis=-1)
  wanted = -logs[np.arange(9), task['query_y']].sum()
  problem, mean = tasks.problem, family().problem
  losses = problem.outer_loss, mean.outer_loss, problem.inner_loss
  run = jax.jit(lambda theta, task: [f(theta, theta, task) for f in losses])
  *found, inner = run(theta, task)
  np.testing.assert_allclose(found, [wanted, wanted / 9], rtol=1e-5)
  assert inner != wanted


def test_evaluation_is_the_same_each_time():
  tasks = family()
  theta = jax.jit(tasks.init)(seeds.key(0))
  judges = tasks.evaluators(ufom.Inner(2, 0.1))
  scores = [judges['test'](theta) for _ in range(2)]
  assert scores[0] == scores[1]
  assert [*scores[0]] == [*tasks.scores]
  assert 0 <= scores[0]['accuracy'] <= 1
  assert scores[0]['accuracy_error'] >= 0


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='train: a task needs 3 classes with 6'):
    family(shots=3)
  with pytest.raises(ValueError, match='must be positive'):
    family(shots=0)
  with pytest.raises(ValueError, match='form'):
    networks.convolve(jnp.zeros((1, 3, 3, 1)), jnp.zeros((3, 3, 1, 1)), 0)
