"""One file alone is split; caches that others made are used as they are."""

import os
import stat

import numpy as np
import pytest

from performer.data import fasta, proteins, store, text, vocabulary
from runtime import paths
from tests.performer.data import data_cases


def draw(count, length=12):
  rng = np.random.default_rng(4)
  return [''.join(rng.choice(data_cases.LETTERS, length)) for _ in range(count)]


@pytest.mark.parametrize('cached', [True, False])
def test_proteins_are_split_by_their_hash(tmp_path, cached):
  sequences = draw(600)
  path = data_cases.write_fasta(
    tmp_path / 'all.fasta', sequences + sequences[:100]
  )
  cache = str(tmp_path / 'cache')
  found = {}
  for split, share in (('train', (0.0, 0.9)), ('test', (0.95, 1.0))):
    reading = store.Reading(share=share)
    source = (
      store.open_records(path, None, cache, reading)
      if cached
      else store.load(path, None, reading)
    )
    found[split] = [vocabulary.decode(ids) for ids in source]
  data = proteins.Proteins(
    task='causal', max_length=12, files=path, cache_dir=cache, num_threads=0
  )
  assert data.splits == ('valid', 'test')
  expected = [len(found['train']), len(found['test'])]
  assert [data.num_examples(s) for s in ('train', 'test')] == expected
  total = sum(map(data.num_examples, ('train', 'valid', 'test')))
  assert total == 700
  # 700 draws: four deviations of the binomial.
  assert abs(len(found['train']) - 630) < 4 * (700 * 0.9 * 0.1) ** 0.5
  assert not set(found['train']) & set(found['test'])
  counts = sum(data.token_counts(s) for s in ('train', 'valid', 'test'))
  assert counts.sum() == 700 * 12


def test_a_text_is_split_by_position(tmp_path):
  path = tmp_path / 'all.txt'
  path.write_bytes(bytes(range(200)) * 5)
  data = text.Text(max_length=9, files=str(path), num_threads=0)
  assert data.splits == ('valid', 'test')
  expected = [90, 5, 5]
  assert [data.num_examples(s) for s in ('train', 'valid', 'test')] == expected
  first = next(iter(data.eval_batches('test', batch_size=1)))
  assert first['tokens'][0, 0] == 950 % 200


def test_a_finished_cache_needs_no_permission(tmp_path):
  path = data_cases.write_fasta(tmp_path / 'all.fasta', draw(5))
  cache = tmp_path / 'cache'
  before = os.umask(0o027)
  try:
    store.open_records(path, None, str(cache))
  finally:
    os.umask(before)
  (converted,) = cache.glob('*.array_record')
  assert stat.S_IMODE(converted.stat().st_mode) == 0o640
  (cache / f'{converted.name}.lock').unlink()
  times = {p: p.stat().st_mtime_ns for p in (cache, *cache.iterdir())}
  assert len(store.open_records(path, None, str(cache))) == 5
  assert store.summarize(path, str(cache)).sequences == 5
  assert {p: p.stat().st_mtime_ns for p in (cache, *cache.iterdir())} == times


def test_a_dry_run_writes_no_cache(tmp_path):
  path = data_cases.write_fasta(tmp_path / 'all.fasta', draw(5))
  cache = tmp_path / 'cache'
  with paths.nothing_kept():
    assert len(store.open_records(path, None, str(cache))) == 5
    assert store.summarize(path, str(cache)).sequences == 5
  assert not cache.exists()
  assert len(store.open_records(path, None, str(cache))) == 5


@pytest.mark.parametrize('ending', ['\n', '\r\n', '\r'])
def test_lines_end_as_they_like(tmp_path, ending):
  path = tmp_path / 'a.fasta'
  lines = ['>one', 'MKV', 'LLA', '', '>two', 'GG', '']
  path.write_bytes(b'\xef\xbb\xbf' + ending.join(lines).encode())
  found = list(fasta.read(str(path)))
  expected = [('one', 'MKVLLA', 1), ('two', 'GG', 5)]
  assert [(r.header, r.sequence, r.line) for r in found] == expected
  path.write_bytes(ending.join(['>one', 'MK', 'M1V']).encode())
  with pytest.raises(ValueError, match=r"a\.fasta:3: .*got '1'"):
    list(fasta.read(str(path)))


def test_stops_are_named_and_may_be_dropped(tmp_path):
  path = data_cases.write_fasta(tmp_path / 'all.fasta', ['MKV*', 'GG'])
  with pytest.raises(ValueError, match=r"2: .* got '\*'; stops='drop'"):
    list(fasta.read(path))
  assert [r.sequence for r in fasta.read(path, stops='drop')] == ['MKV', 'GG']
  inside = data_cases.write_fasta(tmp_path / 'inside.fasta', ['MK*V'])
  with pytest.raises(ValueError, match='letters A-Z'):
    list(fasta.read(inside, stops='drop'))
  data = proteins.Proteins(
    task='causal',
    max_length=4,
    files={'train': path},
    stops='drop',
    cache_dir=str(tmp_path / 'cache'),
  )
  assert data.num_examples('train') == 2
