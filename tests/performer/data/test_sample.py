import hashlib
import importlib
import pathlib
import re
import shutil

import numpy as np
import pytest

from performer.data import fasta, proteins, vocabulary
from tests import marks

FOLDER = pathlib.Path(proteins.sample_file('train')).parent
SCRIPT = pathlib.Path(__file__).parents[3] / 'scripts/prepare_protein_sample.py'
ROW = re.compile(
  r'^\| (\w+) \| (\d+) \| (\d+) \|.*\| (\d+) \| `([0-9a-f]{64})` \|$', re.M
)


@pytest.fixture(scope='module')
def records():
  return {
    split: list(fasta.read(proteins.sample_file(split)))
    for split in proteins.SAMPLE_SPLITS
  }


def test_files_are_the_ones_the_provenance_describes(records):
  rows = ROW.findall((FOLDER / 'PROVENANCE.md').read_text())
  assert tuple(row[0] for row in rows) == proteins.SAMPLE_SPLITS
  for split, count, residues, size, digest in rows:
    data = pathlib.Path(proteins.sample_file(split)).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(data) == int(size)
    lengths = [len(record.sequence) for record in records[split]]
    assert (len(lengths), sum(lengths)) == (int(count), int(residues))


def test_size_limits(records):
  total = sum(path.stat().st_size for path in FOLDER.iterdir())
  assert total <= 3_000_000
  for split in ('valid', 'test', 'ood'):
    assert len(records[split]) >= 300
  assert len(records['train']) >= 5000


def test_splits_share_no_protein_and_name_only_the_accession(records):
  everything = [record for group in records.values() for record in group]
  for field in ('accession', 'sequence'):
    values = {getattr(record, field) for record in everything}
    assert len(values) == len(everything)
  for record in everything:
    assert re.fullmatch(r'[A-Z0-9]{6,10}', record.header)


@pytest.mark.parametrize('task', ['mlm', *marks.slow('causal')])
def test_is_the_default_data_set(records, task):
  data = proteins.Proteins(task=task, max_length=64)
  assert data.splits == ('valid', 'test', 'ood')
  batch = next(data.train_iterator(batch_size=2, seed=0))
  assert batch['tokens'].shape == (2, 64)
  batches = list(data.eval_batches('ood', batch_size=100))
  assert len(batches) == -(-len(records['ood']) // 100)
  first = batches[0]['targets'][0]
  start = vocabulary.encode(records['ood'][0].sequence)[:64]
  np.testing.assert_array_equal(first[: start.size], start)


def test_baseline_is_near_the_published_one():
  """TrEMBL: 9.92 % / 17.80 on test, 9.07 % / 17.93 on held-out families."""
  data = proteins.Proteins(task='causal', max_length=512)
  fitted = data.baselines()['empirical baseline']
  for split in data.splits:
    scores = fitted.evaluate(data.eval_batches(split, batch_size=64))
    assert 0.08 < scores.accuracy < 0.11
    assert 17 < scores.perplexity < 18.5


# What the files hold is checked in each run by their digests.
@pytest.mark.slow
@pytest.mark.skipif(
  shutil.which('mmseqs') is None, reason='needs the program mmseqs'
)
def test_held_out_families_have_no_relative_in_training(records, monkeypatch):
  # Scripts import each other.
  monkeypatch.syspath_prepend(str(SCRIPT.parent))
  script = importlib.import_module(SCRIPT.stem)
  lengths = {
    record.accession: len(record.sequence)
    for group in records.values()
    for record in group
  }
  train = proteins.sample_file('train')
  # The fast setting of the search: enough to find any near duplicate.
  hits = {
    split: script.search(
      proteins.sample_file(split), train, lengths, threads=2, sensitivity=2
    )
    for split in ('test', 'ood')
  }
  assert hits['ood'] == []
  near = [hit for hit in hits['test'] if hit.coverage >= script.COVERAGE]
  assert len(near) > 100
  assert max(hit.identity for hit in near) < script.IDENTITY
