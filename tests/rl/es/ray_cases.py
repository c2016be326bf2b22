"""Evaluators for Ray's workers, which import them."""

import dataclasses
import os
import pathlib
import time

import jax
import numpy as np

from rl.envs import host_vector, spaces
from rl.es import policies, vector_evaluator


class Walk(host_vector.HostVector):
  """x' = x + a, reward -x'^2 + noise of the seed; ends after six steps."""

  def __init__(self, num_lanes):
    super().__init__(
      num_lanes=num_lanes,
      observation_space=spaces.Box((2,), -100.0, 100.0),
      action_space=spaces.Box((1,), -1.0, 1.0),
      resets_at_once=False,
    )

  def _reset(self, seeds):
    draw = [np.random.default_rng(seed).normal(size=2) for seed in seeds]
    self.x, self.noise = np.stack(draw, axis=1)
    self.time = np.zeros(self.num_lanes, int)
    return self._seen()

  def _seen(self):
    return np.stack([self.x, self.time], 1)

  def _step(self, action):
    over = self.time == 6
    self.x = np.where(over, 0.0, self.x + action[:, 0])
    self.time = np.where(over, 0, self.time + 1)
    no = np.zeros(self.num_lanes, bool)
    late = self.time == 6
    return host_vector.Seen(
      self._seen(), -(self.x**2) + self.noise, no, late, {}
    )

  def _close(self):
    pass


def runner(num_lanes=4):
  env = Walk(num_lanes)
  policy = policies.MLP(env.observation_space, env.action_space, hidden=(2,))
  return vector_evaluator.VectorEvaluator(env, policy, episodes=2)


@dataclasses.dataclass(frozen=True, eq=False)
class Fragile(vector_evaluator.VectorEvaluator):
  """Dies, hangs or fails at one direction, once for each mark."""

  mark: str = ''
  at: int = 3
  how: str = 'die'

  def rollouts(self, candidates, keys, normalizer, *, start=0):
    mark = pathlib.Path(self.mark)
    if start == self.at and mark.exists():
      mark.unlink()
      if self.how == 'die':
        os._exit(1)
      if self.how == 'hang':
        time.sleep(1000)
      raise KeyError('a bug')
    return super().rollouts(candidates, keys, normalizer, start=start)


def fragile(**options):
  plain = runner()
  return Fragile(plain.env, plain.policy, plain.episodes, **options)


def broken():
  os._exit(1)


def slow_at_the_start():
  """The first task comes back last."""
  plain = runner()
  return Late(plain.env, plain.policy, plain.episodes)


class Late(vector_evaluator.VectorEvaluator):
  def rollouts(self, candidates, keys, normalizer, *, start=0):
    if start == 0:
      time.sleep(0.5)
    return super().rollouts(candidates, keys, normalizer, start=start)


def normal():
  return jax.tree.map(
    np.float32, (20.0, np.array([0.1, 3.0]), np.array([30.0, 90.0]))
  )
