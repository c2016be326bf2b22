"""Backgrounds: which clip, which frame of it."""

import numpy as np
import pytest

from rl.envs import clips

image = pytest.importorskip('PIL.Image')

SIZE = 8


@pytest.fixture
def folder(tmp_path):
  """Two clips, of 4 frames and of 1; frame i of clip c is all 50 c + 10 i."""
  for clip, count in enumerate((4, 1)):
    where = tmp_path / f'clip{clip}'
    where.mkdir()
    (where / 'notes.txt').write_text('no picture')
    for frame in range(count):
      values = np.full((6, 12, 3), 50 * clip + 10 * frame, np.uint8)
      image.fromarray(values).save(where / f'{frame:05d}.png')
  (tmp_path / 'empty').mkdir()
  return tmp_path


def shown(clip, times):
  pictures = [clip(time) for time in times]
  for picture in pictures:
    assert picture.shape == (SIZE, SIZE, 3)
    assert picture.dtype == np.uint8
    assert (picture == picture[0, 0, 0]).all()
  return [int(picture[0, 0, 0]) for picture in pictures]


def test_folders_play_to_and_fro(folder):
  ways, others = set(), 0
  for seed in range(60):
    draw = np.random.default_rng(seed)
    clip = clips.Folder(folder).clip(draw, SIZE, True)
    levels = shown(clip, range(9))
    if levels[0] == 50:
      others += 1
      assert levels == [50] * 9
      continue
    steps = np.diff(np.array(levels) // 10)
    assert (np.abs(steps) == 1).all()
    turns = np.flatnonzero(np.diff(steps))
    assert set(np.array(levels)[turns + 1]) == {0, 30}
    ways.add((levels[0], int(steps[0])))
  # Anywhere, in any direction that there is.
  assert len(ways) == 6
  assert 15 < others < 45


def test_still_ones_and_the_first_ones(folder):
  seen = set()
  for seed in range(60):
    draw = np.random.default_rng(seed)
    clip = clips.Folder(folder, num_clips=1).clip(draw, SIZE, False)
    levels = shown(clip, range(3))
    assert len(set(levels)) == 1
    seen.add(levels[0])
  assert seen == {0, 10, 20, 30}
  flat = clips.Folder(folder / 'clip1').clip(draw, SIZE, True)
  assert shown(flat, range(2)) == [50, 50]


def test_drawn_ones():
  def one(seed, moving=True, **options):
    draw = np.random.default_rng(seed)
    return clips.Procedural(**options).clip(draw, SIZE, moving)

  first = one(1)(0)
  np.testing.assert_array_equal(one(1)(0), first)
  assert (one(1)(20) != first).any()
  assert (one(2)(0) != first).any()
  assert (one(1, kind='blobs')(0) != first).any()
  np.testing.assert_array_equal(one(1, False)(20), first)
  # Two clips are two pictures; others are of other clips.
  few = [
    {
      one(seed, False, num_clips=2, first_clip=f)(0).tobytes()
      for seed in range(9)
    }
    for f in (0, 2)
  ]
  assert len(few[0]) == len(few[1]) == 2
  assert not few[0] & few[1]


def test_rejects(folder):
  for make in (
    lambda: clips.Procedural('video'),
    lambda: clips.Procedural(num_clips=-1),
    lambda: clips.Folder(folder / 'nowhere'),
    lambda: clips.Folder(folder / 'empty'),
    lambda: clips.Folder(folder, num_clips=3),
    lambda: clips.Folder(folder, num_clips=0),
  ):
    with pytest.raises(ValueError, match='got'):
      make()
