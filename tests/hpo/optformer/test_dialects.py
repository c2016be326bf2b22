"""Strings of both dialects, and the vocabularies that cut them."""

import numpy as np
import pytest

from hpo import spaces, studies
from hpo.optformer import dialects, pieces, vocabulary
from tests import seeds
from tests.hpo.optformer import optformer_cases as cases

NEURIPS22 = (
  'N:"convnet on cifar10",A:"random_search",O:"accuracy",G:<1>&&'
  'N:"opt_kw.lr",S:<2>,P:<1>,m:-13.8,M:-4.61*'
  'N:"opt_type",P:<3>,L:<2>,C:["SGD","Adam"]'
)
PAPER = (
  '<name>:"convnet on cifar10",<metric>:"accuracy",<goal>:<MAXIMIZE>,'
  '<algorithm>:"random_search"'
  '&<name>:"opt_kw.lr",<type>:<DOUBLE>,<min_value>:1e-6,<max_value>:0.01,'
  '<scale_type>:<LOG>'
  '&<name>:"opt_type",<type>:<CATEGORICAL>,<categories>:["SGD","Adam"]'
)
# All types; the strings follow the example in the tests of the first release.
RELEASED = studies.Problem(
  spaces.Space(
    (
      spaces.Categorical('boolean', ('False', 'True')),
      spaces.Categorical('numbers', ('0', '0.50')),
      spaces.Discrete('discrete_int', (-1, 1, 2)),
      spaces.Discrete('discrete_logdouble', (1e-5, 0.01, 0.1), 'LOG'),
      spaces.Int('integer', -2, 2),
      spaces.Float('lineardouble', -1.0, 2.0),
      spaces.Float('logdouble', 1e-4, 1e2, 'LOG'),
      spaces.Int('width', 1, 512, 'LOG'),
      spaces.Int('fixed', 3, 3),
    )
  ),
  'MINIMIZE',
  'flat_search_space',
  'single_max',
  'grid_search',
)
RELEASED_TEXT = (
  'N:"flat_search_space",A:"grid_search",O:"single_max",G:<1>&fixed:<3>&'
  'N:"boolean",P:<3>,L:<2>,C:["False","True"]*'
  'N:"numbers",P:<3>,L:<2>,C:[0,0.5]*'
  'N:"discrete_int",S:<1>,P:<4>,L:<3>,F:[-1,1,2]*'
  'N:"discrete_logdouble",S:<2>,P:<4>,L:<3>,F:[1e-05,0.01,0.1]*'
  'N:"integer",S:<1>,P:<2>,m:<-2>,M:<2>*'
  'N:"lineardouble",S:<1>,P:<1>,m:-1,M:2*'
  'N:"logdouble",S:<2>,P:<1>,m:-9.21,M:4.61*'
  'N:"width",S:<2>,P:<2>,m:0,M:6.24'
)
MINIMAL_TEXT = (
  'N:"",A:"grid_search",O:"",G:<1>&&'
  'N:"",P:<3>,L:<2>*N:"",P:<3>,L:<2>*'
  'N:"",S:<0>,P:<4>,L:<3>*N:"",S:<0>,P:<4>,L:<3>*'
  'N:"",S:<0>,P:<2>,L:<5>*N:"",S:<0>,P:<1>*N:"",S:<0>,P:<1>*'
  'N:"",S:<0>,P:<2>,L:<512>'
)


def test_golden_strings():
  problem = cases.PAPER.problem
  assert dialects.by_name('neurips22').metadata(problem, [0, 1]) == NEURIPS22
  assert dialects.by_name('paper').metadata(problem, [0, 1]) == PAPER
  order = RELEASED.space.free
  text = dialects.Neurips22().metadata(RELEASED, order)
  assert text == RELEASED_TEXT
  text = dialects.Neurips22().metadata(RELEASED, order, minimal=True)
  assert text == MINIMAL_TEXT


def test_minimal_text_of_the_paper_keeps_counts():
  text = dialects.Paper().metadata(RELEASED, [4, 5, 2, 0], minimal=True)
  assert text == (
    '<name>:"",<metric>:"",<goal>:<MAXIMIZE>,<algorithm>:"grid_search"'
    '&<name>:"",<type>:<INTEGER>,<min_value>:0,<max_value>:4'
    '&<name>:"",<type>:<DOUBLE>'
    '&<name>:"",<type>:<DISCRETE>,<categories>:["","",""]'
    '&<name>:"",<type>:<CATEGORICAL>,<categories>:["",""]'
  )


@pytest.mark.parametrize('name', sorted(dialects.DIALECTS))
def test_trials_are_read_back(name):
  rng = seeds.rng(0)
  parameters = rng.integers(0, 1000, (5, 3)).astype(np.int32)
  objectives = rng.integers(0, 1000, 5).astype(np.int32)
  dialect = dialects.by_name(name)
  text = dialect.trials(parameters, objectives.tolist())
  found = dialect.parse_trials(text)
  np.testing.assert_array_equal(found[0], parameters)
  np.testing.assert_array_equal(found[1], objectives)
  for wrong in (text + '|', text.replace('*', '|', 1), '', text + 'x'):
    with pytest.raises(ValueError, match='trial'):
      dialect.parse_trials(wrong)


def test_trials_of_the_paper():
  tokens = np.array([[831, 0], [645, 1]], np.int32)
  text = dialects.Paper().trials(tokens, [0, 999])
  assert text == '831 0 * 0 | 645 1 * 999'
  text = dialects.Neurips22().trials(tokens, [0, 999])
  assert text == '<831><0>*<0>|<645><1>*<999>'


def test_unknown_dialect():
  with pytest.raises(ValueError, match="'original'"):
    dialects.by_name('original')


def test_compact_vocabulary_is_lossless_and_short():
  made = vocabulary.Compact()
  assert made.text_size == 512
  assert all(len(piece) >= 1 for piece in pieces.PIECES)
  for text in (NEURIPS22, PAPER, RELEASED_TEXT, 'é漢"\n\x00', ''):
    ids = made.encode(text)
    assert made.decode(ids) == text
    assert all(0 < i < made.text_size for i in ids)
  assert len(made.encode(MINIMAL_TEXT)) < 50
  ids = made.trial_ids
  marks = {ids.pad, *ids.start, ids.star, ids.bar, ids.pending, ids.infeasible}
  assert len(marks) == 6
  assert max(marks) < ids.first_bin
  assert ids.first_bin + ids.bins == ids.size


def test_sentencepiece_gets_pieces_for_bins(tmp_path):
  library = pytest.importorskip('sentencepiece')
  letters = 'abcdefgh :*|&,"NSP0123456789'
  rng = seeds.rng(1)
  corpus = (''.join(rng.choice(list(letters), 60)) for _ in range(300))
  library.SentencePieceTrainer.train(
    sentence_iterator=corpus,
    model_prefix=str(tmp_path / 'model'),
    vocab_size=100,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  made = vocabulary.SentencePiece(tmp_path / 'model.model', bins=50)
  ids = made.trial_ids
  assert (made.text_size, ids.size, ids.first_bin) == (256, 256, 100)
  found = made.encode('S:<49>*<3>')
  assert [i - 100 for i in found if i >= 100] == [49, 3]
  assert ids.star in found
