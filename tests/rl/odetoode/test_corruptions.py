import numpy as np
import pytest
import scipy.stats

from rl.odetoode.images import corruptions
from tests import seeds

# Those whose outcome is the same for every seed.
FIXED = {'identity', 'scale', 'brightness', 'stripe', 'canny_edges'}
CORRUPTING = corruptions.NAMES[1:]


@pytest.fixture(scope='module')
def pictures():
  """Smooth blobs of two sizes; the paper around them is exactly 0."""

  def make(count, height, width):
    rng = seeds.rng(0)
    rows, columns = np.mgrid[:height, :width]
    y, x = 0.5 + 0.3 * (rng.random((2, count, 3, 1, 1)) - 0.5)
    far = ((rows / height - y) ** 2 + (columns / width - x) ** 2) / 0.015
    light = np.maximum(0, 1 - far).max(1)
    return light.astype(np.float32)

  return make


def bar(side=29):
  """An upright bar through the centre."""
  picture = np.zeros((1, side, side), np.float32)
  middle = side // 2
  picture[:, middle - 7 : middle + 8, middle - 1 : middle + 2] = 1
  return picture


def moments(picture):
  """Mass, centroid and covariance of the ink of one picture."""
  places = np.indices(picture.shape).reshape(2, -1).astype(float)
  weights = picture.astype(float).ravel()
  centre = places @ weights / weights.sum()
  apart = places - centre[:, None]
  return weights.sum(), centre, (apart * weights) @ apart.T / weights.sum()


def corrupt(images, name, seed=0, severity=3):
  return corruptions.corrupt(images, name, seed=seed, severity=severity)


def test_there_are_fifteen_and_identity():
  assert len(set(corruptions.NAMES)) == 16
  assert corruptions.NAMES[0] == 'identity'


@pytest.mark.parametrize('size', [(28, 28), (5, 9), (1, 1)])
@pytest.mark.parametrize('name', corruptions.NAMES)
def test_results_are_pictures(pictures, name, size):
  images = pictures(3, *size)
  for severity in corruptions.SEVERITIES:
    result = corrupt(images, name, severity=severity)
    assert result.dtype == np.float32
    assert result.shape == images.shape
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1


@pytest.mark.parametrize('name', corruptions.NAMES)
def test_leaves_its_input_alone(pictures, name):
  images = pictures(3, 8, 8)
  before = images.copy()
  result = corrupt(images, name)
  result += 1
  np.testing.assert_array_equal(images, before)


@pytest.mark.parametrize('name', corruptions.NAMES)
def test_a_function_of_the_seed(pictures, name):
  images = pictures(6, 28, 28)
  result = corrupt(images, name, seed=3)
  np.testing.assert_array_equal(result, corrupt(images, name, seed=3))
  other = corrupt(images, name, seed=4)
  assert np.array_equal(result, other) == (name in FIXED)


@pytest.mark.parametrize('name', corruptions.NAMES)
def test_pictures_do_not_mix(pictures, name, monkeypatch):
  images = pictures(11, 28, 28)
  result = corrupt(images, name)
  np.testing.assert_array_equal(corrupt(images[:5], name), result[:5])
  others = images.copy()
  others[[0, 3, 9]] = images[[9, 0, 3]] ** 2
  mixed = corrupt(others, name)
  same = [1, 2, 4, 5, 6, 7, 8, 10]
  np.testing.assert_array_equal(mixed[same], result[same])
  monkeypatch.setattr(corruptions, '_BLOCK', 4)
  np.testing.assert_array_equal(corrupt(images, name), result)


@pytest.mark.parametrize('name', sorted(set(CORRUPTING) - FIXED))
def test_every_picture_has_its_own_draws(pictures, name):
  images = np.repeat(pictures(1, 28, 28), 20, axis=0)
  result = corrupt(images, name)
  assert len(np.unique(result.reshape(20, -1), axis=0)) > 1


@pytest.mark.parametrize('side', [28, 8])
@pytest.mark.parametrize('name', sorted(set(CORRUPTING) - {'canny_edges'}))
def test_severities_grow(pictures, name, side):
  images = pictures(60, side, side)
  harm = [
    np.abs(corrupt(images, name, severity=severity) - images).mean()
    for severity in corruptions.SEVERITIES
  ]
  assert harm[0] > 0.002
  # Bands are whole pixels: at 8x8 some severities coincide.
  assert (np.diff(harm) > (-1e-9 if name == 'stripe' else 0)).all(), harm
  assert harm[-1] > 1.2 * harm[0]


def test_identity_is_exact(pictures):
  images = pictures(5, 8, 8)
  np.testing.assert_array_equal(corrupt(images, 'identity'), images)


def test_shot_noise_is_poisson():
  images = np.full((40, 28, 28), 0.3, np.float32)
  counts = corrupt(images, 'shot_noise') * 5
  np.testing.assert_allclose(counts, np.round(counts), atol=1e-5)
  seen = np.bincount(np.round(counts).astype(int).ravel(), minlength=6)[:5]
  expected = scipy.stats.poisson.pmf(np.arange(5), 1.5) * images.size
  # 31,360 pixels: the largest of five deviations stays below 4.
  deviations = (seen - expected) / np.sqrt(expected)
  assert np.abs(deviations).max() < 4, deviations
  dark = np.zeros((2, 8, 8), np.float32)
  np.testing.assert_array_equal(corrupt(dark, 'shot_noise'), dark)


def test_impulse_noise_hits_its_part():
  images = np.full((40, 28, 28), 0.5, np.float32)
  result = corrupt(images, 'impulse_noise')
  assert set(np.unique(result)) == {0, 0.5, 1}
  for value in (0, 1):
    np.testing.assert_allclose((result == value).mean(), 0.085, atol=0.007)


def test_brightness_adds():
  images = np.array([[[0, 0.25, 0.5, 1]]], np.float32)
  result = corrupt(images, 'brightness')
  np.testing.assert_array_equal(result, [[[0.5, 0.75, 1, 1]]])


def test_stripe_inverts_the_sides(pictures):
  images = pictures(2, 28, 28)
  result = corrupt(images, 'stripe')
  np.testing.assert_array_equal(result[..., 7:21], images[..., 7:21])
  for side in (slice(0, 7), slice(21, 28)):
    np.testing.assert_array_equal(result[..., side], 1 - images[..., side])


@pytest.mark.parametrize(('severity', 'angle'), [(1, 0.15), (3, 0.45)])
def test_rotate_turns_a_bar(severity, angle):
  images = np.repeat(bar(), 16, axis=0)
  result = corrupt(images, 'rotate', severity=severity)
  turned = []
  for picture in result:
    mass, centre, spread = moments(picture)
    np.testing.assert_allclose(mass, images[0].sum(), rtol=0.02)
    np.testing.assert_allclose(centre, [14, 14], atol=0.05)
    turned.append(
      0.5 * np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1])
    )
  np.testing.assert_allclose(np.abs(turned), angle, atol=0.01)
  assert min(turned) < 0 < max(turned)


def test_shear_slides_rows():
  images = np.repeat(bar(), 16, axis=0)
  slopes = []
  for picture in corrupt(images, 'shear'):
    rows = picture.sum(1)
    np.testing.assert_allclose(rows, images[0].sum(1), atol=1e-4)
    _, centre, spread = moments(picture)
    np.testing.assert_allclose(centre, [14, 14], atol=1e-4)
    slopes.append(spread[0, 1] / spread[0, 0])
  np.testing.assert_allclose(np.abs(slopes), 0.45, atol=1e-4)
  assert min(slopes) < 0 < max(slopes)


def test_scale_shrinks_about_the_centre():
  [picture] = corrupt(bar(), 'scale')
  mass, centre, spread = moments(picture)
  before, _, wide = moments(bar()[0])
  np.testing.assert_allclose(mass / before, 0.7**2, rtol=0.05)
  np.testing.assert_allclose(centre, [14, 14], atol=1e-4)
  np.testing.assert_allclose(spread[0, 0] / wide[0, 0], 0.7**2, rtol=0.05)


def test_translate_moves_the_centroid():
  images = np.repeat(bar(), 16, axis=0)
  steps = []
  for picture in corrupt(images, 'translate', severity=2):
    mass, centre, _ = moments(picture)
    np.testing.assert_allclose(mass, images[0].sum(), rtol=1e-5)
    steps.append(centre - 14)
  np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 2.9, atol=1e-4)
  assert np.ptp(np.arctan2(*np.transpose(steps))) > np.pi


def test_motion_blur_spreads_along_a_line():
  images = np.zeros((16, 29, 29), np.float32)
  images[:, 14, 14] = 1
  for picture in corrupt(images, 'motion_blur'):
    mass, centre, spread = moments(picture)
    np.testing.assert_allclose(mass, 1, rtol=1e-5)
    np.testing.assert_allclose(centre, [14, 14], atol=1e-4)
    thin, long = np.linalg.eigvalsh(spread)
    # A line of 0.2 sides has the variance length^2 / 12, and the points share
    # up to a quarter of a squared pixel each way.
    assert 0.95 * 5.8**2 / 12 < long < 1.45 * 5.8**2 / 12 + 0.3
    assert thin < 0.3


def test_glass_blur_stays_near(pictures):
  images = pictures(20, 28, 28)
  result = corrupt(images, 'glass_blur')
  np.testing.assert_allclose(result.sum(), images.sum(), rtol=0.02)
  reach = 2 + int(np.ceil(0.045 * 28)) + 2  # Blur, step, blur.
  for picture, blurred in zip(images, result, strict=True):
    near = scipy.ndimage.maximum_filter(picture, 2 * reach + 1) > 0
    assert (blurred[~near] == 0).all()


def test_fog_mixes_with_clouds():
  paper = corrupt(np.zeros((30, 28, 28), np.float32), 'fog')
  ink = corrupt(np.ones((30, 28, 28), np.float32), 'fog')
  np.testing.assert_allclose(ink - paper, 0.5, atol=1e-6)
  np.testing.assert_allclose(paper.min((1, 2)), 0, atol=1e-6)
  np.testing.assert_allclose(paper.max((1, 2)), 0.5, atol=1e-6)
  # Clouds are smooth: neighbours are much more alike than distant pixels.
  near = np.abs(np.diff(paper, axis=2)).mean()
  far = np.abs(paper[:, :, 14:] - paper[:, :, :14]).mean()
  assert near < 0.4 * far


def test_spatter_covers_its_part():
  paper = corrupt(np.zeros((100, 28, 28), np.float32), 'spatter')
  ink = corrupt(np.ones((100, 28, 28), np.float32), 'spatter')
  cover = 1 - (ink - paper)
  np.testing.assert_allclose(cover.mean(), 0.15, atol=0.01)
  greys = paper.max((1, 2))
  assert greys.min() >= 0.4
  assert np.ptp(greys) > 0.3


@pytest.mark.parametrize('name', ['dotted_line', 'zigzag'])
def test_marks_are_added_in_the_middle(name):
  paper = np.zeros((50, 28, 28), np.float32)
  result = corrupt(paper, name)
  assert (result[:, 7:21, 7:21].max((1, 2)) > 0.9).all()
  assert (result.mean((1, 2)) > 0.03).all()
  assert (result.mean((1, 2)) < 0.3).all()
  assert (corrupt(paper + np.float32(0.4), name) >= 0.4).all()


def test_dots_are_apart_and_a_zigzag_is_not():
  paper = np.zeros((50, 84, 84), np.float32)
  pieces = {
    name: np.array(
      [
        scipy.ndimage.label(picture > 0.5, np.ones((3, 3)))[1]
        for picture in corrupt(paper, name)
      ]
    )
    for name in ('dotted_line', 'zigzag')
  }
  assert pieces['dotted_line'].min() >= 5
  # More than one where the swing leaves the picture.
  assert np.median(pieces['zigzag']) == 1


def test_canny_edges_are_the_outline():
  square = np.zeros((1, 28, 28), np.float32)
  square[:, 8:20, 8:20] = 1
  [edges] = corrupt(square, 'canny_edges')
  assert set(np.unique(edges)) == {0, 1}
  assert not edges[11:17, 11:17].any()
  assert not edges[[0, 5, 22, 27]].any()
  # One closed line, one pixel thick: four sides of about 12 pixels.
  assert 36 <= edges.sum() <= 56
  assert scipy.ndimage.label(1 - edges)[1] == 2
  [faint] = corrupt(square * np.float32(0.1), 'canny_edges')
  np.testing.assert_array_equal(faint, edges)
  empty = np.zeros((2, 8, 8), np.float32)
  np.testing.assert_array_equal(corrupt(empty, 'canny_edges'), empty)


@pytest.mark.parametrize(
  ('down', 'across'), [(0, 1), (1, 1), (1, 0), (1, -1), (-1, -1), (-1, 1)]
)
def test_canny_edges_are_thin_in_all_directions(down, across):
  rows, columns = np.mgrid[-14:15, -14:15]
  far = (down * rows + across * columns + 0.3) / np.hypot(down, across)
  slope = np.clip(0.5 + far / 8 - far**3 / 1000, 0, 1)
  [edges] = corrupt(slope[None].astype(np.float32), 'canny_edges')
  inner, far = edges[8:21, 8:21], far[8:21, 8:21]
  # Pixels nearer to the steepest line than their neighbours down the slope; a
  # diagonal one has them further away, and is a staircase.
  assert np.abs(far[inner == 1]).max() < 0.5 * np.hypot(down, across)
  assert inner.sum() == (25 if down and across else 13)


def test_takes_no_pictures():
  empty = np.zeros((0, 8, 8), np.float32)
  for name in corruptions.NAMES:
    assert corrupt(empty, name).shape == (0, 8, 8)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'name': 'snow'}, "name must be one of .*got name='snow'"),
    ({'severity': 0}, r'severity must be one of \(1, .*got severity=0'),
    ({'seed': -1}, 'seed must be >= 0, got seed=-1'),
    ({'images': np.zeros((1, 8, 8))}, r'float32 \[n, h, w\].*got float64'),
    ({'images': np.zeros((1, 0, 8), np.float32)}, r'h, w >= 1'),
    ({'images': np.full((1, 8, 8), 255, np.float32)}, 'values from 255'),
    ({'images': np.full((1, 8, 8), np.nan, np.float32)}, 'values from nan'),
  ],
)
def test_refuses(change, message):
  images = np.zeros((1, 8, 8), np.float32)
  with pytest.raises(ValueError, match=message):
    corruptions.corrupt(
      **{'images': images, 'name': 'fog', 'seed': 0, **change}
    )
