import string

import numpy as np
import pytest

from performer.data import vocabulary


def test_ids_follow_the_published_order():
  assert vocabulary.SIZE == 29
  ids = vocabulary.encode('ACDEFGHIKLMNPQRSTVWYBOUXZ')
  np.testing.assert_array_equal(ids, np.arange(25))
  assert ids.dtype == np.int32
  special = vocabulary.BOS, vocabulary.EOS, vocabulary.PAD, vocabulary.MASK
  assert special == (25, 26, 27, 28)
  assert vocabulary.decode(np.array(special)) == '<>_*'


def test_every_letter_round_trips_or_becomes_x():
  rng = np.random.default_rng(0)
  text = ''.join(rng.choice(list(string.ascii_letters), 500))
  expected = text.upper().replace('J', 'X')
  assert vocabulary.decode(vocabulary.encode(text)) == expected


def test_empty_sequence_encodes_to_nothing():
  assert vocabulary.encode('').shape == (0,)
  assert vocabulary.decode(vocabulary.encode('')) == ''


@pytest.mark.parametrize('symbol', [*'*-._<>1 \n\0', 'é'])
def test_encode_refuses_what_is_no_letter(symbol):
  with pytest.raises(ValueError, match='must be letters A-Z'):
    vocabulary.encode(f'ACD{symbol}EFG')


@pytest.mark.parametrize('ids', [[29], [-1], [0, 255]])
def test_decode_refuses_ids_outside_the_vocabulary(ids):
  with pytest.raises(ValueError, match=r'must lie in 0\.\.28'):
    vocabulary.decode(np.array(ids))
