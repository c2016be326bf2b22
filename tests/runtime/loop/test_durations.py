import pytest

from runtime.loop import durations


def test_units_agree():
  given = {'batch_size': 8, 'num_examples': 100}
  assert durations.Duration(steps=25).to_steps(**given) == 25
  assert durations.Duration(examples=200).to_steps(**given) == 25
  assert durations.Duration(epochs=2).to_steps(**given) == 25
  assert durations.Duration(epochs=0.5).to_steps(**given) == 7


@pytest.mark.parametrize('given', [{}, {'steps': 1, 'epochs': 1}])
def test_exactly_one_unit(given):
  with pytest.raises(ValueError, match='exactly one'):
    durations.Duration(**given)


def test_negative_is_refused():
  with pytest.raises(ValueError, match='negative'):
    durations.Duration(examples=-1)


def test_epochs_need_a_size():
  with pytest.raises(ValueError, match='2 epochs'):
    durations.Duration(epochs=2).to_steps(batch_size=8, num_examples=None)
