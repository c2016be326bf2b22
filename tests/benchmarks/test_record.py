"""One schema for all results, the bars in it, and the program that reads it."""

import dataclasses
import json
import sys
import types

import pytest

from benchmarks import __main__ as program
from benchmarks import harness, programs, record
from runtime.record import pictures

ROWS = (
  record.Row('pair', 1.0, 2.0, 0.5, record.Bar(at_most=0.6), {'turns': 3}),
  record.value_row('alone', 7.0, at_least=8),
  record.value_row('both clocks', [3.0, 1.0], at_least=2, both=True),
  record.value_row('wall decides', [3.0, 1.0], at_least=2),
  record.value_row('open', None, at_most=1),
  record.value_row('no bar', 5.0),
)


def document(rows=ROWS, **details):
  return record.Document(
    'test', 'cpu', {'jax': '1'}, 'abc', {'before': 0.5}, list(rows), details
  )


def test_what_is_written_is_read(tmp_path):
  before = document(date='2026-01-01', left_out=[])
  path = record.write(before, tmp_path / 'results' / 'test.json')
  assert record.read(path) == before
  line = json.loads(path.read_text())['rows'][0]
  assert line == {
    'case': 'pair', 'ours': 1.0, 'peer': 2.0, 'ratio': 0.5,
    'bar': {'at_most': 0.6}, 'turns': 3,
  }  # fmt: skip


def test_bars_judge_their_columns():
  assert [row.met() for row in ROWS] == [True, False, False, True, None, None]
  assert ROWS[2].judged() == {'ours': 3.0, 'cpu': 1.0}
  assert not record.value_row('nan', float('nan'), at_most=1).met()
  found = document()
  assert [found.count(met) for met in (True, False, None)] == [2, 2, 1]
  assert record.missed(found, 'file') == [
    {'name': 'file', 'case': 'alone', 'value': 7.0, 'bar': 'at least 8'},
    {'name': 'file', 'case': 'both clocks', 'value': 1.0, 'bar': 'at least 2'},
  ]


@pytest.mark.parametrize(
  ('change', 'rule'),
  [
    ({'rows': [{'case': 'x'}]}, 'a row needs ours'),
    ({'rows': [ROWS[0].to_json() | {'ours': 'fast'}]}, 'a row needs ours'),
    ({'rows': [ROWS[0].to_json() | {'bar': {'below': 1}}]}, 'a bar has no'),
    ({'rows': [ROWS[0].to_json() | {'bar': {}}]}, 'either at_most or at_least'),
    ({'speed': 3}, r"a record has no \['speed'\]"),
  ],
)
def test_a_file_of_another_form_is_refused(tmp_path, change, rule):
  path = record.write(document(), tmp_path / 'test.json')
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=rule):
    record.read(path)


def test_an_incomplete_file_and_an_infinite_number_are_refused(tmp_path):
  path = tmp_path / 'test.json'
  path.write_text('{"name": "test"}')
  with pytest.raises(ValueError, match=r"test.json: a record needs \['commit'"):
    record.read(path)
  with pytest.raises(ValueError, match='not JSON compliant'):
    record.write(document([record.Row('x', float('inf'))]), path)


def test_recorded_results_are_of_the_schema():
  paths = sorted(record.RESULTS.glob('*.json'))
  assert {path.stem for path in paths} >= set(program.SUBJECTS)
  for path in paths:
    assert record.read(path).rows, path


def test_check_names_the_bars_that_are_missed(tmp_path, capsys):
  record.write(document(), tmp_path / 'fast.json')
  folder = f'--results={tmp_path}'
  assert program.main(['--check', folder]) == 1
  printed = capsys.readouterr().out
  assert '| fast | both clocks |     1 | at least 2 |' in printed
  assert 'pair' not in printed
  record.write(document(ROWS[:1]), tmp_path / 'fast.json')
  assert program.main(['--check', folder]) == 0
  assert 'all measured bars are met' in capsys.readouterr().out
  # A subject may have several records.
  second = dataclasses.replace(document(), name='loop')
  record.write(second, tmp_path / 'loop_times.json')
  assert program.main(['loop', '--check', folder]) == 1
  assert '| loop_times | both clocks' in capsys.readouterr().out
  with pytest.raises(ValueError, match='no record of rl in'):
    program.main(['rl', '--check', folder])
  with pytest.raises(ValueError, match='no record of a benchmark in nowhere'):
    program.main(['--check', '--results=nowhere'])


def test_records_are_listed(tmp_path, capsys):
  record.write(document(date='2026-01-01'), tmp_path / 'loop.json')
  assert program.main([f'--results={tmp_path}']) == 0
  printed = capsys.readouterr().out
  assert '| loop   | 2026-01-01 | abc' in printed
  assert 'no record of attention' in printed
  assert 'no record of loop' not in printed


@pytest.fixture
def subject(monkeypatch):
  """A subject of one case whose one form takes no time."""
  one = harness.Subject(
    'loop',
    programs.Settings(rounds=1),
    programs.Settings(rounds=2),
    cases=lambda sizes: [f'case {sizes.rounds}'],
    forms=lambda sizes, case: [
      harness.Form('ours', lambda case: programs.Program(lambda: 0), ours=True)
    ],
    summary=lambda sizes, results: [record.value_row('bar', 1.0, at_most=0.5)],
    panels=lambda sizes, results: [
      pictures.LogPanel('panel', 'x', {'line': {1: 2.0, 4: 3.0}})
    ],
    settings=programs.Settings(rounds=1, pause=0.0),
  )
  module = types.SimpleNamespace(SUBJECT=one)
  monkeypatch.setitem(sys.modules, 'benchmarks.loop', module)
  return one


@pytest.mark.pictures
def test_a_whole_run_is_recorded_with_its_picture(subject, tmp_path, capsys):
  assert program.main(['loop', f'--results={tmp_path}', '--note=as is']) == 0
  found = record.read(tmp_path / 'loop.json')
  assert [row.case for row in found.rows] == ['case 1, ours', 'bar']
  assert found.details['notes'] == 'as is'
  assert found.details['sizes']['rounds'] == 1
  assert (tmp_path / 'loop.png').stat().st_size > 5_000
  printed = capsys.readouterr().out
  assert 'at most 0.5' in printed
  assert '== case 1' in printed


def test_a_quick_or_partial_run_replaces_no_record(subject, tmp_path, capsys):
  for extra in (['--quick'], ['case'], ['--set', 'seconds=1']):
    assert program.main(['loop', f'--results={tmp_path}', *extra]) == 0
  assert list(tmp_path.iterdir()) == []
  assert '== case 2' in capsys.readouterr().out
  out = tmp_path / 'mine.json'
  program.main(['loop', '--quick', f'--out={out}'])
  assert record.read(out).details['sizes']['rounds'] == 2


def test_a_run_without_its_peers_replaces_no_record(
  subject, tmp_path, monkeypatch
):
  form = harness.Form(
    'peer', lambda case: programs.Program(lambda: 0), peer=True
  )
  one = dataclasses.replace(subject, forms=lambda sizes, case: [form])
  module = types.SimpleNamespace(SUBJECT=one)
  monkeypatch.setitem(sys.modules, 'benchmarks.loop', module)
  assert program.main(['loop', f'--results={tmp_path}']) == 0
  assert list(tmp_path.iterdir()) == []
  assert program.main(['loop', f'--results={tmp_path}', '--peers']) == 0
  assert (tmp_path / 'loop.json').exists()


@dataclasses.dataclass(frozen=True)
class Fields:
  numbers: tuple[int, ...] = (1, 2)
  inner: programs.Settings = programs.Settings()
  name: str = 'a'


def test_a_setting_is_read_as_the_type_of_its_field():
  read = lambda text: program._replaced(Fields(), text)
  assert read('numbers=3').numbers == (3,)
  assert read('numbers=').numbers == ()
  assert read('inner=4,5').inner == programs.Settings(4, 5.0)
  assert read('name=b').name == 'b'
  with pytest.raises(ValueError, match=r'numbers must be like \(1, 2\)'):
    read('numbers=x')


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['swim'], 'invalid choice'),
    (['loop', 'no such case'], 'no case contains any of'),
    (['loop', '--set', 'speed=1'], "'speed=1' names none of"),
    (['loop', '--set', 'rounds=many'], 'rounds must be like'),
    (['loop', '--set', 'rounds=1.5'], 'rounds must be like'),
    (['loop', '--set', 'rounds=0'], 'rounds must be positive'),
    (['loop', '--check', '--quick'], 'leave --check out'),
    (['--peers'], 'name a subject'),
  ],
)
def test_a_mistake_on_the_command_line_is_told(subject, words, message, capsys):
  with pytest.raises(SystemExit):
    program.main(words)
  assert message in capsys.readouterr().err
