"""The study of a search: its parts, its table, and its resumption."""

import csv
import json

import pytest

from nas.rl_darts import genotype, spaces, study
from tests import experiments
from tests.nas.rl_darts import darts_cases

SHORT = [
  'LOG_EVERY = 1',
  'EVAL_EVERY = 1',
  'STEPS = 1',
  'ITERATIONS_PER_STEP = 1',
  'DEPTHS = (2,)',
  'DENSE = 4',
  'train_levels/lanes.Lanes.num_lanes = 8',
  'test_levels/lanes.Lanes.num_lanes = 8',
  'ppo.PPO.unroll_length = 8',
]


def _write_genotypes(folder, numbers):
  folder.mkdir(parents=True)
  for time, number in numbers.items():
    cell = genotype.discretise(
      darts_cases.logits(spaces.MICRO, number), spaces.MICRO
    )
    text = genotype.Genotype.of({'normal': cell}).to_json()
    (folder / f'iteration_{time:06d}.json').write_text(text)


def test_equal_cells_of_a_search_are_trained_once(tmp_path):
  folder = tmp_path / 'search-seed1'
  _write_genotypes(folder / 'report' / 'genotypes', {2: 0, 4: 0, 8: 1})
  parts = list(study.cells('cell.gin', 1, ('STEPS = 3',), folder))
  assert [part.name for part in parts] == ['cell_000002', 'cell_000008']
  assert [part.kind for part in parts] == ['earlier cells', 'last cell']
  assert {part.seed for part in parts} == {1}
  first = f"GENOTYPE = '{folder}/report/genotypes/iteration_000002.json'"
  assert parts[0].gin_params == ('STEPS = 3', first)


def test_a_row_is_the_last_evaluation(tmp_path):
  part = study.Part('random', 'random.gin', 2)
  name = 'eval/test/episode_return'
  rows = [
    {'step': 1, name: 1.0, f'{name}_agent00': 0.0, f'{name}_agent01': 2.0},
    {'step': 2, name: 3.0, f'{name}_agent00': 5.0, f'{name}_agent01': 1.0},
    {'step': 3, 'time/examples': 768, 'time/train_s': 90.0},
  ]
  part.folder(tmp_path).mkdir()
  lines = '\n'.join(json.dumps(row) for row in rows)
  (part.folder(tmp_path) / 'metrics.jsonl').write_text(lines + '\n')
  assert study.score(part, tmp_path) == {
    'part': 'random',
    'seed': 2,
    'steps': 768,
    'minutes': 1.5,
    'test': 3.0,
    'test, best': 5.0,
  }


def test_the_summary_is_over_seeds():
  """The last cell of a search may have come out long before its end."""
  part = lambda name, seed, kind='': study.Part(name, 'x.gin', seed, (), kind)
  parts = [
    *(part('search', 0), part('cell_000002', 0, 'last cell')),
    *(part('search', 1), part('cell_000002', 1, 'earlier cells')),
    part('cell_000008', 1, 'last cell'),
  ]
  returns = [1.0, 6.0, 3.0, 99.0, 2.0]
  rows = [
    {'part': part.name, 'seed': part.seed, 'minutes': 9.0, 'test': value}
    | {'parameters': 100 * value}
    for part, value in zip(parts, returns, strict=True)
  ]
  found = study.summary(parts, rows)
  assert [(line['part'], line['runs'], line['test']) for line in found] == [
    *(('search', 2, 2.0), ('last cell', 2, 4.0), ('earlier cells', 1, 99.0))
  ]
  assert found[1]['test, quartiles'] == '3, 5'
  assert 'minutes' not in found[0]
  assert found[1]['parameters'] == 400
  assert 'parameters, quartiles' not in found[1]


def test_a_study_needs_a_seed(tmp_path):
  with pytest.raises(ValueError, match='seeds must be positive, got 0'):
    study.main(['--workdir', str(tmp_path), '--seeds', '0'])


@pytest.mark.slow
def test_the_same_command_continues(tmp_path, capsys):
  """Of a finished part nothing is trained again; the rest follows."""
  params = [word for text in SHORT for word in ('--gin_param', text)]
  command = [
    *('--workdir', str(tmp_path), '--seeds', '1', *params),
    *('--search_param', 'ITERATIONS = 1'),
    *('--baseline', 'configs/nas/rl_darts_impala_tiny.gin'),
  ]
  study.main(command)
  timeless = lambda: [
    {k: v for k, v in row.items() if k != 'minutes'}
    for row in csv.DictReader((tmp_path / 'study.csv').open())
  ]
  table, short = timeless(), (tmp_path / 'summary.md').read_text()
  parts = ['search', 'cell_000001', 'rl_darts_impala_tiny']
  assert [row['part'] for row in table] == parts
  assert 'last cell' in short
  supernet, cell, _ = ([float(row[c]) for c in study.COSTS] for row in table)
  assert all(x > y > 0 for x, y in zip(supernet, cell, strict=True))
  folders = sorted(p.parent for p in tmp_path.glob('*/metrics.jsonl'))
  before = [experiments.rows(folder) for folder in folders]
  assert len(before) == 3
  # As if the study had been interrupted after the search.
  lost = tmp_path / 'cell_000001-seed0'
  lost.rename(tmp_path / 'lost')
  study.main(command)
  assert timeless() == table
  assert (tmp_path / 'summary.md').read_text() == short
  assert [experiments.rows(folder) for folder in folders] == before
  assert short in capsys.readouterr().out
