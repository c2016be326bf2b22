"""What the ES benchmark compares is equal."""

import jax.numpy as jnp
import pytest

from benchmarks import es


def test_both_rollouts_agree_and_others_are_refused(monkeypatch):
  task = es.Pendulum(es.Sizes(steps=12), hidden=(4,))
  assert task.check() is None
  monkeypatch.setattr(task, 'returns', lambda params, key: jnp.zeros(()))
  assert 'result is off by' in task.check()


@pytest.mark.slow
def test_missing_peers_are_said(quick, monkeypatch):
  def absent(name):
    raise es.programs.MissingError(f'{name} cannot be imported')

  monkeypatch.setattr(es.programs, 'peer', absent)
  results, rows = quick(es.SUBJECT, peers=True)
  assert {x['form'] for x in results.left_out} == {
    'evosax in one scan', 'evosax in a Python loop', 'ours', 'evojax',
  }  # fmt: skip
  assert set(rows) == {'pendulum, ours', 'memory of a generation, ours'}
  assert rows['pendulum, ours'].ours > 0
  memory = rows['memory of a generation, ours'].extras
  assert memory['temporary_bytes'] > 0
