r"""Renders characters of many scripts, or emoji, as pictures by class.

    python scripts/prepare_glyphs.py --output=data/glyphs.npz \
      --fonts=/usr/share/fonts/truetype/noto
    python scripts/prepare_glyphs.py --output=data/emoji.npz \
      --emoji=emoji-datasource-google.tgz --emoji=emoji-datasource-twitter.tgz

Glyphs: --fonts is the folder of Debian's package fonts-noto-core, installed or
unpacked (`apt-get download fonts-noto-core && dpkg -x fonts-noto-core_*.deb
DIR`). Each script has the letters that its font draws; scripts, not letters, are
split into training and test, so that test characters have foreign shapes. Each
class has pictures as of several writers: fonts where there are two, widths of
the stroke, affine and elastic distortions. Ink is bright.

Emoji: --emoji are archives of the npm packages emoji-datasource-*, whose
64x64 pictures of one emoji by two vendors are one class, with slight affine
distortions. Groups of emoji, not pictures, are split.

Writes `images` uint8 [n, h, w, c], `labels` int32 [n], `test` bool [classes] and
`names` [classes] to one .npz file.
"""

import argparse
import collections
import io
import json
import pathlib
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy import ndimage

__all__ = ['distorted', 'emoji', 'glyphs', 'letters', 'main', 'split_groups']

_CANVAS = 96  # Pixels of a side before shrinking.
_MOST = 60  # Characters of a script.


def letters(path: pathlib.Path) -> list[str]:
  """The letters that a font draws, without those that look like nothing."""
  from fontTools import ttLib

  with ttLib.TTFont(path, lazy=True) as font:
    codes = sorted(font.getBestCmap() or {})
  return [
    chr(code)
    for code in codes
    if unicodedata.category(chr(code)) in ('Lo', 'Ll', 'Lu')
  ]


def _fonts(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """By script, its regular and bold fonts, sans before serif."""
  found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
  for kind in ('Sans', 'Serif'):
    for weight in ('Regular', 'Bold'):
      for path in sorted(folder.rglob(f'Noto{kind}*-{weight}.ttf')):
        name = path.stem.removeprefix(f'Noto{kind}').removesuffix(f'-{weight}')
        plain = name.removesuffix('UI').removesuffix('Looped')
        if plain == name and name not in ('Mono', 'Display', 'Symbols'):
          found[name or 'Latin'].append(path)
  if not found:
    raise FileNotFoundError(f'{folder}: no fonts Noto*-Regular.ttf')
  return dict(found)


def _drawn(char: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
  """A character in the middle of the canvas, [96, 96] in [0, 1]."""
  canvas = Image.new('L', (_CANVAS, _CANVAS))
  left, top, right, bottom = font.getbbox(char)
  if right <= left or bottom <= top:
    return None
  place = (
    (_CANVAS - left - right) / 2,
    (_CANVAS - top - bottom) / 2,
  )
  ImageDraw.Draw(canvas).text(place, char, fill=255, font=font)
  pixels = np.asarray(canvas, np.float32) / 255
  return pixels if pixels.sum() > 20 else None


def distorted(
  picture: np.ndarray,
  rng: np.random.Generator,
  *,
  elastic: float,
  affine: float,
) -> np.ndarray:
  """Turns, stretches, shears, shifts and bends a picture.

  Args:
    picture: [h, w] or [h, w, c], float32.
    rng: of the distortion.
    elastic: size of the bends in pixels.
    affine: standard deviation of turns (radians), stretches and shears.

  Returns:
    A picture of the same shape.
  """
  h, w = picture.shape[:2]
  turn, shear = rng.normal(0, affine, 2)
  stretch = np.exp(rng.normal(0, affine, 2))
  cos, sin = np.cos(turn), np.sin(turn)
  matrix = np.array([[cos, -sin], [sin, cos]]) @ [[1, shear], [0, 1]]
  matrix = matrix @ np.diag(stretch)
  grid = np.stack(np.mgrid[:h, :w]).astype(np.float64)
  middle = np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
  shift = rng.normal(0, 0.2 * affine * h, 2)[:, None, None]
  source = np.einsum('ij,jhw->ihw', matrix, grid - middle) + middle + shift
  for axis in (0, 1):
    noise = ndimage.gaussian_filter(rng.normal(size=(h, w)), h / 10)
    source[axis] += elastic * noise / max(np.abs(noise).max(), 1e-9)
  channels = picture[..., None] if picture.ndim == 2 else picture
  found = np.stack(
    [
      ndimage.map_coordinates(channels[..., c], source, order=1)
      for c in range(channels.shape[-1])
    ],
    axis=-1,
  )
  return found.reshape(picture.shape).astype(np.float32)


def _written(
  pictures: Sequence[np.ndarray], rng: np.random.Generator, size: int
) -> np.ndarray:
  """As a writer would: one of the fonts, a width, a hand."""
  picture = pictures[rng.integers(len(pictures))]
  image = Image.fromarray((255 * picture).astype(np.uint8))
  width = int(rng.integers(3))
  if width == 1:
    image = image.filter(ImageFilter.MaxFilter(3))
  if width == 2:
    image = image.filter(ImageFilter.MinFilter(3))
  pixels = np.asarray(image, np.float32) / 255
  pixels = distorted(pixels, rng, elastic=3.0, affine=0.12)
  image = Image.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8))
  return np.asarray(image.resize((size, size), Image.Resampling.BOX))


def _characters(
  fonts: Sequence[pathlib.Path],
) -> Iterator[tuple[str, list[np.ndarray]]]:
  """Characters of a script that differ, with a picture by each font."""
  loaded = [ImageFont.truetype(str(path), 56) for path in fonts]
  covered = [set(letters(path)) for path in fonts]
  seen: set[bytes] = set()
  count = 0
  for char in letters(fonts[0]):
    first = _drawn(char, loaded[0])
    if first is None or count == _MOST:
      continue
    mark = (first > 0.5).tobytes()
    if mark in seen:  # Some code points look alike.
      continue
    seen.add(mark)
    count += 1
    pictures = [
      _drawn(char, font)
      for font, chars in zip(loaded, covered, strict=True)
      if char in chars
    ]
    yield char, [p for p in pictures if p is not None]


def glyphs(
  folder: pathlib.Path, *, writers: int, size: int, seed: int
) -> Iterator[tuple[str, str, list[np.ndarray]]]:
  """Yields script, character and its pictures, uint8 [size, size, 1].

  Raises:
    FileNotFoundError: the folder has no fonts.
  """
  rng = np.random.default_rng(seed)
  for script, fonts in sorted(_fonts(folder).items()):
    for char, pictures in _characters(fonts):
      made = [_written(pictures, rng, size) for _ in range(writers)]
      yield script, f'{script} {ord(char):04X}', [m[..., None] for m in made]


def emoji(
  archives: Sequence[pathlib.Path], *, writers: int, size: int, seed: int
) -> Iterator[tuple[str, str, list[np.ndarray]]]:
  """Yields group, name and pictures of all vendors, uint8 [size, size, 3].

  Raises:
    ValueError: an archive has no list of emoji, or vendors share none.
  """
  vendors = [_vendor(path) for path in archives]
  shared = sorted(set.intersection(*(set(v) for v in vendors)))
  if not shared:
    raise ValueError(f'the archives share no emoji, got {list(archives)}')
  rng = np.random.default_rng(seed)
  for name in shared:
    made = []
    for i in range(writers):
      _, content = vendors[i % len(vendors)][name]
      with Image.open(io.BytesIO(content)) as picture:
        small = picture.convert('RGBA').resize((size, size))
      white = Image.new('RGBA', (size, size), 'white')
      white.alpha_composite(small)
      pixels = np.asarray(white.convert('RGB'), np.float32) / 255
      pixels = 1 - distorted(1 - pixels, rng, elastic=0.5, affine=0.06)
      made.append((255 * np.clip(pixels, 0, 1)).astype(np.uint8))
    yield vendors[0][name][0], name, made


def _vendor(path: pathlib.Path) -> Mapping[str, tuple[str, bytes]]:
  """By file name, the group of an emoji and its picture."""
  with tarfile.open(path) as archive:
    members = {m.name: m for m in archive.getmembers() if m.isfile()}
    lists = [name for name in members if name.endswith('/emoji.json')]
    if not lists:
      raise ValueError(f'{path}: no emoji.json inside')
    groups = {
      entry['image']: f'{entry["category"]}, {entry.get("subcategory", "")}'
      for entry in json.load(archive.extractfile(members[lists[0]]))
    }
    found = {}
    for name, member in members.items():
      short = name.rpartition('/')[2]
      if '/64/' in name and short in groups:
        content = archive.extractfile(member).read()
        found[short] = groups[short], content
  return found


def split_groups(groups: Sequence[str], share: float, seed: int) -> np.ndarray:
  """Which classes are of the test: whole groups, about a share of classes.

  Args:
    groups: of each class.
    share: of the test, in (0, 1).
    seed: of the order of groups.

  Raises:
    ValueError: the share is out of range or there is one group.
  """
  names = sorted(set(groups))
  if not 0 < share < 1 or len(names) < 2:
    raise ValueError(
      f'share must lie in (0, 1) with two groups, got {share=} {len(names)=}'
    )
  order = np.random.default_rng(seed).permutation(len(names))
  counts = collections.Counter(groups)
  chosen: set[str] = set()
  for i in order[:-1]:
    if sum(counts[g] for g in chosen) >= share * len(groups):
      break
    chosen.add(names[i])
  return np.array([g in chosen for g in groups])


def main(arguments: Sequence[str] | None = None) -> None:
  """Renders and writes."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--output', type=pathlib.Path, required=True)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--fonts', type=pathlib.Path)
  source.add_argument('--emoji', type=pathlib.Path, action='append')
  add('--writers', type=int, default=20, help='pictures of a class')
  add('--size', type=int, help='default: 28, of emoji 32')
  add('--test_share', type=float, default=0.25)
  add('--seed', type=int, default=0)
  args = parser.parse_args(arguments)
  options = {'writers': args.writers, 'seed': args.seed}
  if args.fonts:
    classes = list(glyphs(args.fonts, size=args.size or 28, **options))
  else:
    classes = list(emoji(args.emoji, size=args.size or 32, **options))
  groups, names, pictures = zip(*classes, strict=True)
  test = split_groups(groups, args.test_share, args.seed)
  args.output.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    args.output,
    images=np.concatenate([np.stack(made) for made in pictures]),
    labels=np.repeat(np.arange(len(names), dtype=np.int32), args.writers),
    test=test,
    names=np.array(names),
  )
  print(
    f'wrote {args.output}: {len(names)} classes of {len(set(groups))} groups, '
    f'{int(test.sum())} for the test, {args.writers} pictures each'
  )


if __name__ == '__main__':
  main()
