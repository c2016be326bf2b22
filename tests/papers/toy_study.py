"""A study of sums and noise, for tests of the mechanism; workers import it."""

import dataclasses
import os
import pathlib

import numpy as np

CALLS = []  # What ran in this process.


@dataclasses.dataclass(frozen=True)
class Setting:
  rate: float = 1.0
  noise: float = 0.1
  broken_from: int = 1000


def run(setting, *, seed, at=1.0):
  CALLS.append((setting, seed, at))
  if seed >= setting.broken_from:
    raise RuntimeError(f'seed {seed} is killed')
  rng = np.random.default_rng(seed)
  curve = setting.rate * at + setting.noise * rng.standard_normal(3)
  return {'curve': curve, 'value': curve[-1], 'process': os.getpid()}


def run_all(setting, *, seeds):
  CALLS.append((setting, seeds))
  return [{'value': setting.rate + seed} for seed in seeds]


def measure(power, *, at):
  return {'value': float(at) ** power}


def baseline(value):
  CALLS.append(value)
  return {'value': value}


def touch(path, *, seed):
  pathlib.Path(path, f'{seed}').touch()
  return {'value': float(seed)}
