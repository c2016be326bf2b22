"""Studies: arrays, dicts and files say the same; errors name the place."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces, studies

SPACE = spaces.Space(
  (spaces.Float('x', 0.0, 1.0), spaces.Categorical('c', ('a', 'b')))
)
TRIALS = [
  studies.Trial({'x': 0.25, 'c': 'b'}, 3.0),
  studies.Trial({'x': 0.5, 'c': 'a'}, None, 'PENDING'),
  studies.Trial({'x': 1.0, 'c': 'a'}, None, 'INFEASIBLE'),
]
PROBLEM = studies.Problem(SPACE, 'MINIMIZE', 'a study', 'loss', 'random')


def test_trials_become_arrays_and_come_back():
  study = studies.Study.of(PROBLEM, TRIALS)
  np.testing.assert_array_equal(study.codes, [[0.25, 1], [0.5, 0], [1, 0]])
  np.testing.assert_array_equal(study.statuses, [0, 1, 2])
  np.testing.assert_array_equal(study.gains, [-3, np.nan, np.nan])
  assert study.trials == TRIALS
  assert study.take([2, 0]).trials == [TRIALS[2], TRIALS[0]]


def test_files_hold_studies(tmp_path):
  path = tmp_path / 'studies.jsonl'
  study = studies.Study.of(PROBLEM, TRIALS)
  studies.write(path, [study, study.take(slice(1))])
  first, second = studies.read(path)
  assert first.problem == PROBLEM
  assert first.trials == TRIALS
  assert second.trials == TRIALS[:1]


def test_records_hold_studies():
  study = studies.Study.of(PROBLEM, TRIALS)
  again = studies.Study.from_bytes(study.to_bytes())
  assert again.problem == PROBLEM
  assert again.trials == TRIALS
  empty = studies.Study.from_bytes(study.take(slice(0)).to_bytes())
  assert empty.trials == []
  with pytest.raises(ValueError, match='take 75 bytes'):
    studies.Study.from_bytes(study.to_bytes()[:-1])


@pytest.mark.parametrize(
  ('trial', 'message'),
  [
    (studies.Trial({'x': 2.0, 'c': 'a'}, 1.0), "trial 0: value of 'x'"),
    (studies.Trial({'x': 0.0, 'c': 'a'}), 'have a value'),
    (studies.Trial({'x': 0.0, 'c': 'a'}, 1.0, 'PENDING'), 'have a value'),
    (studies.Trial({'x': 0.0, 'c': 'a'}, float('inf')), 'finite'),
    (studies.Trial({'x': 0.0, 'c': 'a'}, 1.0, 'DONE'), 'status'),
    (studies.Trial({'x': 0.0, 'c': 'a'}, '1.0'), "must be a number, got '1.0'"),
    (studies.Trial({'x': 0.0, 'c': 'a'}, True), 'must be a number, got True'),
    (studies.Trial({'x': 0.0, 'c': 'a'}, np.ones(2)), 'must be a number'),
    (studies.Trial({'x': 0.0, 'c': 'a'}, 10**400), 'finite'),
  ],
)
def test_trials_that_are_not_legal_are_refused(trial, message):
  with pytest.raises(ValueError, match=message):
    studies.Study.of(PROBLEM, [trial])


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'trials': 5}, 'must be a list'),
    ({'trials': [5]}, 'must be an object, got 5'),
    ({'trials': [{'value': 1.0}]}, "the key 'parameters'"),
    ({'trials': [{'parameters': {}, 'gain': 1.0}]}, 'gain'),
    ({'space': None}, 'list of parameters'),
    ({'name': 3}, 'name'),
    ({'seed': 1}, 'seed'),
  ],
)
def test_malformed_lines_are_refused_by_place(changes, message, tmp_path):
  path = tmp_path / 'studies.jsonl'
  line = studies.Study.of(PROBLEM, []).to_json() | changes
  for text in (json.dumps(line), '[1]', 'null'):
    path.write_text(text)
    with pytest.raises(ValueError, match=r'studies\.jsonl:1: '):
      list(studies.read(path))
  path.write_text(json.dumps(line))
  with pytest.raises(ValueError, match=message):
    list(studies.read(path))


def test_malformed_records_are_refused():
  whole = studies.Study.of(PROBLEM, TRIALS).to_bytes()
  for record, message in (
    (b'', 'Expecting value'),
    (b'[1]\n', 'must be an object'),
    (b'{}\n', "needs the key 'trials'"),
    (whole.replace(b'"trials": 3', b'"trials": -3'), 'must not be negative'),
    (whole[:-1] + b'\x07', 'statuses must lie in'),
  ):
    with pytest.raises(ValueError, match=message):
      studies.Study.from_bytes(record)


def test_values_may_be_scalars_of_other_libraries():
  point = {'x': 0.5, 'c': 'a'}
  found = [np.float32(2), np.array(3), jnp.float32(4), 5]
  study = studies.Study.of(PROBLEM, [studies.Trial(point, v) for v in found])
  np.testing.assert_array_equal(study.values, [2, 3, 4, 5])


def test_errors_name_file_and_line(tmp_path):
  path = tmp_path / 'studies.jsonl'
  studies.write(path, [studies.Study.of(PROBLEM, TRIALS)])
  with path.open('a') as stream:
    stream.write('{"name": "no space"}\n')
  with pytest.raises(ValueError, match=r'studies\.jsonl:2: .*space'):
    list(studies.read(path))
  path.write_bytes(b'\xff\n')
  with pytest.raises(ValueError, match=r'studies\.jsonl:1: .*decode'):
    list(studies.read(path))
  with pytest.raises(ValueError, match='goal'):
    studies.Problem(SPACE, 'MAX')
