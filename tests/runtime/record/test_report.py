"""Series, tables and pictures from the rows of runs."""

import builtins
import csv
import re

import numpy as np
import pytest

from runtime.record import pictures as pictures_lib
from runtime.record import report, tables
from runtime.record import series as series_lib

pytestmark = pytest.mark.pictures

ROWS = [
  {'step': 10, 'train/loss': 3.0, 'time/step_s': 0.01},
  {'step': 20, 'train/loss': 2.0, 'time/step_s': 0.02},
  {'step': 20, 'eval/valid/loss': 2.5, 'eval/valid/accuracy': 0.25},
  {'step': 30, 'train/loss': None},
]

drawing = pytest.mark.skipif(
  not pictures_lib.can_draw(), reason='needs the extra `report` (matplotlib)'
)


def _image(path):
  """Pixels of a PNG, [height, width, 4], and a check that it is one."""
  from matplotlib import image

  assert path.read_bytes().startswith(b'\x89PNG')
  return image.imread(path)


def test_series_joins_rows_of_one_scalar():
  steps, values = series_lib.series(ROWS, 'train/loss')
  np.testing.assert_array_equal(steps, [10, 20, 30])
  np.testing.assert_array_equal(values, [3.0, 2.0, np.nan])
  steps, values = series_lib.series(ROWS, 'eval/valid/accuracy')
  assert (list(steps), list(values)) == ([20.0], [0.25])


def test_series_is_ordered_and_the_later_row_counts():
  rows = [{'step': 2, 'a': 1.0}, {'step': 1, 'a': 2.0}, {'step': 2, 'a': 3.0}]
  steps, values = series_lib.series(rows, 'a')
  assert (list(steps), list(values)) == ([1.0, 2.0], [2.0, 3.0])


def test_metric_names_join_train_and_eval():
  assert series_lib.metric_names(ROWS) == ['loss', 'time/step_s', 'accuracy']


def test_summary_ignores_values_that_are_not_finite():
  rows = series_lib.summary_rows(ROWS)
  (loss,) = [row for row in rows if row['metric'] == 'train/loss']
  assert loss['step'] == 30
  assert np.isnan(loss['last'])
  assert (loss['least'], loss['greatest']) == (2.0, 3.0)


def test_table_is_aligned_markdown():
  rows = [
    {'model': 'FAVOR', 'accuracy': 0.123456, 'runs': 3, 'best': True},
    {'model': 'a|b', 'accuracy': None, 'runs': 12},
  ]
  assert tables.table(rows).splitlines() == [
    '| model | accuracy | runs | best |',
    '| ----- | -------: | ---: | ---- |',
    '| FAVOR |   0.1235 |    3 | yes  |',
    '| a\\|b  |        – |   12 | –    |',
  ]
  assert tables.table(rows, ['runs']).splitlines()[2] == '|    3 |'


def test_table_refuses_unknown_columns():
  with pytest.raises(ValueError, match=r"unknown=\['los'\] known=\['loss'\]"):
    tables.table([{'loss': 1}], ['los'])


@pytest.mark.parametrize('rows', [[], [{}]])
def test_a_table_of_nothing_is_a_sentence(rows, tmp_path):
  assert tables.table(rows) == 'There is no result yet.\n'
  _, text = tables.write_table(rows, tmp_path / 'scores')
  assert text.read_text() == 'There is no result yet.\n'


def test_write_table_keeps_full_precision(tmp_path):
  value = 1 / 3
  comma, markdown = tables.write_table(
    [{'a': value, 'b': 'x, "y"'}, {'a': None}], tmp_path / 'new' / 't.v1'
  )
  assert (comma.name, markdown.name) == ('t.v1.csv', 't.v1.md')
  with comma.open(newline='') as file:
    first, second = csv.DictReader(file)
  assert float(first['a']) == value
  assert first['b'] == 'x, "y"'
  assert second == {'a': '', 'b': ''}
  assert '0.3333' in markdown.read_text()


def _runs(seeds, *, rate):
  rng = np.random.default_rng(7)
  return [
    [
      {'step': s, 'train/loss': np.exp(-rate * s) + 0.1 * rng.normal()}
      for s in range(1, 30)
    ]
    for _ in range(seeds)
  ]


@drawing
def test_curves_draw_median_and_range(tmp_path, figures):
  runs = _runs(3, rate=0.1)
  path = tmp_path / 'p' / 'c.png'
  pictures_lib.curves({'FAVOR': runs}, ['loss'], path)
  assert _image(path).std() > 0.01
  (axes,) = figures[0].axes
  (line,) = axes.lines
  values = np.array([[row['train/loss'] for row in run] for run in runs])
  np.testing.assert_allclose(line.get_ydata(), np.median(values, axis=0))
  (band,) = axes.collections
  corners = band.get_paths()[0].vertices
  for step, low, high in zip(
    range(1, 30), values.min(0), values.max(0), strict=True
  ):
    ends = corners[corners[:, 0] == step, 1]
    np.testing.assert_allclose([ends.min(), ends.max()], [low, high])
  assert axes.get_ylabel() == 'loss'


@drawing
def test_curves_put_series_of_a_metric_together(tmp_path, figures):
  names = ['loss', 'time/step_s']
  pictures_lib.curves({'run': [ROWS]}, names, tmp_path / 'c.png')
  loss, time = figures[0].axes
  legend = [text.get_text() for text in loss.get_legend().get_texts()]
  assert legend == ['train', 'valid']
  assert time.get_ylabel() == 'step time (s)'
  assert time.get_ylim()[0] == 0
  assert time.get_legend() is None


@drawing
def test_curves_of_several_settings_tell_them_apart(tmp_path, figures):
  runs = {'FAVOR': _runs(2, rate=0.1), 'exact': _runs(1, rate=0.2)}
  pictures_lib.curves(runs, ['loss'], tmp_path / 'c.png')
  (axes,) = figures[0].axes
  assert [line.get_label() for line in axes.lines] == ['FAVOR', 'exact']
  assert len({line.get_color() for line in axes.lines}) == 2
  assert len(axes.collections) == 1


@drawing
def test_curves_use_the_steps_that_all_runs_have(tmp_path, figures):
  first = [{'step': s, 'train/loss': float(s)} for s in (1, 2, 3)]
  second = [{'step': s, 'train/loss': 2.0 * s} for s in (2, 3, 4)]
  pictures_lib.curves({'a': [first, second]}, ['loss'], tmp_path / 'c.png')
  (line,) = figures[0].axes[0].lines
  np.testing.assert_array_equal(line.get_xdata(), [2, 3])
  np.testing.assert_array_equal(line.get_ydata(), [3.0, 4.5])
  with pytest.raises(ValueError, match='share no step'):
    pictures_lib.curves({'a': [first[:1], second]}, ['loss'], tmp_path / 'd')


def test_curves_name_known_metrics(tmp_path):
  with pytest.raises(ValueError, match=r"unknown=\['los'\].*known=\['loss'"):
    pictures_lib.curves({'run': [ROWS]}, ['los'], tmp_path / 'c.png')
  with pytest.raises(ValueError, match='known='):
    pictures_lib.curves({}, ['loss'], tmp_path / 'c.png')


@drawing
def test_heatmaps_share_one_scale(tmp_path, figures):
  arrays = [np.eye(4), np.full((4, 4), 0.25)]
  path = pictures_lib.heatmaps(arrays, ['exact', 'FAVOR'], tmp_path / 'h.png')
  assert _image(path).ndim == 3
  first, second, _ = figures[0].axes
  assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 1)
  np.testing.assert_array_equal(first.images[0].get_array(), np.eye(4))
  assert (first.get_title(), second.get_title()) == ('exact', 'FAVOR')
  expected = ('key position', 'query position')
  assert (first.get_xlabel(), first.get_ylabel()) == expected


@pytest.mark.parametrize(
  ('arrays', 'titles', 'message'),
  [
    ([], [], 'got 0 matrices and 0 titles'),
    ([np.eye(2)], ['a', 'b'], 'got 1 matrices and 2 titles'),
    ([np.ones(3)], ['line'], r"'line', got matrix.shape=\(3,\)"),
    ([np.full((2, 2), np.nan)], ['bad'], "not a finite matrix: 'bad'"),
  ],
)
def test_heatmaps_refuse(tmp_path, arrays, titles, message):
  with pytest.raises(ValueError, match=message):
    pictures_lib.heatmaps(arrays, titles, tmp_path / 'h.png')


@drawing
def test_run_report_writes_tables_and_pictures(tmp_path):
  rows = [row | {'time/examples': 8 * row['step']} for row in ROWS]
  written = report.run_report(rows, tmp_path / 'r', name='run')
  assert {path.name for path in written} == {
    *('metrics.csv', 'summary.csv', 'summary.md'),
    *('curves.png', 'curves_by_examples.png', 'time.png'),
  }
  assert all(path.parent == tmp_path / 'r' for path in written)
  summary = (tmp_path / 'r' / 'summary.md').read_text()
  assert 'eval/valid/accuracy' in summary
  assert 'time/examples' not in summary


def test_run_report_without_rows(tmp_path):
  with pytest.raises(ValueError, match='needs rows, got none of run'):
    report.run_report([], tmp_path, name='run')


def test_tables_need_no_matplotlib(tmp_path, monkeypatch):
  original = builtins.__import__

  def blocked(name, *args, **kwargs):
    if name.split('.')[0] == 'matplotlib':
      raise ModuleNotFoundError(name)
    return original(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', blocked)
  monkeypatch.setattr(pictures_lib, 'can_draw', lambda: False)
  written = report.run_report(ROWS, tmp_path, name='run', pictures=False)
  assert len(written) == 3
  with pytest.raises(ImportError, match=re.escape('attune[report]')):
    report.run_report(ROWS, tmp_path, name='run')
