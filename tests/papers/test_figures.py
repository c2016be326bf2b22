"""Pictures of rows: what is drawn, and the tables beside them."""

import csv

import numpy as np
import pytest
from matplotlib import figure, image

from papers import figures
from papers import study as study_lib
from runtime.record import pictures as pictures_lib

pytestmark = pytest.mark.pictures

X = [1, 2, 4]


class Recorder:
  """Axes that note what is drawn on them."""

  def __init__(self):
    self.calls = []

  def __getattr__(self, name):
    def call(*args, **options):
      self.calls.append((name, args, options))

    return call

  def named(self, name):
    return [(args, options) for n, args, options in self.calls if n == name]


@pytest.mark.parametrize(
  ('spread', 'lines', 'bands'),
  [
    ('each', 3, 0),
    ('pooled', 1, 0),
    ('mean', 4, 0),
    ('range', 1, 1),
    ('quartiles', 1, 1),
  ],
)
def test_runs_as_lines_or_bands(spread, lines, bands):
  axes = Recorder()
  y = np.array([[1, 2, 3], [3, 4, 5], [8, 9, 10]])
  figures._draw_line(axes, figures.Line('a', X, y, spread), 'red')
  assert len(axes.named('plot')) == lines
  assert len(axes.named('fill_between')) == bands
  labels = [options['label'] for _, options in axes.named('plot')]
  assert labels.count('a') == 1
  *_, (args, _) = axes.named('plot')
  if spread in ('mean', 'pooled'):
    np.testing.assert_allclose(args[1], [4, 5, 6])
  if spread == 'range':
    np.testing.assert_allclose(args[1], [3, 4, 5])
    band, _ = axes.named('fill_between')[0]
    np.testing.assert_allclose(band[1:], [[1, 2, 3], [8, 9, 10]])


def test_a_colour_that_comes_again_is_hollow_and_dashed():
  axes = figure.Figure().subplots()
  lines = [
    figures.Line(str(i), X, X, style='o-')
    for i in range(len(pictures_lib.COLORS) + 1)
  ]
  figures.Lines(lines=[*lines, figures.Line('', X, X, style='o')]).draw(axes)
  first, *_, again, points = axes.lines
  assert first.get_color() == again.get_color()
  looks = [
    (x.get_linestyle(), x.get_fillstyle()) for x in (first, again, points)
  ]
  assert looks == [('-', 'full'), ('--', 'none'), ('None', 'none')]


def test_every_panel_is_drawn_the_same_each_time(tmp_path):
  panels = [
    figures.Lines(
      lines=[
        figures.Line('one', X, [1, 2, 3], style='o-'),
        figures.Line('ragged', [[1, 2], [1, 2, 3]], [[3, 4], [4, 5, 6]]),
      ],
      levels={'limit': 2.0, 'other': 3.0},
      xscale='log2',
      yscale='log',
      xlabel='x',
      options={'ylim': (1, 10)},
    ),
    figures.Bars(
      names=['a', 'b'],
      groups={'p': [1, 2], 'q': [3, 4]},
      marks={'m': [1.5, 2.5]},
    ),
    figures.Shades(rows=['r'], columns=['c', 'd'], values=[[1.0, 2.0]]),
  ]
  first = figures.draw(panels, tmp_path / 'a' / 'first.png', title='title')
  again = figures.draw(panels, tmp_path / 'again.png', title='title')
  assert first.read_bytes() == again.read_bytes()
  assert image.imread(first).std() > 0.05


def planted_results(at, records):
  study = study_lib.Study(len, {'a': 1}, at=at)
  return study_lib.Results(study, (0, 1), records, {'a': 1})


def test_lines_of_arms_over_positions_or_along_curves():
  found = planted_results(
    (2, 4), {('a', x): [{'y': x}, {'y': 10 * x}] for x in (2, 4)}
  )
  (line,) = figures.by_arm(found, 'y', ylabel='y').lines
  assert [(list(x), list(y)) for x, y in line.runs()] == [
    ([2, 4], [2, 4]),
    ([2, 4], [20, 40]),
  ]
  curves = [{'y': [1, 2], 'x': [3, 4]}, {'y': [5], 'x': [6]}]
  found = planted_results((), {('a', None): curves})
  (line,) = figures.by_arm(found, 'y', 'x').lines
  assert [list(x) for x, _ in line.runs()] == [[3, 4], [6]]
  (line,) = figures.by_arm(found, 'y').lines
  assert [list(x) for x, _ in line.runs()] == [[1, 2], [1]]


def test_figures_of_rows_read_the_results():
  records = [{'y': [1, 2], 'z': [3, 4]}, {'y': [5, 6], 'z': [7, 8]}]
  found = planted_results((), {('a', None): records})
  panels = figures.of_arms(
    {'y': 'why', 'z': 'zed'},
    lambda results: [10 * seed for seed in results.seeds],
    levels=lambda results: {'floor': results.last('a', 'y').min()},
  )(found)
  assert [panel.ylabel for panel in panels] == ['why', 'zed']
  assert [dict(panel.levels) for panel in panels] == 2 * [{'floor': 2}]
  assert [list(x) for x, _ in panels[1].lines[0].runs()] == 2 * [[0, 10]]
  means = {('a', None): [{'y': 1.0}, {'y': 3.0}]}
  bars = figures.bars({'mean': 'y'}, factor=10)(planted_results((), means))
  assert bars.groups == {'mean': [20]}


def test_names_stand_at_bars_and_shades():
  bars = figures.Bars(names=['a', 'b'], groups={'p': [1, 2]}, xscale='log')
  shades = figures.Shades(rows=['r'], columns=['c', 'd'], values=[[1.0, 2.0]])
  axes = [pictures_lib.new_figure(1, 1, (4, 3)).add_subplot() for _ in range(2)]
  bars.draw(axes[0])
  shades.draw(axes[1])
  names = [
    [text.get_text() for text in labels]
    for labels in (
      axes[0].get_yticklabels(),
      axes[1].get_yticklabels(),
      axes[1].get_xticklabels(),
    )
  ]
  assert names == [['a', 'b'], ['r'], ['c', 'd']]


def test_curves_are_written_by_run(tmp_path):
  lines = [figures.Line('a', X, [[1, 2, 3], [4, 5, 6]])]
  panels = [figures.Lines(lines=lines), figures.Bars(names=['a'])]
  path = figures.write_curves(panels, tmp_path / 'x-curves.csv')
  with path.open(newline='') as file:
    rows = list(csv.DictReader(file))
  assert len(rows) == 6
  assert rows[4] == {'label': 'a', 'run': '1', 'x': '2.0', 'value': '5.0'}


def test_contact_sheet_has_every_picture(tmp_path):
  files = {}
  for i, color in enumerate(pictures_lib.COLORS[:3]):
    figure = pictures_lib.new_figure(1, 1, (4.6, 3.6))
    figure.set_facecolor(color)
    files[f'row {i}'] = pictures_lib.save(figure, tmp_path / f'{i}.png')
  sheet = figures.contact_sheet(files, tmp_path / 'sheet.png', columns=2)
  pixels = np.round(255 * image.imread(sheet)[..., :3]).astype(int)
  for color in pictures_lib.COLORS[:3]:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    assert (abs(pixels - wanted).max(-1) <= 2).mean() > 0.03, color


@pytest.mark.parametrize(
  ('ours', 'others', 'expected'),
  [
    ('abcdefg', 'abcdefg', [False, True]),
    ('abcdefg', 'abcdefh', [True, True]),
    ('ab', 'ab', [True, True]),  # Within the panels.
  ],
)
def test_panels_share_a_legend_that_stands_beside(
  ours, others, expected, monkeypatch, tmp_path
):
  drawn = []
  monkeypatch.setattr(
    pictures_lib, 'save', lambda made, path: drawn.append(made)
  )
  panels = [
    figures.Lines(lines=[figures.Line(label, X, X) for label in labels])
    for labels in (ours, others)
  ]
  figures.draw(panels, tmp_path / 'a.png')
  found = [axes.get_legend() is not None for axes in drawn[0].axes]
  assert found == expected
