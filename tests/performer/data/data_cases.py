"""Small folders in the formats of published sets."""

import itertools
import pathlib
import pickle

import numpy as np
import sentencepiece
from PIL import Image

from performer.data import fasta, proteins
from tests import seeds

LETTERS = list('ACDEFGHIKLMNPQRSTVWY')


def write_fasta(path, sequences):
  """A file of sequences, each named by its number; returns its name."""
  records = (f'>{path.stem}{i}\n{text}\n' for i, text in enumerate(sequences))
  path.write_text(''.join(records))
  return str(path)


def random_proteins(folder, rng, lengths):
  """Files by split, of the standard residues, from lengths by split."""
  return {
    split: write_fasta(
      folder / f'{split}.fasta',
      (''.join(rng.choice(LETTERS, length)) for length in sizes),
    )
    for split, sizes in lengths.items()
  }


def few_proteins(folder, count=30):
  """The first proteins of each split of the sample, as files."""
  files = {}
  for split in proteins.SAMPLE_SPLITS:
    records = fasta.read(proteins.sample_file(split))
    text = (f'>{r.header}\n{r.sequence}\n' for r in records)
    files[split] = str(folder / f'{split}.fasta')
    pathlib.Path(files[split]).write_text(
      ''.join(itertools.islice(text, count))
    )
  return files


def reviews(folder):
  """As the release of the IMDb reviews: `train/neg/0_1.txt`."""
  for split in ('train', 'test'):
    for label, word in (('neg', 'bad'), ('pos', 'good')):
      inside = folder / split / label
      inside.mkdir(parents=True)
      for i in range(4):
        (inside / f'{i}_1.txt').write_text(f'a {word} film, number {i}')
  return folder


def cifar10(folder):
  """As the python release: pickles of rows of 3072 bytes."""
  folder.mkdir()
  rng = seeds.rng(3)
  names = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']
  for name in names:
    content = {
      b'data': rng.integers(0, 256, (10, 3072), np.uint8),
      b'labels': [int(i) for i in rng.permutation(10)],
    }
    (folder / name).write_bytes(pickle.dumps(content, protocol=4))
  return folder


def pathfinder(folder, count=20, size=32):
  """As the release: pictures, and lines that name them; the first is empty."""
  (folder / 'metadata').mkdir(parents=True)
  (folder / 'imgs' / '0').mkdir(parents=True)
  lines = []
  for i in range(count):
    path = folder / 'imgs' / '0' / f'sample_{i}.png'
    Image.new('L', (size, size), i).save(path)
    if i == 0:
      path.write_bytes(b'')
    lines.append(f'imgs/0 sample_{i}.png {i} {i % 2} 1.0 14 2 4 0.5 0.75 1 2 3')
  (folder / 'metadata' / '0.npy').write_text('\n'.join(lines) + '\n')
  return folder


PIECES = 16  # Of the model of `pieces`.


def pieces(folder):
  """A text, and a model of SentencePiece for it."""
  texts = folder / 'words.txt'
  texts.write_text('the cat sat on the mat and the hat\n' * 400)
  sentencepiece.SentencePieceTrainer.train(
    input=str(texts),
    model_prefix=str(folder / 'pieces'),
    vocab_size=PIECES,
    minloglevel=2,
  )
  return texts, folder / 'pieces.model'
