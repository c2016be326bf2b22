"""The range of seeds."""

import numpy as np
import pytest

from runtime import seeds


def test_seeds_are_whole_numbers_of_32_bits():
  for seed in (0, np.int64(7), seeds.LARGEST):
    seeds.check(seed)
  for seed in (-1, seeds.LARGEST + 1, 1.5, 'a', None):
    with pytest.raises(ValueError, match=r'seed must be .* got seed='):
      seeds.check(seed)
