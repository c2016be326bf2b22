"""Rows: what is written, what is stale, what the command line says."""

import dataclasses
import pathlib
import pickle
import shlex
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from papers import __main__ as command
from papers import claims, describing, figures, rows, running
from papers import study as study_lib
from runtime.record import ledger
from tests.papers import toy_study as toy

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUDY = study_lib.Study(
  toy.run, {'slow': toy.Setting(1.0), 'fast': toy.Setting(2.0)}
)
ROW = rows.Row(
  id='toy',
  claim='Fast is faster.',
  study={'tiny': STUDY},
  ours=rows.numbers('curve'),
  unlisted=lambda results: {'spare': [1.0]},
  trend='fast above slow',
  claims=(
    claims.above('fast', than='slow', paired=True),
    claims.Check('spare is one', lambda table: table['spare'][0] == 1),
  ),
  figure=lambda results: [
    figures.Lines(
      lines=[
        figures.Line(arm, range(3), results(arm, 'curve'))
        for arm in results.arms
      ]
    )
  ],
  explain=lambda results: f'Seeds {results.seeds}.',
  headline='fast',
  curves=True,
)
SYSTEM = rows.System('toys', '1', {'toy': ROW})


@pytest.fixture
def options(tmp_path):
  toy.CALLS.clear()
  return running.Options(folder=tmp_path / 'runs', log=lambda text: None)


def publish(row, options, tmp_path, seeds=None, system=SYSTEM):
  return rows.publish(
    row,
    'tiny',
    system=system,
    root=tmp_path / 'results',
    seeds=seeds,
    options=options,
  )


@pytest.mark.pictures
def test_a_row_is_written_with_all_that_tells_it(options, tmp_path):
  written = publish(ROW, options, tmp_path)
  folder = tmp_path / 'results' / '1'
  assert ledger.read(folder / 'toy.json') == written
  assert written.seeds == (0, 1, 2)
  assert set(written.ours) == {'fast', 'slow'}
  found = running.run(STUDY, range(3), options)
  np.testing.assert_allclose(written.ours['fast'], found('fast', 'value'))
  assert written.verdict == 'holds'
  first, second = written.findings
  assert first.startswith('fast minus slow: +1 [+1, +1] paired')
  assert second == 'spare is one: holds'
  assert written.settings['fast'] == describing.describe(toy.Setting(2.0))
  assert written.explanation == 'Seeds (0, 1, 2).'
  assert written.headline == 'fast'
  assert written.date == found.date >= '2026'
  assert shlex.split(written.command) == [
    *('python', '-m', 'papers', 'toys', 'toy', '--scale', 'tiny'),
    *('--seeds', '3'),
  ]
  assert (folder / 'toy.png').stat().st_size > 5_000
  assert len((folder / 'toy-curves.csv').read_text().splitlines()) == 19
  assert rows.write_page(tmp_path / 'results').read_text().count('toy.png') == 1
  assert (tmp_path / 'results' / ledger.CONTACT_SHEET).exists()


def test_other_seeds_and_none(options, tmp_path):
  assert publish(ROW, options, tmp_path, seeds=2).seeds == (0, 1)
  exact = dataclasses.replace(
    ROW,
    study=study_lib.Study(toy.measure, {'p': 2}, seeds=None, at=(2, 4)),
    ours=lambda results: {'p': results('p', 'value', at=4)},
    claims=(claims.close('p', to=16.0, within=1e-9),),
    figure=lambda results: [figures.Bars(names=['p'], groups={'': [16]})],
    headline='',
  )
  written = publish(exact, options, tmp_path)
  assert (written.seeds, written.verdict) == ((0,), 'holds')
  assert '--seeds' not in written.command
  with pytest.raises(ValueError, match='so no seeds: 3'):
    publish(exact, options, tmp_path, seeds=3)
  with pytest.raises(ValueError, match=r"no scale 'paper', only \['tiny'\]"):
    ROW.at_scale('paper')


def test_the_choice_of_trials_is_told(options, tmp_path):
  trials = study_lib.Trials(
    'rate', (0.5, 2.0), lambda s: s, lambda record: record['value'], (7,)
  )
  study = dataclasses.replace(STUDY, trials=trials)
  row = dataclasses.replace(ROW, study=study, claims=lambda table: (
    claims.above('fast', than='slow', margin=-np.mean(table['fast'])),
  ))  # fmt: skip
  written = publish(row, options, tmp_path)
  assert written.settings['slow']['rate'] == 2.0
  assert 'Short runs with seeds (7,) chose the rate' in written.explanation
  assert 'slow 2.0 (0.5: 0.' in written.explanation
  assert not row.is_stale(written)


def test_a_changed_setting_makes_a_row_stale(options, tmp_path):
  written = publish(ROW, options, tmp_path)
  assert not ROW.is_stale(written)
  arms = STUDY.arms | {'slow': toy.Setting(1.0, noise=0.2)}
  changed = dataclasses.replace(
    ROW, study={'tiny': dataclasses.replace(STUDY, arms=arms)}
  )
  assert changed.is_stale(written)
  assert not changed.is_stale(dataclasses.replace(written, settings={}))
  # Recorded before there was a setting, which has its default.
  older = {
    arm: {name: x for name, x in found.items() if name != 'noise'}
    for arm, found in written.settings.items()
  }
  before = dataclasses.replace(written, settings=older)
  assert not ROW.is_stale(before)
  assert changed.is_stale(before)


def test_power_of_a_recorded_row(options, tmp_path):
  noisy = {'slow': toy.Setting(1.0, noise=3.0), 'fast': toy.Setting(2, noise=2)}
  row = dataclasses.replace(
    ROW,
    study=study_lib.Study(toy.run, noisy),
    claims=(claims.above('fast', than='slow'), *ROW.claims),
  )
  written = publish(row, options, tmp_path)
  found, pairs = rows.power(row, written)
  assert found['part'].startswith('fast minus slow')
  assert found['decided by'] > found['if paired'] == pairs['decided by'] > 3
  table = command._power([(SYSTEM, row)], {('1', 'toy'): written})
  assert str(found['decided by']) in table


ALL = [(s.name, row) for s in rows.find().values() for row in s.rows.values()]


@pytest.mark.parametrize(
  ('system', 'row'), ALL, ids=[f'{s}-{row.id}' for s, row in ALL]
)
def test_every_row_stands(system, row):
  """Its settings can be described, and its runs tell each other apart."""
  scales = [scale for scale in ('tiny', 'paper') if row.has_scale(scale)]
  assert scales
  for scale in scales:
    study = row.at_scale(scale)
    described = [describing.describe(s) for s in study.arms.values()]
    # The audit joins the studies of other rows, some of which share runs.
    if row.id != 'precision-audit':
      assert len({describing.digest(d) for d in described}) == len(study.arms)
    for fixed in study.fixed.values():
      describing.describe(fixed)
  if 'tiny' not in scales:
    return  # Its files do not ship, so that it is not recorded.
  system = rows.find()[system]
  path = ROOT / f'docs/results/{system.paper}/{row.id}.json'
  recorded = ledger.read(path)
  assert recorded.command.startswith(f'python -m papers {system.name} {row.id}')
  assert recorded.claim == row.claim
  assert recorded.trend == row.trend
  assert row.headline in {'', *recorded.ours}


def test_functions_of_settings_can_be_sent_to_a_process():
  sent = jnp.abs, jnp.tanh, nn.relu, optax.adam(0.1), nn.initializers.normal()
  found = pickle.loads(running._sent(*sent))
  # By name, so that a function which is compared by identity stays itself.
  assert all(a is b for a, b in zip(sent[:3], found[:3], strict=True))
  assert describing.describe(found[3]) == describing.describe(sent[3])


@pytest.mark.slow
def test_a_process_can_be_sent_every_run():
  # In a process of its own: tests wrap functions, which cannot be sent then.
  text = """
import pickle
from papers import describing, rows, running
for system in rows.find().values():
  for row in system.rows.values():
    for scale in ('tiny', 'paper'):
      for value in row.at_scale(scale).arms.values() if row.has_scale(scale) else ():
        [found] = pickle.loads(running._sent(value))
        assert describing.describe(found) == describing.describe(value), row.id
print('all')
"""
  done = subprocess.run(
    [sys.executable, '-c', text], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout == 'all\n', done.stderr


def test_other_claims_make_a_row_stale(options, tmp_path):
  written = publish(ROW, options, tmp_path)
  assert not ROW.is_stale(written)
  other = claims.above('fast', 'slow', margin=-0.1)
  assert dataclasses.replace(ROW, claims=[other]).is_stale(written)
  before = dataclasses.replace(written, findings=())  # As rows once were.
  assert not dataclasses.replace(ROW, claims=[other]).is_stale(before)
  made = dataclasses.replace(
    ROW, claims=lambda table: [claims.above(x, than=-9.0) for x in table]
  )
  # Made for numbers that the record does not list, such as `spare`.
  assert not made.is_stale(written)


def test_only_the_ledger_of_the_workspace_changes_its_readme(options, tmp_path):
  text = f'{rows._BEGIN}\n{rows._END}\n'
  for folder in ('docs/results', 'other/results'):
    readme = tmp_path / folder.partition('/')[0] / '..' / 'README.md'
    readme.parent.mkdir(parents=True, exist_ok=True)
    readme.write_text(text)
    (tmp_path / folder).mkdir(parents=True)
    rows.write_page(tmp_path / folder)
    assert (readme.read_text() == text) == folder.startswith('other')


def run(*words):
  command.main(words)


def test_the_command_runs_lists_and_continues(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(rows, 'find', lambda: {'toys': SYSTEM})
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    running.provenance, 'short_commit', lambda: '0123456789ab'
  )
  root = f'--root={tmp_path / "results"}'
  (tmp_path / 'results').mkdir()
  run(root)
  assert 'missing' in capsys.readouterr().out
  toy.CALLS.clear()
  run('toys', 'toy', '--seeds=2', root)
  out = capsys.readouterr().out
  assert '[1/4] slow, seed 0: ' in out
  assert 'minutes left' in out
  assert 'toy: holds' in out
  run(root)
  assert '✓ holds' in capsys.readouterr().out
  assert len(toy.CALLS) == 4
  run('--all', root)  # Nothing is missing or stale.
  run('toys', 'toy', root)  # One more seed.
  assert len(toy.CALLS) == 6
  run('toys', 'toy', '--fresh', root)
  assert len(toy.CALLS) == 12
  run('power', root)
  assert 'no row is open' in capsys.readouterr().out
  (tmp_path / 'results.md').unlink()
  run('page', root)
  assert (tmp_path / 'results.md').read_text() == ledger.render(
    tmp_path / 'results'
  )


def test_power_reads_every_recorded_row(capsys):
  """Some rows were recorded without labels that their claims name."""
  run('power', f'--root={ROOT / "docs" / "results"}')
  assert 'decided by' in capsys.readouterr().out


def test_all_runs_what_is_missing_or_stale(monkeypatch, tmp_path):
  done = []
  monkeypatch.setattr(rows, 'find', lambda: {'toys': SYSTEM})
  monkeypatch.setattr(
    command, '_run', lambda chosen, args: done.append([r.id for _, r in chosen])
  )
  root = f'--root={tmp_path}'
  run('--all', root)
  run('--all', '--scale=paper', root)  # It has no such scale.
  assert done == [['toy'], []]
  assert command._is_due(ROW, None, 'tiny')


@pytest.mark.parametrize(
  ('words', 'message'),
  [
    (['toy'], "no system is called 'toy': toys?"),
    (['toys', 'boy'], "no row of toys is called 'boy': toy?"),
    (['page', 'toy'], 'page takes no row'),
    (['power', '--all'], 'power takes no row'),
    (['toys', '--fresh'], '--workers and --ray_address need a row'),
    (['page', '--scale=tiny'], '--scale, --seeds, --fresh'),
    (['page', '--root=resluts'], '--root: there is no folder resluts'),
    (['--all', '--seeds=2'], '--seeds is for one row'),
    (['toys', 'toy', '--seeds=0'], 'must be positive, got 0'),
    (['toys', 'toy', '--workers=few'], 'invalid positive value'),
    (['toys', 'toy', '--scale=huge'], 'invalid choice'),
    (['toys', 'toy', '--scale=paper'], "toy has no scale 'paper'"),
  ],
)
def test_bad_words_are_refused(monkeypatch, capsys, words, message):
  monkeypatch.setattr(rows, 'find', lambda: {'toys': SYSTEM})
  with pytest.raises(SystemExit, match='2'):
    run(*words)
  assert message in capsys.readouterr().err


def test_ids_are_unique(monkeypatch):
  package = rows.importlib.import_module('papers.ufom')
  monkeypatch.setattr(
    rows.importlib,
    'import_module',
    lambda name: types.SimpleNamespace(ROWS=(ROW, ROW)),
  )
  with pytest.raises(ValueError, match="two rows of ufom are called 'toy'"):
    rows._system(package)
