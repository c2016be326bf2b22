"""Small copies of releases of pictures, in their formats."""

import pickle

import numpy as np

from tests import seeds


def _picture(path, rng, size, mode):
  from PIL import Image

  path.parent.mkdir(parents=True, exist_ok=True)
  shape = (size, size) if mode == 'L' else (size, size, 3)
  Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


def glyphs(folder, *, classes=12, per_class=3, size=28):
  """A file as `scripts/prepare_glyphs.py` writes it."""
  rng = seeds.rng(0)
  path = folder / 'glyphs.npz'
  shape = (classes * per_class, size, size, 1)
  np.savez(
    path,
    images=rng.integers(0, 256, shape, dtype=np.uint8),
    labels=np.repeat(np.arange(classes), per_class).astype(np.int32),
    test=np.arange(classes) % 2 == 1,
  )
  return path


def omniglot(folder, *, characters=6, per_class=2):
  """The release's folders, with two alphabets in each part."""
  rng = seeds.rng(1)
  for part in ('images_background', 'images_evaluation'):
    for alphabet in ('A', 'B'):
      for i in range(characters):
        for j in range(per_class):
          name = f'{part}/{alphabet}/character{i:02d}/{j}.png'
          _picture(folder / name, rng, 10, 'L')
  return folder


def cifar100(folder, *, classes=100, per_class=2):
  """The release's two pickles."""
  rng = seeds.rng(2)
  for name in ('train', 'test'):
    labels = np.tile(np.arange(classes), per_class)
    content = {
      b'data': rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8),
      b'fine_labels': labels.tolist(),
    }
    (folder / name).write_bytes(pickle.dumps(content, protocol=4))
  return folder


def mini_imagenet(folder, *, classes=6, per_class=6):
  """A folder per split and class."""
  rng = seeds.rng(3)
  for part in ('train', 'val', 'test'):
    for i in range(classes):
      for j in range(per_class):
        _picture(folder / part / f'n{i:02d}' / f'{j}.jpg', rng, 12, 'RGB')
  return folder
