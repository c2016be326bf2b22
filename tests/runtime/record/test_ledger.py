"""Rows of the ledger, and the page made from them."""

import csv
import dataclasses
import json
import pathlib

import pytest

from runtime.record import ledger

ROOT = pathlib.Path(__file__).resolve().parents[3]

ROW = ledger.Row(
  id='table_1-favor',
  paper='2009.14794',
  claim='FAVOR is as accurate as exact attention.',
  scale='tiny',
  hardware='2 CPU cores',
  seeds=(0, 1, 2),
  ours={'FAVOR': (0.31, 0.32, 0.33), 'baseline': (0.25,)},
  published=ledger.Published(0.3142, 'arXiv:2009.14794, Table 2'),
  trend='FAVOR > baseline',
  verdict='holds',
  command='python -m papers x row --scale tiny',
  commit='0123abc-dirty',
  minutes=12.5,
)


def test_row_survives_the_file(tmp_path):
  path, comma = ledger.write(ROW, tmp_path)
  assert path == tmp_path / '2009.14794' / 'table_1-favor.json'
  assert ledger.read(path) == ROW
  assert ledger.read_all(tmp_path) == [ROW]
  with comma.open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert [row['seed'] for row in rows] == ['0', '1', '2', '']
  assert [float(row['value']) for row in rows] == [0.31, 0.32, 0.33, 0.25]


@pytest.mark.parametrize(
  'published',
  [
    'not found',
    ledger.Published('about 30 %', 'Figure 4'),
    ledger.Published({'a': 1.0, 'b': 2.5}, 'Table 1'),
  ],
)
def test_kinds_of_published_figures(tmp_path, published):
  row = dataclasses.replace(ROW, published=published)
  path, _ = ledger.write(row, tmp_path)
  assert ledger.read(path) == row


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'id': 'a/b'}, 'id must be a file name'),
    ({'paper': 'Paper'}, 'paper must be a file name'),
    ({'claim': ''}, 'claim must not be empty'),
    ({'scale': 'large'}, 'scale must be'),
    ({'seeds': ()}, 'seeds must differ'),
    ({'seeds': (0, 0, 1)}, 'seeds must differ'),
    ({'seeds': (0, 1, 2.5)}, 'seeds must be'),
    ({'ours': {}}, 'at least one label'),
    ({'ours': {'a': (1.0, 2.0)}}, r'len\(values\)=2 len\(row.seeds\)=3'),
    ({'ours': {'a': (1.0, 2.0, float('nan'))}}, 'not finite'),
    ({'ours': {'a': 1.0}}, 'ours must be'),
    ({'published': 'unknown'}, 'published must be'),
    ({'verdict': 'yes'}, 'verdict must be'),
    ({'verdict': 'fails'}, 'needs an explanation'),
    ({'commit': 'main'}, 'not a commit'),
    ({'minutes': -1.0}, 'not a duration'),
    ({'minutes': float('inf')}, 'not a duration'),
    ({'minutes': '3'}, 'minutes must be'),
  ],
)
def test_row_is_checked_on_write_and_on_read(tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(ROW, **change)
  path, _ = ledger.write(ROW, tmp_path)
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=message) as caught:
    ledger.read(path)
  assert str(path) in str(caught.value)


def test_file_with_wrong_keys_or_in_a_wrong_place(tmp_path):
  path, _ = ledger.write(ROW, tmp_path)
  data = json.loads(path.read_text())
  del data['trend']
  data['tend'] = 'x'
  path.write_text(json.dumps(data))
  with pytest.raises(ValueError, match=r"\['tend'\] missing=\['trend'\]"):
    ledger.read(path)
  path.write_text('[1, 2')
  with pytest.raises(ValueError, match=path.name):
    ledger.read(path)
  path.write_text('[1, 2]')
  with pytest.raises(ValueError, match='a row is an object, got list'):
    ledger.read(path)
  moved = path.with_name('other.json')
  moved.write_text(json.dumps(dataclasses.asdict(ROW)))
  with pytest.raises(ValueError, match=r'holds the row 2009\.14794/table_1'):
    ledger.read(moved)


def test_page_shows_numbers_marks_and_pictures(tmp_path):
  root = tmp_path / 'results'
  failing = dataclasses.replace(
    ROW,
    id='table_2',
    verdict='fails',
    explanation='The sample is too small.',
    published='not found',
  )
  ledger.write(ROW, root)
  ledger.write(failing, root)
  ledger.write(dataclasses.replace(ROW, paper='iap'), root)
  (root / '2009.14794' / 'table_1-favor.png').write_bytes(b'png')
  text = ledger.render(root)
  fronts = [[c.strip() for c in line.split('|')] for line in text.splitlines()]
  assert ['', '[2009.14794](#200914794)', '2', '1', '1', '0', ''] in fronts
  assert ['', 'all', '3', '2', '1', '0', ''] in fronts
  assert text.index('## 2009.14794') < text.index('## iap')
  assert '| FAVOR: 0.32 ± 0.01 |' in text  # One figure in the table,
  assert ['', 'baseline', '0.25', ''] in fronts  # all of them below.
  assert '- Published: 0.3142 (arXiv:2009.14794, Table 2)' in text
  assert '✗ fails' in text
  assert '- Explanation: The sample is too small.' in text
  assert text.count('](results/2009.14794/table_1-favor.png)') == 1
  assert '](#200914794-table_1-favor)' in text
  assert '### 2009.14794 table_1-favor' in text
  page = ledger.write_page(root)
  assert page == tmp_path / 'results.md'
  assert page.read_text() == text


def test_page_of_this_repository_is_current():
  root = ROOT / 'docs' / 'results'
  if not ledger.read_all(root):
    pytest.skip('the ledger has no rows yet')
  assert (ROOT / 'docs' / 'results.md').read_text() == ledger.render(root)
