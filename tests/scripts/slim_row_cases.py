"""Findings about SLiM as rows of a ledger."""

import numpy as np

from runtime.record import ledger

SEEDS = range(3)
COMMON = {
  'paper': 'paper',
  'scale': 'tiny',
  'hardware': 'none',
  'command': 'none',
  'commit': '0' * 7,
  'minutes': 0.0,
}


def check_rows(found, seeds, folder):
  """Findings make rows of the ledger, and those that hold pictures."""
  for finding in found:
    row = ledger.Row(seeds=tuple(seeds), **finding.fields, **COMMON)
    ledger.write(row, folder)
    if row.verdict != 'fails':  # Pictures take most of the time.
      path = folder / f'{row.id}.png'
      finding.draw(path)
      assert path.stat().st_size > 5_000
  return {finding.fields['id']: finding.fields for finding in found}


def one(finding, folder):
  (fields,) = check_rows([finding], SEEDS, folder).values()
  return fields['verdict']


def noisy(value, seed=0):
  """A value for each seed, a few percent around it."""
  rng = np.random.default_rng(seed)
  return tuple(value * (1 + 0.03 * rng.standard_normal(len(SEEDS))))
