"""Reading, checking and building gin configurations."""

import contextlib
import copy

import jax
import jax.numpy as jnp
import pytest
from gin import config as gin_config

from runtime import context
from runtime.config import errors, sessions
from runtime.config import files as files_lib

HEADER = 'from __gin__ import dynamic_registration\nimport toys\n'
FAVOR = """
FEATURES = 4
toys.train.attention = @toys.Favor()
toys.Favor.features = %FEATURES
"""
FULL = """
FEATURES = 16
RATE = 0.25
toys.train.attention = @toys.Favor()
toys.Favor.features = %FEATURES
toys.Favor.rates = (%RATE, 1)
toys.train.model = @toys.Encoder()
toys.Encoder:
  layers = 2
  attention = @toys.Favor()
toys.train.data = @train/toys.Dataset()
toys.train.valid = @eval/toys.Dataset()
train/toys.Dataset.split = 'train'
eval/toys.Dataset.split = 'valid'
toys.Dataset.length = 7
toys.train.hook = @toys.scaled()
toys.scaled.scale = 2
toys.scaled.function = @toys.relu
toys.train.other = @toys.Slotted()
toys.Slotted.width = 3
toys.train.sizes = (1, 2)
"""


@pytest.fixture
def toy(toy, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  return toy


@contextlib.contextmanager
def opened(toy, *files, params=(), seed=0, **options):
  """A session of these files, and what it builds."""
  with sessions.session(toy.train, files, params, **options) as parsed:
    launched = context.RunContext(
      config=parsed.text,
      operative_config=parsed.operative,
      check_config=parsed.check,
    )
    yield parsed, parsed.build(workdir='w', seed=seed, context=launched)


@pytest.fixture
def build(toy, tmp_path):
  """Builds the toy from the text of a file and parameters."""

  def call(text, *params, header=HEADER):
    (tmp_path / 'a.gin').write_text(header + text)
    options = {'seed': 3, 'allow': ('math', 'cmath')}
    with opened(toy, 'a.gin', params=params, **options) as (_, got):
      return got

  return call


def test_builds_every_kind_of_object(toy, build):
  got = build(FULL, 'FEATURES = 32', 'toys.train.steps = 5')
  favor = toy.Favor(32, rates=(0.25, 1))
  assert got['attention'] == favor
  assert type(got['attention']) is toy.Favor
  assert got['model'] == toy.Encoder(layers=2, attention=favor)
  assert type(got['model']) is toy.Encoder
  assert got['data'] == toy.Dataset('train', length=7)
  assert got['valid'] == toy.Dataset('valid', length=7)
  assert got['other'] == toy.Slotted(3)
  assert got['hook'](jnp.float32(1.5)) == 3.0
  assert (got['steps'], got['sizes']) == (5, (1, 2))
  assert (got['workdir'], got['seed'], got['rate']) == ('w', 3, 0.1)


def test_built_objects_are_static_arguments_like_originals(toy, build):
  favor = build(FAVOR)['attention']
  traces = []

  def scale(x, attention):
    traces.append(attention)
    return x * attention.features

  jitted = jax.jit(scale, static_argnums=1)
  assert jitted(2.0, favor) == jitted(2.0, toy.Favor(4)) == 8.0
  assert len(traces) == 1
  assert hash(favor) == hash(toy.Favor(4))


def test_built_module_initialises(toy, build):
  model = build(FULL)['model']
  shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((2, 3)))
  assert shapes['params']['Dense_1']['kernel'].shape == (3, 3)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      'toys.train.step = 3',
      "a.gin:3: toys.train has no parameter 'step'; did you mean steps?",
    ),
    (
      'toys.trane.steps = 3',
      "a.gin:3: toys has no 'trane'; did you mean train?",
    ),
    (
      'toyz.train.steps = 3',
      "a.gin:3: toyz.train: 'toyz' is not imported here; did you mean toys?",
    ),
    (
      'toys.train.hook = @toys.Favr',
      "a.gin:3: toys has no 'Favr'; did you mean Favor?",
    ),
    (
      'toys.train.hook = @toys',
      'a.gin:3: toys is not a function or a class',
    ),
    (
      'toys.trane:\n  steps = 3',
      "a.gin:3: toys has no 'trane'; did you mean train?",
    ),
    (
      'FEATURES = 3\ntoys.train.steps = %FEATURS',
      'a.gin:4: toys.train.steps refers to %FEATURS, which is not '
      'defined; did you mean FEATURES?',
    ),
    (
      ('STEPS = 3\ntoys.train.steps = %STEPS', 'STEP = 4'),
      "--gin_param 'STEP = 4': macro STEP is defined, but nothing refers to it; "
      'did you mean STEPS?',
    ),
    (
      'A = %B\nB = %A\ntoys.train.steps = %A',
      'a.gin:4: macro B is defined by itself',
    ),
    (
      'STEPS = %gin.REQUIRED\ntoys.train.steps = %STEPS',
      'STEPS must be given a value (a.gin:3)\n'
      '  set it in a gin file or with --gin_param "STEPS = ..."',
    ),
    (
      'toys.train.model = @toys.Encoder()',
      "Encoder.__init__() missing 1 required positional argument: 'layers'; "
      'bind a value in a gin file',
    ),
    (
      'toys.train.hook = @toys.scaled()',
      "scaled() missing 1 required positional argument: 'scale'; "
      'bind a value in a gin file',
    ),
    (
      'toys.train.seed = 3',
      'a.gin:3: toys.train.seed cannot be bound: the caller of '
      'toys.train passes it (the flag --seed on the command line)',
    ),
    (
      ('', 'toys.train.stps = 3'),
      "--gin_param 'toys.train.stps = 3': toys.train has "
      "no parameter 'stps'; did you mean steps?",
    ),
    (
      'from toys import train',
      'a.gin:3: toys is a module; import it and write toys.train',
    ),
    (
      'from performer import modles',
      "a.gin:3: no module 'performer.modles'; did you mean models?",
    ),
    ('import nowhere_at_all.x', "a.gin:3: no module 'nowhere_at_all'"),
    ('include "a.gin"', 'a.gin:3: a.gin includes itself'),
    (
      'from __gin__ import static_registration',
      'a.gin:3: Unrecognized __gin__ feature',
    ),
  ],
)
def test_names_mistake_and_nearest_names(build, text, message):
  """Of a file, or of a file and a parameter."""
  with pytest.raises(errors.ConfigError) as caught:
    build(*([text] if isinstance(text, str) else text))
  assert caught.value.message.startswith(message)
  assert '?' not in caught.value.message[len(message) :]


@pytest.mark.parametrize(
  ('text', 'line'),
  [
    ('toys.train.steps = relu', 3),
    ('\n\ntoys.train.steps 3', 5),
    ('toys.train.steps = (1,', 3),
    ('toys.train.steps =', 3),
    ('FEATURES = 3\n  = 4', 4),
    ('toys..train.steps = 3', 3),
  ],
)
def test_syntax_error_names_file_and_line(build, text, line):
  with pytest.raises(errors.ConfigError, match='syntax error') as caught:
    build(text)
  assert caught.value.message.startswith(f'a.gin:{line}: ')


def test_unquoted_text_is_explained(build):
  with pytest.raises(errors.ConfigError, match='text needs quotes'):
    build('', 'toys.train.other = relu')


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('toys.train.steps = "x"', "steps must be int, got 'x' (str)"),
    ('toys.train.steps = 1.5', 'steps must be int, got 1.5 (float)'),
    ('N = "x"\ntoys.train.steps = %N', "steps must be int, got 'x' (str)"),
    ('toys.train.rate = True', 'rate must be float, got True (bool)'),
    (
      f'toys.train.sizes = ({"1, " * 20}"x")',
      'sizes must be tuple[int, ...], got (1',
    ),
    (
      'toys.train.sizes = [1, 2]',
      'sizes must be tuple[int, ...], got [1, 2] (list)',
    ),
    ('toys.train.hook = 3', 'hook must be Callable | None, got 3'),
    (
      'toys.train.attention = @toys.Favor',
      "| None, got <class 'toys.Favor'> (type); are its parentheses",
    ),
    (
      'toys.train.sized = @toys.Dataset',
      "be Sized | None, got <class 'toys.Dataset'> (type); are its parentheses",
    ),
  ],
)
def test_wrong_literal_is_found_without_building(toy, tmp_path, text, message):
  (tmp_path / 'a.gin').write_text(HEADER + text)
  with (
    pytest.raises(errors.ConfigError) as caught,
    sessions.session(toy.train, ['a.gin']),
  ):
    pytest.fail('the session must not open')
  assert message in caught.value.message
  assert 'a.gin:' in caught.value.message


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    (
      'SIZES = (1, "x")\ntoys.train.sizes = %SIZES',
      '(tuple) (SIZES sets sizes)',
    ),
    (
      'A = 2.5\ntoys.train.sizes = (1, %A)',
      'got (1, 2.5) (tuple) (A sets sizes)',
    ),
    ('RATE = 1e999\ntoys.train.rate = %RATE', 'RATE must be finite'),
    ('toys.train.rate = -1e999', 'rate must be finite, got -inf'),
    (
      'import optax\nPACE = -0.1\noptax.sgd.learning_rate = %PACE\n'
      'toys.train.other = @optax.sgd()',
      'not be negative, got -0.1 (PACE sets learning_rate)',
    ),
    (
      'import optax\nPACE = "x"\noptax.sgd.learning_rate = %PACE\n'
      'toys.train.other = @optax.sgd()',
      'learning_rate must be float | Array | Callable, got',
    ),
    (
      'ATTENTION = @toys.Slotted()\ntoys.train.attention = %ATTENTION',
      '(Slotted) (ATTENTION sets attention)',
    ),
  ],
)
def test_wrong_value_names_the_macro_behind_it(build, text, message):
  with pytest.raises(errors.ConfigError) as caught:
    build(text)
  assert message in caught.value.message
  assert '\n' not in caught.value.message


def test_of_several_bindings_the_one_that_was_built_is_named(build):
  text = (
    'FIRST = 2\nSECOND = 3\nTHIRD = 4\n'
    'toys.Dataset.length = %FIRST\n'
    'toys.train.data = @toys.Dataset()\n'
    'toys.Dataset.split = "x"\n'
    'toys.train.attention = @a/toys.fails()\n'
    'a/toys.fails.length = %SECOND\n'
    'toys.train.other = @b/toys.fails()\n'
    'b/toys.fails.length = %THIRD'
  )
  with pytest.raises(ValueError, match='even') as caught:
    build(text)
  told = sessions.tell(caught.value)
  assert told.endswith('(while building fails; SECOND sets length)')


def test_too_large_numbers_are_named(build):
  text = f'HUGE = {2**31 - 1}\ntoys.train.hook = @toys.filled()\n'
  with pytest.raises(MemoryError) as caught:
    build(text + 'toys.filled.size = %HUGE')
  caught.value.add_note('-----\nfor readers of tracebacks')
  told = sessions.tell(caught.value)
  assert told.startswith('Unable to allocate')
  assert told.endswith(
    '(while building filled; largest numbers: HUGE = 2147483647)'
  )


@pytest.mark.parametrize(
  ('value', 'parameter'),
  [
    (10**18, 'steps'),
    (-(2**31), 'steps'),
    ((1, 2**31), 'sizes'),
    (2**31, 'data'),
  ],
)
def test_counts_beyond_32_bits_name_their_macro(build, value, parameter):
  target = {'data': 'Dataset.length'}.get(parameter, f'train.{parameter}')
  data = '\ntoys.train.data = @toys.Dataset()'
  text = f'COUNT = 3\ntoys.{target} = %COUNT{data}'
  with pytest.raises(errors.ConfigError, match=r'between -2\^31 and') as caught:
    build(text, f'COUNT = {value}')
  assert f'(COUNT sets {target.split(".")[1]})' in caught.value.message
  assert '\n' not in caught.value.message


def test_quantities_may_exceed_32_bits(build):
  assert build('toys.train.rate = 5000000000')['rate'] == 5e9


@pytest.mark.parametrize('parameter', ['data_seed', 'tuning'])
def test_seeds_have_the_range_of_the_flag(build, parameter):
  """Of 32 bits without a sign, where counts have one."""
  text = 'FIRST = 3\ntoys.train.other = @toys.Seeds()\ntoys.Seeds.'
  text += f'{parameter} = {"(%FIRST,)" if parameter == "tuning" else "%FIRST"}'
  largest = 2**32 - 1
  found = build(text, f'FIRST = {largest}')['other']
  assert getattr(found, parameter) in (largest, (largest,))
  for value in (-1, largest + 1):
    with pytest.raises(errors.ConfigError, match=r'0 and 2\^32 - 1') as caught:
      build(text, f'FIRST = {value}')
    assert f'(FIRST sets {parameter})' in caught.value.message


def test_a_statement_of_the_command_line_is_named_beside_the_one_that_fails(
  build,
):
  """The failing parameter is not always the one that was changed."""
  text = (
    'LENGTH = 3\nRATE = 0.1\ntoys.train.rate = %RATE\n'
    'toys.train.attention = @toys.fails()\n'
    'toys.fails.length = %LENGTH'
  )
  told = []
  for param in ('RATE = 0.5', 'LENGTH = 5', 'toys.fails.length = 7'):
    with pytest.raises(ValueError, match='even') as caught:
      build(text, param)
    told.append(sessions.tell(caught.value))
  assert told[0].endswith(
    'LENGTH sets length; on the command line: RATE = 0.5)'
  )
  assert not any('command line' in text for text in told[1:])


def test_a_message_about_a_flag_names_no_statement(build):
  text = (
    'toys.train.hook = @toys.refuses()\nRATE = 0.1\ntoys.train.rate = %RATE'
  )
  with pytest.raises(ValueError, match='leave out --start') as caught:
    build(text, 'RATE = 0.5')
  assert 'RATE' not in sessions.tell(caught.value)


def test_wrong_object_is_found_when_it_is_built(build):
  text = 'toys.train.attention = @toys.Dataset()\ntoys.Dataset.split = "x"'
  with pytest.raises(errors.ConfigError, match=r'a\.gin:3: .*got Dataset\('):
    build(text)


def test_unused_binding_is_an_error(build):
  with pytest.raises(errors.ConfigError, match='never used') as caught:
    build('toys.Favor.features = 3')
  assert 'toys.Favor.features = 3 (a.gin:3)' in str(caught.value)


def test_replacing_a_reference_excuses_what_came_before(toy, build):
  exact = FAVOR + 'toys.train.attention = @toys.Exact()\n'
  assert build(exact)['attention'] == toy.Exact()


def test_replacing_a_macro_excuses_the_chain_behind_it(toy, build):
  chain = FAVOR.replace('@toys.Favor()', '%ATTENTION')
  chain += 'ATTENTION = @toys.Favor()\n'
  assert build(chain)['attention'] == toy.Favor(4)
  swap = 'ATTENTION = @toys.Exact()'
  assert build(chain, swap)['attention'] == toy.Exact()
  with pytest.raises(errors.ConfigError, match='FEATURES = 5'):
    build(chain, swap, 'FEATURES = 5')


@pytest.mark.parametrize('param', ['FEATURES = 3', 'toys.Favor.features = 3'])
def test_setting_after_its_target_was_replaced_is_an_error(build, param):
  exact = FAVOR + 'toys.train.attention = @toys.Exact()\n'
  with pytest.raises(errors.ConfigError, match='never used') as caught:
    build(exact, param)
  assert str(caught.value).count('\n') == 1
  assert param in str(caught.value)


def test_scoped_binding_may_replace_an_earlier_general_one(build):
  scoped = (
    'toys.train.data = @train/toys.Dataset()\n'
    "toys.Dataset.split = 'all'\n"
    "train/toys.Dataset.split = 'train'\n"
  )
  assert build(scoped)['data'].split == 'train'
  with pytest.raises(errors.ConfigError, match='never used'):
    build(scoped, "toys.Dataset.split = 'late'")


def test_parameters_override_files_and_use_their_imports(toy, build):
  got = build(
    FAVOR,
    'FEATURES = 9',
    'toys.train.valid = @eval/toys.Dataset()',
    "eval/toys.Dataset.split = 'valid'",
  )
  assert got['attention'] == toy.Favor(9)
  assert got['valid'] == toy.Dataset('valid')


@pytest.mark.parametrize('after', [False, True])
def test_parameters_mean_the_import_of_the_including_file(
  toy, tmp_path, build, after
):
  (tmp_path / 'base.gin').write_text(
    'from __gin__ import dynamic_registration\nimport math as things\n'
  )
  own, include = 'import toys as things\n', "include 'base.gin'\n"
  text = own + include if after else include + own
  got = build(text, 'toys.train.attention = @things.Exact()', header=HEADER)
  assert got['attention'] == toy.Exact()


def test_later_file_overrides_earlier(toy, tmp_path):
  (tmp_path / 'a.gin').write_text(HEADER + FAVOR)
  (tmp_path / 'b.gin').write_text('FEATURES = 11')
  with opened(toy, 'a.gin', 'b.gin') as (_, got):
    assert got['attention'] == toy.Favor(11)


def test_include_is_relative_to_the_including_file(toy, tmp_path, monkeypatch):
  (tmp_path / 'deep').mkdir()
  (tmp_path / 'deep' / 'base.gin').write_text(HEADER + FAVOR)
  experiment = tmp_path / 'deep' / 'x.gin'
  experiment.write_text('include "base.gin"\nFEATURES = 12')
  (tmp_path / 'elsewhere').mkdir()
  monkeypatch.chdir(tmp_path / 'elsewhere')
  for name in (str(experiment), '../deep/x.gin'):
    with opened(toy, name) as (_, got):
      assert got['attention'] == toy.Favor(12)


def test_mistake_in_included_file_names_that_file(toy, tmp_path):
  (tmp_path / 'base.gin').write_text(HEADER + '\nSTEPS = ]')
  (tmp_path / 'x.gin').write_text('include "base.gin"\n')
  with (
    pytest.raises(errors.ConfigError, match=r'^base\.gin:4: syntax error'),
    sessions.session(toy.train, ['x.gin']),
  ):
    pass


def test_file_is_found_in_the_project_from_any_folder(
  toy, tmp_path, monkeypatch
):
  project = tmp_path / 'project'
  (project / 'configs' / 'toy').mkdir(parents=True)
  (project / 'configs' / 'toy' / 'x.gin').write_text(HEADER)
  monkeypatch.setattr(files_lib, 'PROJECT_ROOT', project)
  assert files_lib.available('toy') == ['configs/toy/x.gin']
  found = files_lib.find('configs/toy/x.gin')
  assert found == project / 'configs' / 'toy' / 'x.gin'
  with pytest.raises(errors.ConfigError) as caught:
    files_lib.find('configs/toi/x.gin')
  message = caught.value.message
  assert str(tmp_path / 'configs/toi/x.gin') in message
  assert str(project / 'configs/toi/x.gin') in message
  assert 'did you mean configs/toy/x.gin?' in message


def test_unreadable_file_is_a_config_error(toy, tmp_path):
  (tmp_path / 'a.gin').write_bytes(b'\xff\xfe')
  with (
    pytest.raises(errors.ConfigError, match=r'^a\.gin: cannot be read'),
    sessions.session(toy.train, ['a.gin']),
  ):
    pass


def test_file_without_dynamic_registration_is_refused(build):
  with pytest.raises(errors.ConfigError, match='dynamic_registration'):
    build('toys.train.steps = 3', header='')


@pytest.mark.parametrize('attribute', ['text', 'operative'])
def test_printed_configuration_gives_the_same_run(toy, tmp_path, attribute):
  (tmp_path / 'a.gin').write_text(HEADER + FULL)

  def run(name):
    with opened(toy, name) as (parsed, got):
      got.pop('hook')  # A fresh closure at each call.
      text = parsed.text if attribute == 'text' else parsed.operative()
    return got, text

  first, text = run('a.gin')
  (tmp_path / 'b.gin').write_text(text)
  second, again = run('b.gin')
  assert second == first
  assert again == text


def test_printed_configuration_keeps_the_order_of_dictionaries(toy, tmp_path):
  names = [f'{letter}_a_name_that_fills_its_line' for letter in 'cab']
  value = {name: {'z': 1, 'y': 2} for name in names}
  (tmp_path / 'a.gin').write_text(
    f'{HEADER}D = {value}\ntoys.train.other = %D\n'
  )
  for name in ('a.gin', 'b.gin', 'c.gin'):
    with opened(toy, name) as (parsed, got):
      (tmp_path / 'b.gin').write_text(parsed.text)
      (tmp_path / 'c.gin').write_text(parsed.operative())
    assert list(got['other']) == names
    assert list(got['other'][names[0]]) == ['z', 'y']


def test_operative_configuration_records_defaults(toy, tmp_path):
  (tmp_path / 'a.gin').write_text(HEADER + FAVOR)
  with opened(toy, 'a.gin') as (parsed, _):
    lines = parsed.operative().splitlines()
  assert "toys.Favor.kernel = 'relu'" in lines
  assert 'toys.train.steps = 10' in lines
  assert not any('seed' in line or 'workdir' in line for line in lines)


def test_sessions_are_independent_and_nest(toy, build, tmp_path):
  (tmp_path / 'outer.gin').write_text(HEADER + FAVOR)
  before = copy.copy(gin_config._CONFIG)
  registered = list(gin_config._REGISTRY._selector_map)
  with opened(toy, 'outer.gin') as (_, got):
    assert build('')['attention'] is None
    assert got['attention'] == toy.Favor(4)
  assert build('toys.train.steps = 4')['steps'] == 4
  assert before == gin_config._CONFIG
  assert registered == list(gin_config._REGISTRY._selector_map)


def test_one_alias_may_name_two_modules_in_two_sessions(toy, build):
  header = 'from __gin__ import dynamic_registration\n'
  for module, name in (('math', 'sqrt'), ('cmath', 'sqrt')):
    text = f'import {module} as m\nimport toys\ntoys.train.other = @m.{name}'
    got = build(text, header=header)['other'](4)
    assert type(got) is (complex if module == 'cmath' else float)


def test_session_leaves_no_trace_after_an_error(toy, build):
  with pytest.raises(errors.ConfigError):
    build('toys.train.steps = 3\ntoys.train.x = 4')
  assert build('')['steps'] == 10


def test_tell_keeps_the_message_and_the_innermost_name(build):
  text = 'toys.train.attention = @toys.fails()\ntoys.fails.length = 3'
  with pytest.raises(ValueError, match='even') as caught:
    build(text)
  assert 'In call to configurable' in str(caught.value)
  assert sessions.tell(caught.value, root='train') == (
    'length must be even, got length=3 (while building fails)'
  )
  with pytest.raises(ValueError, match='negative') as caught:
    build('toys.train.steps = -1')
  assert sessions.tell(caught.value, root='train') == (
    'steps must not be negative, got steps=-1'
  )


def test_functions_keep_their_values_after_the_session(toy, tmp_path):
  (tmp_path / 'a.gin').write_text(
    HEADER + 'SCALED = @toys.scaled\n'
    'toys.train.hook = %SCALED\n'
    'toys.train.other = (@x/toys.scaled, @toys.relu)\n'
    'toys.scaled.scale = 2.0\n'
    'x/toys.scaled.scale = 5.0\n'
    'toys.scaled.function = @toys.relu\n'
  )
  with sessions.session(toy.train, ['a.gin']) as parsed:
    found = parsed.arguments()
  scoped, plain = found['other']
  assert found['hook']()(3.0) == 6.0
  assert found['hook'](scale=4.0)(3.0) == 12.0
  assert scoped()(3.0) == 15.0
  assert plain is toy.relu


def test_errors_of_the_code_are_not_errors(toy, build, monkeypatch):
  def broken():
    return toy.Dataset()

  broken.__module__ = toy.__name__
  monkeypatch.setattr(toy, 'broken', broken, raising=False)
  with pytest.raises(TypeError, match='missing 1 required') as caught:
    build('toys.train.other = @toys.broken()')
  assert not isinstance(caught.value, errors.ConfigError)
