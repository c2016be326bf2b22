"""Writing from a workdir: the same tokens as `decoding.generate`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from performer import attention, generate
from performer.data import copying, dataset, proteins, text, vocabulary
from performer.models import decoding
from tests import seeds
from tests.performer import run_cases
from tests.performer.models import model_cases

MODEL = model_cases.small(
  attention.Favor(kernel='elu1', projection=False, features=None),
  **{'max_length': 48, 'num_layers': 1, 'd_model': 8, 'd_ff': 8},
)


@pytest.fixture(scope='module')
def params():
  token = jnp.zeros((1, 1), jnp.int32)
  options = {'mask': token == 0, 'projections': None}
  init = jax.jit(lambda key: MODEL.init(key, token, **options)['params'])
  # Far from uniform, so that the most likely token is beyond doubt; and not the
  # same at every position.
  found = jax.tree.map(lambda x: 3 * x, init(seeds.key(0)))
  return found | {
    'positions': jax.tree.map(lambda x: 20 * x, found['positions'])
  }


def write(params, count, temperature=0.0):
  found = generate.blocks(
    MODEL,
    params,
    None,
    np.array([25, 3, 1], np.int32),
    max_new_tokens=count,
    temperature=temperature,
    key=seeds.key(5),
  )
  return np.concatenate(list(found))


@pytest.fixture(scope='module')
def greedy(params):
  return write(params, 45)


def test_blocks_are_the_tokens_of_one_call(params, greedy):
  expected = decoding.generate(
    MODEL,
    params,
    jnp.array([[25, 3, 1]]),
    jnp.array([3]),
    projections=None,
    max_new_tokens=45,
  )
  np.testing.assert_array_equal(greedy, expected.tokens[0])
  assert len(set(greedy.tolist())) > 1
  np.testing.assert_array_equal(write(params, 20), greedy[:20])


def test_samples_follow_the_seed_and_differ(params, greedy):
  found = write(params, 20, temperature=5.0)
  np.testing.assert_array_equal(found, write(params, 20, temperature=5.0))
  assert (found != greedy[:20]).any()


def test_tokens_that_do_not_fit_are_refused(params):
  with pytest.raises(ValueError, match='at most 45, got max_new_tokens=46'):
    write(params, 46)


@pytest.mark.parametrize(
  ('option', 'value'),
  [('temperature', '-1.0'), ('temperature', 'nan'), ('max_new_tokens', '-3')],
)
def test_numbers_below_zero_are_refused(option, value):
  with pytest.raises(ValueError, match=f'{option} must not .* got {value}'):
    generate.main(['nowhere', f'--{option}={value}'])


def test_text_becomes_tokens_and_back():
  codec = proteins.Proteins(task='causal', max_length=8).codec
  assert codec.encode('').tolist() == [vocabulary.BOS]
  assert codec.decode(codec.encode('MKV')[1:]) == 'MKV'
  assert codec.stop_token is None
  assert (
    proteins.Proteins(task='causal', max_length=8, concatenate=True)
  ).codec.stop_token == vocabulary.EOS
  codec = text.Text(max_length=8).codec
  assert codec.decode(codec.encode('Größe')) == 'Größe'
  assert len(codec.encode('')) == 1
  assert copying.Copying(max_length=7, vocab_size=8).codec is None


@pytest.mark.parametrize('option', ['--step=best', '--gin_param=STEPS = 2'])
def test_a_file_has_no_steps_and_no_configuration(option):
  with pytest.raises(ValueError, match='are for the folder of a run'):
    generate.main([option])


@pytest.mark.parametrize('size', [1, 3])
def test_text_does_not_depend_on_the_blocks(size, capsys):
  """A character may be cut in two by them, and a word may begin there."""
  codec = text.Text(max_length=8).codec
  ids = codec.encode('Straße: 5 €\nEnde')
  # The last byte begins a character that never ends.
  ids = np.append(ids, 0xE2)
  blocks = [ids[i : i + size] for i in range(0, ids.size, size)]
  generate._stream(iter(blocks), codec, codec.encode(''))
  assert capsys.readouterr().out == 'Straße: 5 €\nEnde\ufffd\n'


def test_a_word_after_the_prompt_keeps_its_space(capsys):
  """As pieces of SentencePiece, whose first one of a text loses it."""
  words = ['to', ' be', ' or', ' not']
  codec = dataset.Codec(
    lambda _: np.array([0]),
    lambda ids: ''.join(words[i] for i in ids).removeprefix(' '),
    stop_token=3,
  )
  blocks = [np.array([1, 2]), np.array([1, 3])]
  generate._stream(iter(blocks), codec, codec.encode('to'))
  assert capsys.readouterr().out == ' be or be\n'


@pytest.mark.slow
def test_a_trained_run_writes(tmp_path, capsys):
  run_cases.protein_run(tmp_path)
  capsys.readouterr()
  generate.main([str(tmp_path), '--prompt', 'MKV', '--seed', '3'])
  out, err = capsys.readouterr()
  assert out.startswith('MKV')
  assert len(out.strip()) == 63
  assert 'tokens/s in the first half' in err
