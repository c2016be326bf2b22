"""Glyphs and emoji: classes, writers, splits by script."""

import io
import json
import pathlib
import tarfile

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hpo.ufom.tasks import class_sets
from tests import seeds

# A font that comes with the pictures' library, under the names of others.
FONT = pathlib.Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'


def test_glyphs_of_two_scripts(script, tmp_path, monkeypatch):
  for name in ('NotoSansX-Regular', 'NotoSerifX-Regular', 'NotoSansX-Bold'):
    (tmp_path / f'{name}.ttf').write_bytes(FONT.read_bytes())
  # Hebrew has too few letters, Cyrillic too many.
  chars = {'Sans': 'αβγδΑabcdelAбвгджзикא', 'Serif': 'αβγδΑabcd'}
  monkeypatch.setattr(
    script, 'letters', lambda p: list(chars['Sans' if 'Sans' in p.stem else 'Serif'])
  )  # fmt: skip
  out = tmp_path / 'out' / 'glyphs.npz'
  flags = '--writers=4 --test_share=0.4 --least=2 --most=7'
  script.main([f'--fonts={tmp_path}', f'--output={out}', *flags.split()])
  with np.load(out) as arrays:
    names = arrays['names'].tolist()
    assert arrays['images'].shape == (4 * len(names), 28, 28, 1)
    np.testing.assert_array_equal(
      arrays['labels'], np.repeat(np.arange(len(names)), 4)
    )
    images = arrays['images'].reshape(len(names), 4, -1).astype(float)
    scripts = [name.split()[0] for name in names]
    test = dict(zip(scripts, arrays['test'].tolist(), strict=True))
  # A looks like Alpha: one class.
  assert names == sorted(
    [f'GREEK {ord(c):04X}' for c in 'αβγδΑ']
    + [f'LATIN {ord(c):04X}' for c in 'abcdel']
  )
  assert sorted(test.values()) == [False, True]
  # Writers differ, less than characters do.
  within = np.linalg.norm(images - images.mean(1, keepdims=True), axis=-1)
  between = np.linalg.norm(images.mean(1) - images.mean((0, 1)), axis=-1)
  assert within.min() > 0
  assert images.max() > 200
  assert between.mean() > 0
  split = class_sets.prepared(str(out))
  assert split.train.num_classes + split.test.num_classes == 11


def test_emoji_of_two_vendors(script, tmp_path):
  paths = []
  for vendor, color in (('google', 200), ('twitter', 100)):
    path = tmp_path / f'{vendor}.tgz'
    paths.append(path)
    names = ['a.png', 'b.png', 'c.png', f'{vendor}.png']
    with tarfile.open(path, 'w:gz') as archive:
      listed = [
        {'image': n, 'category': 'Group', 'subcategory': n[0]} for n in names
      ]
      _add(archive, 'package/emoji.json', json.dumps(listed).encode())
      for i, name in enumerate(names):
        picture = Image.new('RGBA', (64, 64), (color, 80 * (i % 3), 0, 255))
        stream = io.BytesIO()
        picture.save(stream, 'PNG')
        _add(archive, f'package/img/{vendor}/64/{name}', stream.getvalue())
  out = tmp_path / 'emoji.npz'
  flags = [f'--emoji={path}' for path in paths]
  script.main([*flags, f'--output={out}', '--writers=2'])
  with np.load(out) as arrays:
    assert arrays['names'].tolist() == ['a.png', 'b.png', 'c.png']
    middle = arrays['images'][:, 16, 16]
  np.testing.assert_allclose(middle[0], (200, 0, 0), atol=2)
  np.testing.assert_allclose(middle[3], (100, 80, 0), atol=2)


def _add(archive, name, content):
  info = tarfile.TarInfo(name)
  info.size = len(content)
  archive.addfile(info, io.BytesIO(content))


def test_distortions_are_small_and_differ(script):
  pictures = np.zeros((5, 40, 44, 2), np.float32)
  pictures[:, 15:25, 15:25] = 1
  pictures[..., 1] *= 0.5
  distorted = script.distortions.distorted
  rng = seeds.rng(0)
  same = distorted(pictures, rng, elastic=0.0, affine=0.0)
  np.testing.assert_allclose(same, pictures, atol=1e-5)
  bent = distorted(pictures, rng, elastic=3.0, affine=0.05)
  for i in range(5):
    others = np.delete(bent, i, axis=0)
    assert np.abs(others - bent[i]).max((1, 2, 3)).min() > 0.3
  # Channels move together, and bends are as large as they are said to be.
  np.testing.assert_allclose(bent[..., 1], bent[..., 0] / 2, atol=1e-5)
  slope = np.broadcast_to(np.arange(1.0, 41)[:, None, None], (5, 40, 44, 1))
  moved = distorted(slope.astype(np.float32), rng, elastic=3.0, affine=0.0)
  inside = np.abs(moved - slope)[:, 4:-4, 4:-4]
  assert 1.0 < inside.max() < 3.0 + 1e-3


def test_distortions_match_a_library(script):
  rng = seeds.rng(0)
  pictures = rng.uniform(size=(3, 9, 11, 2)).astype(np.float32)
  source = rng.uniform(-3, 13, size=(3, 2, 9, 11)).astype(np.float32)
  found = script.distortions._sampled(pictures, source)
  for i in range(3):
    for c in range(2):
      wanted = ndimage.map_coordinates(
        np.pad(pictures[i, ..., c], 1), source[i] + 1, order=1, cval=0
      )
      np.testing.assert_allclose(found[i, ..., c], wanted, atol=1e-5)


def test_whole_groups_are_split(script):
  groups = [f'g{i // 7}' for i in range(70)]
  test = script.split_groups(groups, 0.25, 3)
  assert 0.2 <= test.mean() <= 0.4
  by_group = test.reshape(10, 7)
  assert (by_group == by_group[:, :1]).all()
  with pytest.raises(ValueError, match='two groups'):
    script.split_groups(['a'] * 3, 0.25, 0)


def test_missing_input_is_said(script, tmp_path):
  with pytest.raises(FileNotFoundError, match='Regular'):
    script.main([f'--fonts={tmp_path}', f'--output={tmp_path / "x.npz"}'])
  path = tmp_path / 'none.tgz'
  with tarfile.open(path, 'w:gz') as archive:
    _add(archive, 'package/readme', b'')
  with pytest.raises(ValueError, match=r'emoji\.json'):
    script.main([f'--emoji={path}', f'--output={tmp_path / "x.npz"}'])
