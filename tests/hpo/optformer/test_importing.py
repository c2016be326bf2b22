"""Studies of other libraries and of tables, as data."""

import json
import math

import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import datasets, importing

SPACE = spaces.Space(
  (
    spaces.Float('rate', 1e-4, 1.0, 'LOG'),
    spaces.Int('layers', 1, 4),
    spaces.Discrete('width', (8.0, 16.0)),
    spaces.Categorical('kind', ('a', '3')),
  )
)
PROBLEM = studies.Problem(SPACE, 'MINIMIZE', metric='loss')
HEADER = 'task,kind,layers,rate,width,loss,seconds\n'


@pytest.fixture
def table(tmp_path):
  def write(text, header=HEADER):
    path = tmp_path / 'runs.csv'
    path.write_text(header + text)
    return path

  return write


def test_table_of_two_studies(table):
  rows = 'p,a,2,0.1,8,1.5,9\nq,3,4,1e-4,16.0,,9\np,3,1.0,1,16,nan,\n'
  first, second = importing.from_table(table(rows), PROBLEM, study='task')
  assert (first.problem.name, second.problem.name) == ('p', 'q')
  assert first.problem.goal == 'MINIMIZE'
  assert first.trials == [
    studies.Trial({'rate': 0.1, 'layers': 2, 'width': 8.0, 'kind': 'a'}, 1.5),
    studies.Trial(
      {'rate': 1.0, 'layers': 1, 'width': 16.0, 'kind': '3'}, None, 'INFEASIBLE'
    ),
  ]
  assert second.trials[0].status == 'INFEASIBLE'
  [whole] = importing.from_table(table(rows), PROBLEM)
  assert len(whole) == 3


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('p,a,2,0.1,8,much,9', "runs.csv:2: loss must be a number, got 'much'"),
    ('p,a,2.5,0.1,8,1,9', 'runs.csv:2: .*layers'),
    ('p,b,2,0.1,8,1,9', 'runs.csv:2: .*kind'),
    ('p,a,2,7,8,1,9', 'runs.csv:2: .*rate'),
    ('p,a,2', "runs.csv:2: rate must be a number, got ''"),
    pytest.param(
      f'{"p" * 200_000},a,2,0.1,8,1,9', 'runs.csv:.*limit', id='long'
    ),
  ],
)
def test_rows_that_are_no_trials_are_refused(table, row, message):
  with pytest.raises(ValueError, match=message):
    importing.from_table(table(row), PROBLEM)


def test_bytes_that_are_no_text_are_refused(tmp_path):
  path = tmp_path / 'runs.csv'
  for content in (b'\xff', HEADER.encode() + b'\xff,a,2,0.1,8,1,9'):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'runs\.csv.*decode'):
      importing.from_table(path, PROBLEM)


def test_missing_columns_are_named(table):
  path = table('1,2\n', header='rate,loss\n')
  with pytest.raises(ValueError, match=r"\['layers', 'width', 'kind'\] are m"):
    importing.from_table(path, PROBLEM)


def test_command_writes_a_file_to_train_on(table, tmp_path, capsys):
  rng = np.random.default_rng(0)
  rows = [
    f'{task},a,{rng.integers(1, 5)},{rng.uniform(0.1, 1)},8,{rng.random()},0\n'
    for task in ('few', *['many'] * 12)
  ]
  space = tmp_path / 'space.json'
  space.write_text(json.dumps(SPACE.to_json()))
  output = str(tmp_path / 'mine.jsonl')
  common = [f'--space={space}', '--metric=loss', '--goal=MAXIMIZE']
  arguments = ['csv', str(table(''.join(rows))), *common, f'--output={output}']
  importing.main([*arguments, '--study=task'])
  assert 'wrote 1 studies with 12 trials' in capsys.readouterr().out
  [study] = datasets.open_studies(output)
  assert study.problem.goal == 'MAXIMIZE'
  importing.main(arguments)
  [study] = datasets.open_studies(output)  # Not what was there before.
  assert len(study) == 13
  with pytest.raises(ValueError, match='none of 1 studies'):
    importing.main([*arguments[:1], str(table(rows[0])), *arguments[2:]])


def test_databases_of_other_kinds(tmp_path):
  pytest.importorskip('optuna')
  output = f'--output={tmp_path / "mine.jsonl"}'
  junk = tmp_path / 'junk.db'
  junk.write_text('junk' * 400)
  for url, message in (('junk', 'parse'), (f'sqlite:///{junk}', 'not a data')):
    with pytest.raises(ValueError, match=f'is no database of.*{message}'):
      importing.main(['optuna', url, output])
  missing = tmp_path / 'no.db'
  with pytest.raises(FileNotFoundError, match=r'no\.db'):
    importing.main(['optuna', f'sqlite:///{missing}', output])
  assert not missing.exists()
  pytest.importorskip('vizier.service.pyvizier')
  junk.write_text('')
  with pytest.raises(ValueError, match=r'junk\.db is no database'):
    importing.main(['vizier', str(junk), output])
  assert junk.stat().st_size == 0


def test_storage_of_optuna(tmp_path, capsys):
  optuna = pytest.importorskip('optuna')
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  url = f'sqlite:///{tmp_path / "mine.db"}'
  study = optuna.create_study(storage=url, study_name='mine')

  def objective(trial):
    rate = trial.suggest_float('rate', 1e-3, 1.0, log=True)
    trial.suggest_categorical('kind', (None, 2))
    trial.suggest_int('fixed', 3, 3)
    if trial.number == 1:
      raise optuna.TrialPruned
    return math.inf if trial.number == 2 else rate

  study.optimize(objective, n_trials=13)
  study.ask()  # Still runs.
  # What cannot be converted does not stop the others.
  optuna.create_study(storage=url, study_name='empty')
  two = ['minimize', 'maximize']
  optuna.create_study(storage=url, study_name='two', directions=two)
  output = str(tmp_path / 'mine.jsonl')
  importing.main(['optuna', url, f'--output={output}'])
  said = capsys.readouterr().out
  assert 'left out empty: ' in said
  assert 'left out 2' in said
  [found] = datasets.open_studies(output)
  assert (found.problem.name, found.problem.goal) == ('mine', 'MINIMIZE')
  assert found.problem.space.parameters == (
    spaces.Categorical('kind', ('None', '2')),
    spaces.Float('rate', 1e-3, 1.0, 'LOG'),
  )
  assert [t.status for t in found.trials].count('INFEASIBLE') == 2
  for trial, given in zip(found.trials, study.trials, strict=False):
    assert trial.parameters['rate'] == given.params['rate']
    assert trial.parameters['kind'] == str(given.params['kind'])
    assert trial.value in (None, given.value)


def test_database_of_vizier(tmp_path):
  servers = pytest.importorskip(
    'vizier.service.servers', reason='extra [vizier]'
  )
  clients = pytest.importorskip('vizier.service.clients')
  vz = pytest.importorskip('vizier.service.pyvizier')
  from hpo.optformer import vizier

  database = tmp_path / 'studies.db'
  server = servers.DefaultVizierServer(database_url=f'sqlite:///{database}')
  clients.environment_variables.server_endpoint = server.endpoint
  config = vz.StudyConfig.from_problem(vizier.to_statement(PROBLEM))
  config.algorithm = 'RANDOM_SEARCH'
  study = clients.Study.from_study_config(config, owner='me', study_id='one')
  for number, trial in enumerate(study.suggest(count=13)):
    if number == 1:
      trial.complete(vz.Measurement(), infeasible_reason='no')
    elif number < 12:  # The last one still runs.
      trial.complete(vz.Measurement(metrics={'loss': number / 2}))
  output = str(tmp_path / 'mine.jsonl')
  with pytest.raises(ValueError, match="no studies of 'you'"):
    importing.main(
      ['vizier', str(database), '--owner=you', f'--output={output}']
    )
  importing.main(['vizier', str(database), '--owner=me', f'--output={output}'])
  [found] = datasets.open_studies(output)
  # Vizier sorts the values of a category.
  assert found.problem == vizier.to_problem(vizier.to_statement(PROBLEM))
  expected = [0, None, *[number / 2 for number in range(2, 12)]]
  assert [trial.value for trial in found.trials] == expected
  for trial, given in zip(found.trials, study.trials(), strict=False):
    assert trial.parameters == pytest.approx(dict(given.parameters))
