"""One tiny model with random weights, whose programs all tests share."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from hpo.optformer import presets, vocabulary

VOCABULARY = vocabulary.Compact()


@pytest.fixture(scope='session')
def model():
  return presets.make(VOCABULARY, 'tiny')


@pytest.fixture(scope='session')
def variables(model):
  ids = np.ones((1, 2), np.int32)
  made = jax.jit(functools.partial(model.init, jax.random.key(0)))(ids, ids)
  return nn.unbox(made)
