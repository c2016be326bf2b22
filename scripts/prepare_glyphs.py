r"""Renders characters of many scripts, or emoji, as pictures by class.

    python scripts/prepare_glyphs.py --output=data/glyphs.npz \
      --fonts=/usr/share/fonts/truetype/noto
    python scripts/prepare_glyphs.py --output=data/emoji.npz \
      --emoji=emoji-datasource-google.tgz --emoji=emoji-datasource-twitter.tgz

Glyphs: --fonts is the folder of Debian's package fonts-noto-core, installed or
unpacked (`apt-get download fonts-noto-core && dpkg -x fonts-noto-core_*.deb
DIR`). Letters belong to the script that begins their name in Unicode. Scripts of
14 to 120 letters are taken: 108 with 4,862 letters in version 20201225. Letters
that a picture cannot tell apart are one class. Scripts, not letters, are split
into training and test, so that test characters have foreign shapes. Each class
has pictures as of several writers: all fonts that have the letter, widths of the
stroke, affine and elastic distortions. Ink is bright.

Emoji: --emoji are archives of the npm packages emoji-datasource-*, whose
64x64 pictures of one emoji by two vendors are one class, with slight affine
distortions. Groups of emoji, not pictures, are split.

Writes `images` uint8 [n, h, w, c], `labels` int32 [n], `test` bool [classes] and
`names` [classes] to one .npz file.
"""

import argparse
import collections
import functools
import io
import json
import pathlib
import tarfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import prepare_glyphs_distortions as distortions
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from runtime import commands

__all__ = ['emoji', 'glyphs', 'letters', 'main', 'split_groups']

_FINER = 2  # Pictures are made that much larger, and averaged in the end.
_POINTS = 96  # Size of fonts, before characters are fitted into pictures.

Class = tuple[str, str, np.ndarray]


def letters(path: pathlib.Path) -> list[str]:
  """The letters of a font's map of characters."""
  from fontTools import ttLib

  with ttLib.TTFont(path, lazy=True) as font:
    codes = sorted(font.getBestCmap() or {})
  return [
    chr(code)
    for code in codes
    if unicodedata.category(chr(code)) in ('Lo', 'Ll', 'Lu')
  ]


def _scripts(
  folder: pathlib.Path, least: int, most: int
) -> dict[str, dict[str, list[pathlib.Path]]]:
  """By script and letter, the fonts that have it: regular first, sans first."""
  paths = [
    path
    for weight in ('Regular', 'Bold')
    for path in sorted(folder.rglob(f'Noto*-{weight}.ttf'))
  ]
  if not paths:
    raise FileNotFoundError(f'{folder}: no fonts Noto*-Regular.ttf')
  found: dict[str, dict[str, list[pathlib.Path]]] = {}
  for path in paths:
    for char in letters(path):
      script = unicodedata.name(char, '').partition(' ')[0]
      of_script = found.setdefault(script, {})
      of_script.setdefault(char, []).append(path)
  return {
    script: {char: chars[char] for char in sorted(chars)}
    for script, chars in sorted(found.items())
    if script and least <= len(chars) <= most
  }


@functools.cache
def _font(path: pathlib.Path) -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(str(path), _POINTS)


def _drawn(
  char: str, path: pathlib.Path, size: int
) -> Float[np.ndarray, 's s'] | None:
  """A character in the middle, half to four fifths of a picture; or None.

  Ink is 1 in the middle of a stroke and falls off across it, so that a level
  cuts out strokes of its width.
  """
  font = _font(path)
  left, top, right, bottom = font.getbbox(char)
  if right <= left or bottom <= top:
    return None
  drawn = Image.new('L', (right - left, bottom - top))
  ImageDraw.Draw(drawn).text((-left, -top), char, fill=255, font=font)
  side = max(drawn.size) * size / (1.25 * _POINTS)
  scale = np.clip(side, 0.5 * size, 0.8 * size) / max(drawn.size)
  width, height = (max(round(scale * length), 1) for length in drawn.size)
  canvas = Image.new('L', (size, size))
  small = drawn.resize((width, height), Image.Resampling.BOX)
  canvas.paste(small, ((size - width) // 2, (size - height) // 2))
  if np.asarray(canvas).sum() < 20 * 255:
    return None
  soft = canvas.filter(ImageFilter.GaussianBlur(size / 40))
  pixels = np.asarray(soft, np.float32)
  return pixels / np.quantile(pixels[pixels > 64], 0.8)


def _averaged(
  pictures: Float[np.ndarray, 'n h w c'],
) -> UInt8[np.ndarray, '...']:
  """Pictures in [0, 1] at their final size, as bytes."""
  n, h, w, c = pictures.shape
  parts = pictures.reshape(n, h // _FINER, _FINER, w // _FINER, _FINER, c)
  return np.round(255 * parts.mean((2, 4))).astype(np.uint8)


def _written(
  pictures: Sequence[np.ndarray], rng: np.random.Generator, writers: int
) -> UInt8[np.ndarray, 'n h w 1']:
  """As writers would: each has one of the fonts, a width, a hand."""
  chosen = np.stack(pictures)[rng.integers(len(pictures), size=writers)]
  size = chosen.shape[1]
  soft = distortions.distorted(
    chosen[..., None], rng, elastic=size / 32, affine=0.12
  )
  level = rng.uniform(0.4, 0.75, (writers, 1, 1, 1))
  return _averaged(np.clip(0.5 + 4 * (soft - level), 0, 1))


def glyphs(
  folder: pathlib.Path,
  *,
  writers: int,
  size: int,
  seed: int,
  least: int,
  most: int,
) -> Iterator[Class]:
  """Yields script, letter and its pictures, uint8 [writers, size, size, 1].

  Args:
    folder: of fonts.
    writers: pictures of a letter.
    size: of the pictures.
    seed: of the writers.
    least: letters of a script.
    most: letters of a script.

  Raises:
    FileNotFoundError: the folder has no fonts.
  """
  rng = np.random.default_rng(seed)
  seen: set[bytes] = set()
  for script, chars in _scripts(folder, least, most).items():
    for char, paths in chars.items():
      drawn = [_drawn(char, path, _FINER * size) for path in paths]
      pictures = [picture for picture in drawn if picture is not None]
      mark = b''.join((p > 0.5).tobytes() for p in pictures[:1])
      if mark and mark not in seen:
        seen.add(mark)
        made = _written(pictures, rng, writers)
        yield script, f'{script} {ord(char):04X}', made


def emoji(
  archives: Sequence[pathlib.Path], *, writers: int, size: int, seed: int
) -> Iterator[Class]:
  """Yields group, name and pictures of all vendors, uint8 [writers, s, s, 3].

  Raises:
    ValueError: an archive has no list of emoji, or vendors share none.
  """
  vendors = [_vendor(path) for path in archives]
  shared = sorted(set.intersection(*(set(v) for v in vendors)))
  if not shared:
    raise ValueError(f'the archives share no emoji, got {list(archives)}')
  rng = np.random.default_rng(seed)
  for name in shared:
    drawn = np.stack(
      [_on_white(vendor[name][1], _FINER * size) for vendor in vendors]
    )
    chosen = 1 - drawn[np.arange(writers) % len(vendors)]
    bent = distortions.distorted(chosen, rng, elastic=size / 32, affine=0.06)
    yield vendors[0][name][0], name, _averaged(1 - bent)


def _on_white(content: bytes, size: int) -> Float[np.ndarray, 's s 3']:
  """A picture with transparency, on paper, in [0, 1]."""
  with Image.open(io.BytesIO(content)) as picture:
    scaled = picture.convert('RGBA').resize((size, size))
  white = Image.new('RGBA', (size, size), 'white')
  white.alpha_composite(scaled)
  return np.asarray(white.convert('RGB'), np.float32) / 255


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
  """Marks the classes of the test: whole groups, about a share of classes.

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
  add('--output', type=commands.path, required=True)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--fonts', type=commands.path)
  source.add_argument('--emoji', type=commands.path, action='append')
  add('--writers', type=int, default=20, help='pictures of a class')
  add('--size', type=int, help='default: 28, of emoji 32')
  add('--least', type=int, default=14, help='letters of a script')
  add('--most', type=int, default=120, help='letters of a script')
  add('--test_share', type=float, default=0.25)
  add('--seed', type=int, default=0)
  args = parser.parse_args(arguments)
  options = {'writers': args.writers, 'seed': args.seed}
  if args.fonts:
    options |= {'least': args.least, 'most': args.most}
    classes = list(glyphs(args.fonts, size=args.size or 28, **options))
  else:
    classes = list(emoji(args.emoji, size=args.size or 32, **options))
  groups, names, pictures = zip(*classes, strict=True)
  test = split_groups(groups, args.test_share, args.seed)
  args.output.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    args.output,
    images=np.concatenate(pictures),
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
