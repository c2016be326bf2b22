"""Files of generated studies: the studies of their numbers, and resumption."""

import concurrent.futures

from hpo.optformer import bbob_problems, bbob_studies, behaviours, datasets

SOURCE = bbob_studies.Source(
  dimensions=(2,), trials=12, algorithms=behaviours.BEHAVIOURS[2:3], block=16
)


def test_shards_hold_the_studies_of_their_numbers(script, tmp_path):
  path = tmp_path / 'bbob-1-of-3.array_record'
  said = script.write_shard(SOURCE, 'train', 5, 10, path, (1, 3))
  assert said.endswith('3 studies')
  found = datasets.open_studies(str(path))
  for row, number in enumerate((1, 4, 7)):
    expected = SOURCE.study(5, number)
    assert (found[row].values == expected.values).all()
    assert found[row].problem == expected.problem
  before = path.read_bytes()
  again = script.write_shard(SOURCE, 'train', 6, 10, path, (1, 3))
  assert again.endswith('kept')
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == [path.name]
  assert script.SPLITS['held_out'] == bbob_problems.HELD_OUT


def test_command(script, tmp_path, monkeypatch, capsys):
  written = []

  def write(source, split, seed, studies, path, shard):
    written.append((source.dimensions, split, studies, path.name, shard))
    return 'done'

  class Pool(concurrent.futures.ThreadPoolExecutor):
    """In this process."""

    def __init__(self, processes, mp_context):
      super().__init__(processes)

  monkeypatch.setattr(script, 'write_shard', write)
  monkeypatch.setattr(concurrent.futures, 'ProcessPoolExecutor', Pool)
  options = ['--studies=9', '--shards=3', '--first=1', '--dimensions=2,5']
  script.main([f'--output={tmp_path}', *options])
  assert sorted(written) == [
    ((2, 5), 'train', 9, f'bbob-0000{s}-of-00003.array_record', (s, 3))
    for s in (1, 2)
  ]
  assert capsys.readouterr().out == 'done\ndone\n'
