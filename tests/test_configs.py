"""Every configuration that ships reads, builds and uses all that it binds."""

import re
import shutil

import jax
import numpy as np
import pytest

from hpo import studies
from hpo.optformer import toy
from nas.rl_darts import genotype, spaces
from runtime import context, trainer
from runtime.config import errors, sessions
from runtime.config import files as files_lib
from tests import marks, seeds
from tests.hpo.ufom.tasks import class_cases
from tests.performer.data import data_cases

# Fragments that others include; they leave required values open.
FRAGMENTS = (
  {'configs/base.gin'}
  | {
    f'configs/performer/{name}.gin'
    for name in (
      *('base', 'trembl', 'slim', 'slim_base', 'slim_text', 'lra'),
      *('language_base', 'proteins', 'subword_base', 'classify_base'),
      'lra_images',
    )
  }
  | {
    f'configs/rl/{name}.gin'
    for name in (
      *('base', 'odetoode_base', 'odetoode_images_base', 'procgen_base', 'ray'),
      *('odetoode_dense', 'odetoode_node', 'odetoode_nanode'),
      *('odetoode_hyperode', 'iap_base', 'iap_es_base'),
      'attention_agent_base',
    )
  }
  | {
    f'configs/hpo/{name}.gin'
    for name in (
      *('base', 'autorl_base', 'autorl_online', 'autorl_program'),
      *('autorl_lpg_base', 'ufom_adaptive', 'ufom_fewshot_base'),
      'ufom_published',
      'optformer_base',
      'optformer_shipped_base',
    )
  }
  | {'configs/nas/es_enas_base.gin'}
  | {
    f'configs/nas/rl_darts_{name}.gin'
    for name in (
      *('search', 'evaluate', 'bilevel', 'annealed', 'grid', 'procgen'),
      *('procgen_bilevel', 'settled'),
    )
  }
)
EVAL_FILE_MACROS = ('VALID_FILE', 'TEST_FILE', 'OOD_FILE')

CONFIGS = sorted(
  str(path.relative_to(files_lib.PROJECT_ROOT))
  for path in (files_lib.PROJECT_ROOT / 'configs').rglob('*.gin')
)
COMPLETE = [name for name in CONFIGS if name not in FRAGMENTS]
# Each has a sibling of the same parts that the quick tests build.
TWINS = {
  f'configs/{name}.gin'
  for name in (
    *(f'hpo/autorl_{method}_tiny' for method in ('gp', 'lpg_es', 'optformer')),
    *(f'hpo/ufom_{source}' for source in ('cifar100', 'mini_imagenet')),
    *('hpo/ufom_omniglot', 'hpo/autorl_rl_darts_tiny'),
    *('hpo/optformer_shipped_first', 'hpo/optformer_performer_tiny'),
    'hpo/optformer_hpob',
    *('nas/rl_darts_procgen_rainbow', 'nas/rl_darts_rainbow_tiny'),
    *('nas/es_enas_halfcheetah', 'nas/es_enas_mask_tiny'),
    *('performer/pg19', 'performer/lra_pathfinder', 'performer/slim_enwik8'),
    *('performer/protein_causal_tiny', 'performer/slim_text_tiny'),
    *('rl/iap_pixels', 'rl/attention_agent_carracing', 'rl/es_halfcheetah'),
    *('rl/procgen_rainbow', 'rl/procgen_starpilot_tiny', 'rl/sac_swingup'),
    *('rl/iap_control', 'rl/iap_lane_tiny', 'rl/es_swimmer'),
    'rl/iap_cma_tiny',
    *('rl/odetoode_mnist', 'rl/odetoode_swimmer'),
    *(f'hpo/autorl_{method}_tiny' for method in ('random', 'pb2', 'stacx')),
    *('hpo/ufom_glyphs', 'nas/es_enas_swimmer', 'nas/rl_darts_sac'),
    'nas/rl_darts_procgen_ppo',
  )
}
# (layers, d_ff, d_model, max_length): arXiv:2009.14794, Sections 4.4 and 4.5.
PUBLISHED = {
  'trembl_36layer_mlm': (36, 1024, 512, 1024),
  'trembl_36layer_causal': (36, 1024, 512, 1024),
  'trembl_6layer_mlm': (6, 2048, 512, 1024),
  'trembl_6layer_causal': (6, 2048, 512, 1024),
  'trembl_concat_8192': (6, 2048, 512, 8192),
}
# Of the same layout, left to right over pixels, in (64, 64, 3).
PUBLISHED_PIXELS = {'imagenet64_6layer': 6, 'imagenet64_12layer': 12}
# (heads, layers, d_ff, d_model, qkv, tokens, symbols, classes): arXiv:2011.04006
# and its released configurations.
PUBLISHED_CLASSES = {
  'lra_listops': (8, 4, 1024, 512, 512, 2000, 17, 10),
  'lra_text': (4, 4, 1024, 256, 256, 1001, 258, 2),
  'lra_cifar': (8, 1, 128, 128, 64, 1025, 258, 10),
  'lra_pathfinder': (8, 4, 32, 32, 16, 1025, 258, 2),
}
# Parameters, from the layout in arXiv:2012.11346 and its published settings.
PUBLISHED_SLIM = {
  'slim_copy': 822_528,
  'slim_ptb': 8_866_048,
  'slim_enwik8': 35_033_344,
}


def stem(name):
  return name.rpartition('/')[2].removesuffix('.gin')


def parameter_count(layers, d_ff, d_model, max_length, vocab=29):
  """Parameters of a pre-LN Transformer without biases in its attention."""
  attention = 4 * d_model**2
  mlp = 2 * d_model * d_ff + d_ff + d_model
  norms = 2 * 2 * d_model
  outside = (2 * vocab + max_length + 2) * d_model + vocab
  return layers * (attention + mlp + norms) + outside


def classifier_count(heads, layers, d_ff, d_model, qkv, length, vocab, classes):
  """Parameters of a classifier: another width of the heads, another output."""
  del heads
  whole = parameter_count(layers, d_ff, d_model, length, vocab)
  whole += layers * 4 * d_model * (qkv - d_model)
  return whole + (d_model + 1) * (d_ff - vocab) + (d_ff + 1) * classes


@pytest.fixture(scope='module')
def data_params(tmp_path_factory):
  """Statements that point the macros of data files to small ones, by prefix."""
  folder = tmp_path_factory.mktemp('data')
  rng = seeds.rng(7)
  path = folder / 'tiny.fasta'
  records = (
    f'>{i}\n{"".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 900))}\n'
    for i in range(30)
  )
  path.write_text(''.join(records))
  # Training must not share a file with other splits.
  copy = shutil.copy(path, folder / 'copy.fasta')
  files = [f"TRAIN_FILE = '{path}'"]
  files += [f"{macro} = '{copy}'" for macro in EVAL_FILE_MACROS]
  large = folder / 'large'
  with large.open('wb') as stream:
    stream.truncate(95_000_000)  # Takes no space.
  return {
    'trembl': [*files, f"CACHE_DIR = '{folder / 'cache'}'"],
    'protein_shipped': [
      f"CACHE_DIR = '{folder / 'cache'}'",
      f"proteins.Proteins.files = {{'train': '{path}', 'valid': '{copy}'}}",
    ],
    'slim_ptb': [files[0], f"VALID_FILE = '{copy}'"],
    'slim_enwik8': [f"TRAIN_FILE = '{large}'"],
    # The published sets take half a minute to draw.
    'lra_listops': ['listops.ListOps.num_eval = 4'],
    'odetoode_mnist': [f"MNIST_DIR = '{_mnist(folder)}'"],
    **dict.fromkeys(('optformer_bbob', 'optformer_hpob'), _studies(folder)),
    'evaluate_genotype': [f"GENOTYPE = '{_genotype(folder)}'"],
    'rl_darts_procgen_evaluate': [f"GENOTYPE = '{_genotype(folder)}'"],
    **_pictures(folder),
    **_published_sets(folder),
  }


def _published_sets(folder):
  """Statements for small files in the formats of published sets."""
  texts, model = data_cases.pieces(folder)
  valid = shutil.copy(texts, folder / 'valid.txt')
  files = {'train': str(texts), 'valid': str(valid)}
  pieces = [
    f"PIECES = '{model}'",
    f'VOCAB_SIZE = {data_cases.PIECES + 2}',
    f"CACHE_DIR = '{folder / 'encoded'}'",
    'DOCUMENTS = @documents.Files()',
    f'documents.Files.files = {files}',
    'MAX_LENGTH = 32',
  ]
  pixels = {name: str(folder / f'{name}.npy') for name in ('train', 'valid')}
  for path in pixels.values():
    np.save(path, np.zeros((2, 64, 64, 3), np.uint8))
  reviews = data_cases.reviews(folder / 'aclImdb')
  return {
    'pg19': pieces,
    'lm1b': pieces,
    'imagenet64': [
      'SOURCE = @pictures.Arrays()',
      f'pictures.Arrays.files = {pixels}',
      'BATCH_SIZE = 8',
    ],
    'lra_text': [
      'SOURCE = @labelled_text.Folders()',
      f"labelled_text.Folders.folder = '{reviews}'",
    ],
    'lra_cifar': [f"FOLDER = '{data_cases.cifar10(folder / 'cifar')}'"],
    'lra_pathfinder': [f"FOLDER = '{data_cases.pathfinder(folder / 'paths')}'"],
  }


def _genotype(folder):
  """A file as a search writes it."""
  labels = genotype.random_labels(seeds.key(0), spaces.MICRO)
  cell = genotype.from_labels(labels, spaces.MICRO)
  path = folder / 'genotype.json'
  path.write_text(genotype.Genotype.of({'normal': cell}).to_json())
  return path


def _pictures(folder):
  """Statements for the few-shot sets, of fake releases."""
  made = {}
  for name, make, options in (
    ('omniglot', class_cases.omniglot, {'characters': 20}),
    ('cifar100', class_cases.cifar100, {}),
    ('mini_imagenet', class_cases.mini_imagenet, {}),
  ):
    inside = folder / name
    inside.mkdir()
    made[f'ufom_{name}'] = [f"FOLDER = '{make(inside, **options)}'"]
  made['ufom_omniglot'] += ['NUM_TEST = 40']
  pictures = class_cases.glyphs(folder, classes=40)
  for name in ('ufom_glyphs', 'ufom_emoji'):
    made[name] = [f"GLYPHS = '{pictures}'"]
  return made


def _studies(folder):
  """Statements for files of studies."""
  path = folder / 'studies.jsonl'
  made = (toy.study(seeds.rng(i), toy.ALGORITHMS[0]) for i in range(2))
  studies.write(path, made)
  return [f"{name} = '{path}'" for name in ('TRAIN_FILE', 'VALID_FILE')]


def _mnist(folder):
  """A few pictures as `scripts/prepare_mnist.py` writes them."""
  arrays = {}
  for split in ('train', 'valid', 'test'):
    arrays[f'{split}_images'] = np.zeros((100, 28, 28), np.uint8)
    arrays[f'{split}_labels'] = np.zeros(100, np.uint8)
  np.savez(folder / 'mnist.npz', **arrays)
  return folder


def params_of(name, data_params):
  given = []
  for prefix, files in data_params.items():
    if stem(name).startswith(prefix):
      given = [*given, *files]
  # Published runs had one sequence per step; here are eight devices.
  batch = ['BATCH_SIZE = 8'] if stem(name) in PUBLISHED_SLIM else []
  return given + batch


def dry_run(files, params):
  """Builds a configuration; returns the values that it used, as text."""
  with sessions.session(trainer.train, files, params) as parsed:
    result = parsed.build(
      workdir='unused',
      seed=0,
      context=context.RunContext(
        operative_config=parsed.operative,
        check_config=parsed.check,
        dry_run=True,
      ),
    )
    assert result.state is None
    parsed.check()
    return parsed.operative()


def test_every_published_setting_has_a_file():
  assert set(CONFIGS) > FRAGMENTS
  published = PUBLISHED | PUBLISHED_SLIM | PUBLISHED_PIXELS | PUBLISHED_CLASSES
  assert {stem(name) for name in COMPLETE} >= {*published, 'pg19', 'lm1b'}


def only_changes_values(name):
  """Whether a file takes a complete configuration and names no other object."""
  text = (files_lib.PROJECT_ROOT / name).read_text()
  lines = [line for line in text.splitlines() if not line.startswith('#')]
  includes = re.findall(r"^include '(.*)'", text, re.M)
  named = any('@' in line for line in lines)
  return not named and any(include in COMPLETE for include in includes)


VARIANTS = {name for name in COMPLETE if only_changes_values(name)} | TWINS


@pytest.mark.parametrize('name', sorted(VARIANTS))
def test_variants_are_read(name, data_params):
  """Names, references and open macros; to build them is slow."""
  params = params_of(name, data_params)
  with sessions.session(trainer.train, [name], params) as parsed:
    assert 'trainer.train' in parsed.text


@pytest.mark.parametrize(
  'name',
  [name for name in COMPLETE if name not in VARIANTS]
  + marks.slow(*sorted(VARIANTS)),
)
def test_builds_without_allocating_and_uses_every_binding(
  name, data_params, capsys, tmp_path
):
  before = {id(array) for array in jax.live_arrays()}
  operative = dry_run([name], params_of(name, data_params))
  made = [a for a in jax.live_arrays() if id(a) not in before]
  # Keys and dummy tokens, but no model: the largest has 300 MB.
  assert sum(array.nbytes for array in made) < 2**20
  text = capsys.readouterr().out
  assert operative.strip() in text
  if stem(name) in PUBLISHED:
    count = int(re.search(r'parameters: ([\d,]+)', text)[1].replace(',', ''))
    assert count == parameter_count(*PUBLISHED[stem(name)])
  if stem(name) in PUBLISHED_CLASSES:
    count = classifier_count(*PUBLISHED_CLASSES[stem(name)])
    assert f'parameters: {count:,} ' in text
  if stem(name) in PUBLISHED_PIXELS:
    layers = PUBLISHED_PIXELS[stem(name)]
    count = parameter_count(layers, 2048, 512, 64 + 64 + 3, 256)
    assert f'parameters: {count:,} ' in text
  if stem(name) in PUBLISHED_SLIM:
    assert f'parameters: {PUBLISHED_SLIM[stem(name)]:,} ' in text
  # What a run leaves behind can be read again and says the same.
  (tmp_path / 'again.gin').write_text(operative)
  with sessions.session(trainer.train, [tmp_path / 'again.gin']) as parsed:
    bindings = [line for line in parsed.text.splitlines() if ' = ' in line]
  assert sorted(bindings) == sorted(
    line for line in operative.splitlines() if ' = ' in line
  )


# They have no open macros: what they lack is the experiment.
OVERLAY = 'configs/performer/slim.gin'
RAY = 'configs/rl/ray.gin'
ADAPTIVE = 'configs/hpo/ufom_adaptive.gin'
BILEVEL = 'configs/nas/rl_darts_bilevel.gin'
OTHER_LEVELS = 'configs/nas/rl_darts_procgen_bilevel.gin'
ANNEALED = 'configs/nas/rl_darts_annealed.gin'
SETTLED = 'configs/nas/rl_darts_settled.gin'
BASELINES = [
  f'configs/rl/odetoode_{name}.gin'
  for name in ('dense', 'node', 'nanode', 'hyperode')
]


@pytest.mark.parametrize(
  ('experiment', 'overlay', 'params', 'used'),
  [
    (
      'performer/protein_causal_tiny',
      OVERLAY,
      ['CHUNK = 48'],
      'activations kept',
    ),
    (
      'rl/es_swimmer',
      RAY,
      ['NUM_WORKERS = 3'],
      'Ray.num_workers = %NUM_WORKERS',
    ),
    ('hpo/ufom_toy_tiny', ADAPTIVE, [], 'AdaptiveRule.r = %INNER_STEPS'),
    ('nas/rl_darts_grid_tiny', BILEVEL, [], 'alpha_lanes = %ALPHA_LANES'),
    ('nas/rl_darts_grid_tiny', ANNEALED, [], 'end_value = %LAST_TEMPERATURE'),
    ('rl/odetoode_pendulum_tiny', BASELINES[0], ['WIDTH = 8'], 'baselines'),
    *(
      ('rl/odetoode_digits_tiny', overlay, ['WIDTH = 8'], 'baselines')
      for overlay in BASELINES
    ),
    *marks.slow(
      ('nas/rl_darts_procgen_tiny', OTHER_LEVELS, [], 'batch: 3072 examples'),
      ('nas/rl_darts_grid_tiny', SETTLED, [], 'patience = %PATIENCE'),
      *(
        ('rl/odetoode_pendulum_tiny', overlay, ['WIDTH = 8'], 'baselines')
        for overlay in BASELINES[1:]
      ),
    ),
  ],
)
def test_any_experiment_with_an_overlay(
  experiment, overlay, params, used, capsys
):
  """Attention by chunks, many machines, an adaptive q, another body."""
  dry_run([f'configs/{experiment}.gin', overlay], params)
  assert used in capsys.readouterr().out


@pytest.mark.parametrize(
  'name',
  sorted(
    FRAGMENTS
    - {OVERLAY, RAY, ADAPTIVE, *BASELINES}
    - {BILEVEL, OTHER_LEVELS, ANNEALED, SETTLED}
  ),
)
def test_fragments_say_what_they_lack(name):
  lacks = r'D_FF|TASK|D_MODEL|model|STEPS|TRAINER|DATA|trainer|refers to it'
  with (
    pytest.raises(errors.ConfigError, match=lacks),
    sessions.session(trainer.train, [name], []),
  ):
    pass


def test_misspelt_macro_is_refused():
  with (
    pytest.raises(errors.ConfigError, match=r'EVAL_EVER\b.*EVAL_EVERY'),
    sessions.session(
      trainer.train, ['configs/rl/es_pendulum_tiny.gin'], ['EVAL_EVER = 1']
    ),
  ):
    pass
