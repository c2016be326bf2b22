"""One tiny model with random weights, whose programs all tests share."""

import numpy as np
import pytest

from hpo.optformer import presets, vocabulary
from tests.hpo.optformer import optformer_cases as cases

VOCABULARY = vocabulary.Compact()


@pytest.fixture(scope='session')
def model():
  return presets.make(VOCABULARY, 'tiny')


@pytest.fixture(scope='session')
def variables(model):
  ids = np.ones((1, 2), np.int32)
  return cases.drawn(model, ids, ids)
