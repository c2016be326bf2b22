import numpy as np

from performer.data import examples, masking, vocabulary

PAD = vocabulary.PAD


def test_causal_shifts_right_and_pads():
  example = examples.causal(np.array([4, 7, 24], np.uint8), 5)
  np.testing.assert_array_equal(example['tokens'], [25, 4, 7, PAD, PAD])
  np.testing.assert_array_equal(example['targets'], [4, 7, 24, PAD, PAD])
  np.testing.assert_array_equal(example['weights'], [1, 1, 1, 0, 0])
  np.testing.assert_array_equal(example['mask'], [1, 1, 1, 0, 0])


def test_causal_crops_to_the_first_tokens():
  example = examples.causal(np.arange(10, dtype=np.uint8), 4)
  np.testing.assert_array_equal(example['tokens'], [25, 0, 1, 2])
  np.testing.assert_array_equal(example['targets'], [0, 1, 2, 3])
  assert example['weights'].all()
  assert example['mask'].all()


def test_masked_weighs_the_hidden_positions_only():
  ids = np.arange(20, dtype=np.uint8)
  how = masking.Preset(mask=1.0, random=0.0)
  example = examples.masked(ids, 32, np.random.default_rng(0), how)
  np.testing.assert_array_equal(example['targets'][:20], ids)
  assert (example['targets'][20:] == PAD).all()
  hidden = example['weights'] == 1
  assert hidden.sum() == 3
  np.testing.assert_array_equal(hidden, example['tokens'] == vocabulary.MASK)
  np.testing.assert_array_equal(
    example['tokens'][~hidden], example['targets'][~hidden]
  )
  np.testing.assert_array_equal(example['mask'], np.arange(32) < 20)


def test_masked_crops_before_it_counts():
  ids = np.zeros(1000, np.uint8)
  how = masking.PRESETS['bert']
  example = examples.masked(ids, 20, np.random.default_rng(0), how)
  assert example['weights'].sum() == 3
  assert {name: array.dtype.name for name, array in example.items()} == {
    'tokens': 'int32',
    'targets': 'int32',
    'weights': 'float32',
    'mask': 'bool',
  }
