"""Plans: statements, grids, spaces, tuners by name."""

import json
import sys
import types

import pytest

from runtime.sweeping import plans

LR = {'type': 'FLOAT', 'name': 'LR', 'low': 1e-4, 'high': 0.1, 'scale': 'LOG'}
KIND = {'type': 'CATEGORICAL', 'name': 'KIND', 'values': ['a', '@b.C()', 'd']}


@pytest.mark.parametrize(
  ('value', 'written'),
  [
    (0.1, 'N = 0.1'),
    (3, 'N = 3'),
    ('relu', "N = 'relu'"),
    ("'relu'", "N = 'relu'"),
    ('True', 'N = True'),
    ('1e-3', 'N = 1e-3'),
    ('@a.B()', 'N = @a.B()'),
    ('%OTHER', 'N = %OTHER'),
    ("{'greedy': @a.B()}", "N = {'greedy': @a.B()}"),
    ('it is "so"', 'N = \'it is "so"\''),
  ],
)
def test_statements(value, written):
  assert plans.statement('N', value) == written


def test_grids_are_all_combinations_in_the_words_of_gin():
  found = plans.grid(["A=[1e-3, (1, 2), 'x,]', @f.G(),]", 'b.C.d = [True]'])
  expected = ['1e-3', '(1, 2)', "'x,]'", '@f.G()']
  assert [point['A'] for point in found] == expected
  assert all(point['b.C.d'] == 'True' for point in found)
  assert len(plans.grid(['A=[1,2]', 'B=[1,2,3]'])) == 6
  assert plans.grid([]) == ({},)


@pytest.mark.parametrize(
  ('texts', 'message'),
  [
    (['A'], r"NAME=\[VALUE, VALUE\], got 'A'"),
    (['A=1,2'], 'NAME='),
    (['=[1]'], 'NAME='),
    (['A=[]'], 'needs a value'),
    (['A=[1,,2]'], r"a value between commas, got 'A=\[1,,2\]'"),
    (['A=[,]'], 'a value between commas'),
    (['A=[(1, 2]'], 'does not close'),
    (['A=["x]'], 'does not close'),
    (['A=[1];B=[2]'], 'does not close'),
    (['A=[1, 1]'], 'each value once'),
    (['A=[1]', 'A=[2]'], 'A twice'),
  ],
)
def test_malformed_grids(texts, message):
  with pytest.raises(ValueError, match=message):
    plans.grid(texts)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'seeds': 0}, 'seeds must be positive'),
    ({'tuner': 'random', 'metric': 'eval/x', 'goal': 'MINIMIZE'}, 'a space'),
    ({'space': (LR,)}, 'needs a space, and a space a tuner'),
    ({'space': (LR,), 'tuner': 'random'}, 'needs a metric'),
    ({'metric': 'eval/x'}, 'a metric has a goal'),
    ({'goal': 'MINIMIZE'}, 'a goal a metric'),
    ({'metric': 'loss', 'goal': 'MINIMIZE'}, "such as 'eval/valid/loss'"),
    (
      {
        **{'points': ({},), 'space': (LR,), 'tuner': 'random'},
        **{'metric': 'eval/x', 'goal': 'MINIMIZE'},
      },
      'from a tuner or from a list',
    ),
  ],
)
def test_what_does_not_fit_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    plans.Plan(files=(), **options)


def plan(**options):
  kinds = {'space': (LR, KIND), 'tuner': 'random', 'metric': 'eval/x'}
  return plans.Plan(files=(), goal='MINIMIZE', **kinds, **options)


def test_probes_are_the_ends_of_every_parameter():
  assert plan().probes() == [
    {'LR': 1e-4, 'KIND': 'a'},
    {'LR': 0.1, 'KIND': 'a'},
    {'LR': 1e-4, 'KIND': '@b.C()'},
    {'LR': 1e-4, 'KIND': 'd'},
  ]
  listed = plans.Plan(files=(), points=({'A': '1'},))
  assert listed.probes() == [{'A': '1'}]


def test_budgets_need_a_setting():
  expected = ('LR = 0.1', 'STEPS = 7')
  assert plan(budget='STEPS').statements({'LR': 0.1}, 7) == expected
  with pytest.raises(ValueError, match=r'gives runs budgets, here 7.*--budget'):
    plan().statements({'LR': 0.1}, 7)


def test_spaces_are_read_and_mistakes_name_the_file(tmp_path):
  path = tmp_path / 'space.json'
  path.write_text(json.dumps([LR, KIND]))
  assert plans.read_space(path) == (LR, KIND)
  for text in ('[{"name": "x"}]', '{"low": 1}', '[3]', '[', '[]'):
    path.write_text(text)
    with pytest.raises(ValueError, match=r'space\.json: '):
      plans.read_space(path)


def test_tuners_by_name(monkeypatch):
  module = types.ModuleType('mine')
  module.__all__ = ['Own']
  module.Own = lambda space, *, seed, eta=2: (space, seed, eta)
  monkeypatch.setitem(sys.modules, 'mine', module)
  assert plans.make_tuner('mine:Own', [LR], 3) == ([LR], 3, 2)
  assert plans.make_tuner('mine:Own(eta=5)', [LR], 3) == ([LR], 3, 5)
  monkeypatch.setattr(plans, 'TUNERS', 'mine')
  assert plans.make_tuner('Own', [LR], 0)[2] == 2
  for name, message in {
    'Other': r"no tuner 'Other'; it has \['Own'\]",
    'nowhere:Own': 'No module named',
    'mine:Own(3)': 'options have names',
    'mine:Own(eta=f())': 'options of the tuner',
    'mine:Own(rate=3)': 'cannot be made: .*rate',
    'a b': 'NAME or module:function',
  }.items():
    with pytest.raises(ValueError, match=message):
      plans.make_tuner(name, [LR], 0)
