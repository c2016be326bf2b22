"""The loop in memory gives what the loop in a workdir gives."""

import dataclasses

import jax
import numpy as np
import pytest

from runtime import loop
from runtime.loop import durations
from runtime.record import metrics
from tests import experiments, trees


def test_rows_and_state_are_those_of_a_workdir(regression, tmp_path):
  every = durations.Duration(steps=2)
  config = loop.LoopConfig(
    durations.Duration(steps=6), log_every=2, eval_every=every
  )
  made = loop.run(regression(), config, workdir=tmp_path, seed=0)
  driven = loop.drive(regression(), 6, records=3)
  trees.check_same(
    jax.device_get(driven.state.params), jax.device_get(made.state.params)
  )
  joined = {}
  for row in experiments.rows(tmp_path):
    joined.setdefault(row['step'], {}).update(row)
  assert driven.rows == [joined[step] for step in (2, 4, 6)]


def test_going_on_from_a_state_needs_its_position(regression):
  whole = loop.drive(regression(), 5).state
  first = regression()
  half = loop.drive(first, 2).state
  both = loop.drive(first, 3, state=half).state
  trees.check_same(jax.device_get(whole.params), jax.device_get(both.params))


def test_records_may_be_chosen_and_end_a_run(regression):
  driven = loop.drive(regression(), 5, records=(0, 1, 4))
  assert [row['step'] for row in driven.rows] == [0, 1, 4]
  assert driven.step == 5
  assert not any(name.startswith('train/') for name in driven.rows[0])
  assert np.isnan(driven.column('train/loss')[0])
  assert driven.last('train/loss') == driven.column('train/loss')[-1]
  early = loop.drive(
    regression(), 5, records=5, until=lambda row: row['step'] == 2
  )
  assert early.step == len(early.rows) == 2


def test_an_unsound_step_is_named(regression):
  with pytest.raises(metrics.NonFiniteError, match='step 3'):
    loop.drive(regression(poison=3), 5)


@pytest.mark.parametrize(
  ('steps', 'records', 'message'),
  [
    (-1, 1, 'steps must not be negative'),
    (3, 4, 'equally spaced records, got 4'),
    (3, 0, 'equally spaced records, got 0'),
    (3, (1, 5), r'outside the 3 steps: \[5\]'),
  ],
)
def test_records_outside_the_run_are_refused(
  regression, steps, records, message
):
  with pytest.raises(ValueError, match=message):
    loop.drive(regression(), steps, records)


def test_what_precedes_a_step_happens(regression):
  seen = []
  experiment = dataclasses.replace(
    regression(),
    refresh=lambda state: state.replace(key=jax.random.key(9)),
    refresh_every=2,
    observe=lambda state: seen.append(int(state.step)),
  )
  driven = loop.drive(experiment, 3)
  assert seen == [0, 1, 2]
  assert jax.random.key_data(driven.state.key).tolist() == [0, 9]
