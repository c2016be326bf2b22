"""One tiny model with random weights, whose programs all tests share."""

import numpy as np
import pytest

from hpo.optformer import presets, tokens, trained, vocabulary
from tests.hpo.optformer import optformer_cases as cases

VOCABULARY = vocabulary.Compact()


@pytest.fixture(scope='session')
def model():
  return presets.make(VOCABULARY, 'tiny')


@pytest.fixture(scope='session')
def variables(model):
  ids = np.ones((1, 2), np.int32)
  return cases.drawn(model, ids, ids)


@pytest.fixture(scope='session')
def untrained(model, variables):
  """Makes it ready to use, for texts and trials of so many tokens."""

  def make(encoder=128, decoder=128, **options):
    maker = tokens.Tokenizer(
      VOCABULARY, encoder_length=encoder, decoder_length=decoder
    )
    return trained.Trained(model, maker, variables, **options)

  return make


@pytest.fixture(scope='session')
def made(untrained):
  return untrained()
