"""Glyphs and emoji: classes, writers, splits by script."""

import importlib.util
import io
import json
import pathlib
import tarfile

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hpo.ufom.tasks import class_sets

SCRIPT = pathlib.Path(__file__).parents[2] / 'scripts/prepare_glyphs.py'
# A font that comes with the pictures' library, under the names of others.
FONT = pathlib.Path(matplotlib.get_data_path()) / 'fonts/ttf/DejaVuSans.ttf'


@pytest.fixture(scope='module')
def script():
  spec = importlib.util.spec_from_file_location('prepare_glyphs', SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_glyphs_of_two_scripts(script, tmp_path, monkeypatch):
  for name in ('NotoSansGreek-Regular', 'NotoSans-Regular', 'NotoSans-Bold'):
    (tmp_path / f'{name}.ttf').write_bytes(FONT.read_bytes())
  chars = {'Greek': 'αβγδ', 'Latin': 'abcdeaоo'}
  monkeypatch.setattr(
    script, 'letters', lambda p: list(chars['Greek' if 'Gr' in p.stem else 'Latin'])
  )  # fmt: skip
  out = tmp_path / 'out' / 'glyphs.npz'
  script.main(
    [
      f'--fonts={tmp_path}',
      f'--output={out}',
      '--writers=4',
      '--test_share=0.4',
    ]
  )
  with np.load(out) as arrays:
    names = arrays['names'].tolist()
    assert arrays['images'].shape == (4 * len(names), 28, 28, 1)
    images = arrays['images'].reshape(len(names), 4, -1).astype(float)
    # Twins of other alphabets are one class: Cyrillic o looks like Latin o.
    assert sum(name.startswith('Latin') for name in names) == 6
    scripts = [name.split()[0] for name in names]
    test = dict(zip(scripts, arrays['test'].tolist(), strict=True))
    assert sorted(test.values()) == [False, True]
  # Writers differ, less than characters do.
  within = np.linalg.norm(images - images.mean(1, keepdims=True), axis=-1)
  between = np.linalg.norm(images.mean(1) - images.mean((0, 1)), axis=-1)
  assert within.min() > 0
  assert images.max() > 200
  assert between.mean() > 0
  split = class_sets.prepared(str(out))
  assert split.train.num_classes + split.test.num_classes == 10


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
  picture = np.zeros((40, 40), np.float32)
  picture[15:25, 15:25] = 1
  rng = np.random.default_rng(1)
  same = script.distorted(picture, rng, elastic=0.0, affine=0.0)
  np.testing.assert_allclose(same, picture, atol=1e-5)
  one, two = (
    script.distorted(picture, rng, elastic=3.0, affine=0.1) for _ in range(2)
  )
  assert np.abs(one - two).max() > 0.3
  assert 40 < one.sum() < 250


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
