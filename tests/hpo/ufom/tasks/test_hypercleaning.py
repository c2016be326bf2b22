"""Hyper-cleaning: labels, scores, and what first order cannot see."""

import functools

import jax
import numpy as np
import pytest

from hpo import ufom
from hpo.ufom import training
from hpo.ufom.tasks import hypercleaning
from runtime.data import images as images_lib
from tests import marks, seeds


def part(count, seed):
  """Three classes of noisy pictures with 2x2 pixels."""
  rng = seeds.rng(seed)
  labels = rng.integers(3, size=count).astype(np.int32)
  images = 0.2 + 0.1 * rng.random((count, 4)).astype(np.float32)
  images[np.arange(count), labels] += 0.6
  return images_lib.ImageSet(images=images.reshape(-1, 2, 2), labels=labels)


@functools.cache
def family(**options):
  images = images_lib.Images(
    train=part(160, 0), test=part(50, 1), num_classes=3
  )
  return hypercleaning.HyperCleaning(
    images, **{'num_train': 80, 'num_valid': 80, **options}
  )


def test_labels_are_redrawn():
  tasks = family()
  wrong = tasks.wrong
  # Half are drawn, two thirds of which become wrong.
  assert abs(wrong.mean() - 1 / 3) < 0.2
  assert not family(redrawn=0.0).wrong.any()
  rows = [split.x for split in tasks.splits.values()]
  assert [len(x) for x in rows] == [80, 80, 50]
  both = {x.tobytes() for x in rows[0]} & {x.tobytes() for x in rows[1]}
  assert not both


@pytest.mark.parametrize('learn_start', [False, *marks.slow(True)])
def test_learns_who_is_wrong_and_first_order_does_not(learn_start):
  tasks = family(learn_start=learn_start)
  inner = ufom.Inner(10, 2.0, mode='store')
  outer = hypercleaning.optimizer(logits=100.0)
  judge = tasks.evaluators(inner)['test']
  ends = {}
  for q in (0.0, 0.3):
    trainer = training.Trainer(tasks, inner, outer, q)
    state = trainer.init(0)
    step = jax.jit(
      lambda state, t=trainer: t.step(state, {'number': np.zeros(1)})
    )
    for _ in range(60):
      state, _ = step(state)
    ends[q] = state, judge(state.theta)
  first, some = ends[0.0], ends[0.3]
  assert not np.asarray(first[0].theta['logits']).any()
  assert {*some[1]} == {*tasks.scores}
  assert some[1]['auc'] > 0.95
  assert some[1]['valid_loss'] < first[1]['valid_loss']
  if learn_start:
    assert np.abs(first[0].theta['start']['w']).max() > 0


def test_area_under_curve():
  rng = seeds.rng(0)
  scores = rng.integers(6, size=40).astype(np.float64)
  positive = rng.random(40) < 0.4
  positive[:2] = True, False
  pairs = scores[positive][:, None] - scores[~positive]
  wanted = (np.sign(pairs) + 1).mean() / 2
  found = hypercleaning.area_under_curve(scores, positive)
  np.testing.assert_allclose(found, wanted)
  with pytest.raises(ValueError, match='both kinds'):
    hypercleaning.area_under_curve(scores, np.ones(40, bool))


def test_too_few_pictures_are_refused():
  with pytest.raises(ValueError, match='too few'):
    family(num_train=100)
  with pytest.raises(ValueError, match='redrawn'):
    family(redrawn=1.5)
