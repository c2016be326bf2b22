"""Ask and tell, and the command that tunes a function."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import asking, suggesting, trained, tune
from hpo.optformer.examples import forest
from runtime.record import workdirs

SPACE = spaces.Space(
  (
    spaces.Float('rate', 1e-3, 1.0, 'LOG'),
    spaces.Categorical('kind', ('p', 'q', 'r')),
  )
)
PROBLEM = studies.Problem(SPACE, 'MINIMIZE')
POLICY = suggesting.Policy(num_candidates=8)


def loss(rate, kind):
  return float('nan') if kind == 'r' else rate + (kind == 'q')


def test_ask_and_tell(made):
  optimizer = asking.Optimizer(made, PROBLEM, policy=POLICY)
  assert optimizer.best is None
  points = optimizer.ask(2)
  points += optimizer.ask()
  assert len({tuple(point.values()) for point in points}) == 3
  assert optimizer.running == points
  optimizer.tell(points[1], 2.0)
  optimizer.tell(points[0], None)
  optimizer.tell({'rate': 0.5, 'kind': 'q'}, 1.0)
  assert optimizer.running == points[2:]
  assert optimizer.best.parameters == {'rate': 0.5, 'kind': 'q'}
  statuses = [trial.status for trial in optimizer.trials]
  assert statuses == ['COMPLETED', 'INFEASIBLE', 'COMPLETED']
  # A new one that knows the trials goes on alike.
  optimizer.running.clear()
  again = asking.Optimizer(
    made, PROBLEM, policy=POLICY, trials=optimizer.trials
  )
  assert again.ask() == optimizer.ask()
  for point, value, message in (
    ({'rate': 0.5}, 1.0, 'missing'),
    ({'rate': 0.5, 'kind': 'q'}, float('nan'), 'finite'),
  ):
    with pytest.raises(ValueError, match=message):
      optimizer.tell(point, value)


def test_what_is_told_becomes_plain(made):
  pending = studies.Trial({'rate': 0.25, 'kind': 'p'}, None, 'PENDING')
  done = studies.Trial({'rate': 0.5, 'kind': 'q'}, 1.0)
  optimizer = asking.Optimizer(
    made, PROBLEM, policy=POLICY, trials=[pending, done]
  )
  assert optimizer.trials == [done]
  assert optimizer.running == [pending.parameters]
  optimizer.tell({'rate': np.float64(0.25), 'kind': 'p'}, jnp.float32(0.5))
  assert optimizer.running == []
  assert optimizer.trials[1] == pending._replace(value=0.5, status='COMPLETED')
  assert type(optimizer.best.value) is float
  assert type(optimizer.best.parameters['rate']) is float
  for seed in (-1, 2**32):
    with pytest.raises(ValueError, match='seed'):
      asking.Optimizer(made, PROBLEM, seed=seed)


def test_command_tunes_and_resumes(made, tmp_path, monkeypatch, capsys):
  trained.save(tmp_path / 'model.msgpack', made)
  (tmp_path / 'space.json').write_text(json.dumps(SPACE.to_json()))
  (tmp_path / 'my_objective.py').write_text(
    'def loss(rate, kind):\n'
    "  return float('nan') if kind == 'r' else rate + (kind == 'q')\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  options = [
    '--objective=my_objective:loss',
    f'--space={tmp_path}/space.json',
    f'--model={tmp_path}/model.msgpack',
  ]
  whole, halves = tmp_path / 'whole', tmp_path / 'halves'
  tune.main([*options, f'--output={whole}', '--trials=4'])
  said = capsys.readouterr().out
  assert 'trial 4/4' in said
  assert '| trial' in said
  for trials in (2, 4):
    tune.main([*options, f'--output={halves}', f'--trials={trials}'])
  for name in ('study.jsonl', 'trials.csv', 'trials.md'):
    assert (halves / name).read_bytes() == (whole / name).read_bytes()
  assert (whole / 'incumbent.png').exists()
  [study] = studies.read(whole / 'study.jsonl')
  for trial in study.trials:
    value = loss(**trial.parameters)
    assert trial.value == (None if value != value else value)
  with pytest.raises(ValueError, match='holds another problem'):
    tune.main([*options, f'--output={whole}', '--goal=MAXIMIZE'])
  assert workdirs.read_status(whole)['step'] == 4
  with (
    workdirs.claimed(whole),
    pytest.raises(ValueError, match=f'is in use by process {os.getpid()}'),
  ):
    tune.main([*options, f'--output={whole}', '--trials=5'])
  (whole / 'study.jsonl').write_text('')
  with pytest.raises(ValueError, match='must hold one study, got 0'):
    tune.main([*options, f'--output={whole}'])


def test_a_refused_tuning_leaves_no_folder(tmp_path):
  output = tmp_path / 'deep' / 'tuned'
  with pytest.raises(FileNotFoundError, match=r'none\.msgpack'):
    tune.main(
      [
        '--objective=math:sqrt',
        '--space=hpo.optformer.examples.forest:SPACE',
        f'--model={tmp_path}/none.msgpack',
        f'--output={output}',
      ]
    )
  assert not output.parent.exists()


def test_objectives_and_spaces_by_name(tmp_path, monkeypatch):
  assert tune.load_objective('math:sqrt')(4.0) == 2.0
  for name, message in (
    ('math', 'module:name'),
    ('math:', 'module:name'),
    ('math:no', "no 'no'"),
    ('math:pi', 'must be a function'),
    ('no_such:f', 'cannot import no_such:f: No module'),
    ('math.no:f', "'math' is not a package"),
  ):
    with pytest.raises(ValueError, match=message):
      tune.load_objective(name)
  assert tune.load_space('hpo.optformer.examples.forest:SPACE') == forest.SPACE
  path = tmp_path / 'space.json'
  path.write_text(json.dumps(SPACE.to_json()))
  assert tune.load_space(str(path)) == SPACE
  with pytest.raises(ValueError, match=r'must be a \.json file or'):
    tune.load_space('math:pi')
  for content in (b'{', b'[]', b'\xff'):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'space\.json: '):
      tune.load_space(str(path))
  (tmp_path / 'imports.py').write_text('import no_such_library')
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(ModuleNotFoundError, match='no_such_library'):
    tune.load_objective('imports:f')


def test_values_of_objectives():
  at = lambda value: tune.value_at(lambda x: value, {'x': 1})
  assert at(np.float32(0.5)) == 0.5
  assert [at(x) for x in (math.nan, -math.inf, np.nan)] == [None] * 3
  for value in ({'loss': 1.0}, None, 'good', 10**400):
    with pytest.raises(ValueError, match=r"must return a number.*\{'x': 1\}"):
      at(value)

  def broken(x):
    raise ValueError('inside')

  # Not a ValueError, of which commands show the message alone.
  with pytest.raises(RuntimeError, match=r"failed at \{'x': 1\}") as found:
    tune.value_at(broken, {'x': 1})
  assert str(found.value.__cause__) == 'inside'


def test_reports_of_odd_studies(tmp_path):
  names = ('value', 'best', 'rate')
  space = spaces.Space([spaces.Float(name, 0.0, 1.0) for name in names])
  point = dict.fromkeys(names, 0.5)
  failed = studies.Trial(point, None, 'INFEASIBLE')
  problem = studies.Problem(space)
  tune.report(studies.Study.of(problem, [failed, failed]), tmp_path)
  assert not (tmp_path / 'incumbent.png').exists()
  done = studies.Trial(point, 3.0)
  tune.report(studies.Study.of(problem, [failed, done]), tmp_path)
  head, *rows = (tmp_path / 'trials.csv').read_text().splitlines()
  assert head == 'trial,value,best,value (parameter),best (parameter),rate'
  assert rows[1] == '1,3.0,3.0,0.5,0.5,0.5'
  assert (tmp_path / 'incumbent.png').exists()


def test_the_model_of_the_package(made, tmp_path, monkeypatch):
  path = tmp_path / 'model.msgpack'
  monkeypatch.setattr(trained, 'SHIPPED', path)
  with pytest.raises(FileNotFoundError, match=r'optformer/README\.md'):
    trained.shipped()
  trained.save(path, made)
  assert trained.shipped().tokenizer == made.tokenizer


@pytest.mark.slow
def test_the_model_of_the_package_leaves_what_is_infeasible():
  """Two values of five are; with a token that was never trained it stays there."""
  space = spaces.Space(
    (
      spaces.Float('x', 1e-8, 1e3, 'LOG'),
      spaces.Discrete('n', (1, 3, 5, 7, 9)),
      spaces.Categorical('c', tuple('abcde')),
    )
  )
  problem = studies.Problem(space, 'MINIMIZE')
  optimizer = asking.Optimizer(trained.shipped(), problem)
  for _ in range(30):
    [point] = optimizer.ask()
    value = (math.log10(point['x']) + 3) ** 2 + point['n']
    optimizer.tell(point, None if point['n'] >= 7 else value)
  failed = [trial for trial in optimizer.trials if trial.value is None]
  assert len(failed) < 15


def test_a_forest_on_digits():
  pytest.importorskip('sklearn', reason='extra [hpo]')
  point = {'max_depth': 2, 'min_samples_leaf': 4, 'max_features': 0.1}
  found = forest.accuracy(**point, criterion='gini')
  assert 0.3 < found < 0.95
  assert forest.accuracy(**point, criterion='gini') == found
  forest.SPACE.codes(point | {'criterion': 'gini'})


@pytest.mark.slow
def test_the_example_is_tuned_with_the_model_of_the_package(
  made, tmp_path, monkeypatch, capsys
):
  pytest.importorskip('sklearn', reason='extra [hpo]')
  path = tmp_path / 'model.msgpack'
  monkeypatch.setattr(trained, 'SHIPPED', path)
  trained.save(path, made)
  module = 'hpo.optformer.examples.forest'
  tune.main(
    [
      f'--objective={module}:accuracy',
      f'--space={module}:SPACE',
      '--goal=MAXIMIZE',
      '--trials=2',
      f'--output={tmp_path / "out"}',
    ]
  )
  assert 'trial 2/2' in capsys.readouterr().out
  [study] = studies.read(tmp_path / 'out/study.jsonl')
  assert all(0 < trial.value < 1 for trial in study.trials)
  first = study.trials[0]
  assert forest.accuracy(**first.parameters) == first.value
