"""What READMEs tell a user to type exists: modules, flags, files, blocks."""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import shlex
import sys
import tomllib

import pytest
from absl import flags

import papers
from papers import rows
from runtime import launch, sweep, trainer
from runtime.config import sessions
from runtime.context import RunContext

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = sorted(
  path
  for path in ROOT.rglob('*.md')
  if not {'.venv', 'results', 'runs', '.pytest_cache'} & set(path.parts)
)
# Python blocks are run by the test of the package, or below.
RUN_BY = {
  'README.md': 'tests/performer/attention',
  'WORKSPACE.md': 'tests/test_readmes.py',
  'performer/attention/README.md': 'tests/performer/attention',
} | {
  f'{package}/README.md': 'tests/test_readme_code.py'
  for package in (
    *('performer', 'performer/slim', 'nas/es_enas', 'nas/rl_darts', 'rl'),
    *('hpo/optformer', 'hpo/autorl', 'hpo/ufom', 'rl/implicit_attention'),
    'rl/odetoode',
  )
}
LAUNCHED = (
  *(
    'runtime.train',
    'performer.train',
    'rl.train',
    'hpo.optformer.main',
    'hpo.ufom.main',
  ),
  *('rl.odetoode.main', 'nas.es_enas.main', 'nas.rl_darts.main'),
  'hpo.autorl.main',
)


def commands(path):
  """Command lines of fenced blocks and of code in tables and text."""
  text = path.read_text()
  blocks = re.findall(r'^```(?:bash|sh|console)?\n(.*?)^```', text, re.M | re.S)
  lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
  lines += re.findall(r'`((?:\S+=\S+ )*\S*python\S* -m [^`]+)`', text)
  for line in lines:
    found = re.search(r'python[\d.]* -m ([\w.]+)(.*)', line.split('  #')[0])
    if found:
      yield found[1], shlex.split(found[2])


def test_every_block_of_python_has_a_test():
  with_blocks = {
    str(page.relative_to(ROOT))
    for page in PAGES
    if '```python' in page.read_text()
  }
  assert with_blocks == set(RUN_BY)
  assert all((ROOT / where).exists() for where in RUN_BY.values())


@pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_name_what_exists(page):
  for module, words in commands(page):
    if module in ('venv', 'pip', 'pytest'):
      continue
    assert importlib.util.find_spec(module), (page, module)
    if module in LAUNCHED and 'FLAGS' not in words:
      _check_flags(words)
    if module == 'runtime.sweep' and any('gin_file' in word for word in words):
      sweep.plan_of(sweep._arguments(words))


def _check_flags(words):
  values = flags.FlagValues()
  launch.define_flags(values)
  rest = values(['program', *words])
  assert rest == ['program'], words
  for name in values.gin_file:
    assert '...' in name or 'FILE' in name or (ROOT / name).exists(), name


def test_flags_that_do_not_exist_would_be_found():
  with pytest.raises(flags.UnrecognizedFlagError):
    _check_flags(['--gin_fil=x'])
  found = list(commands(ROOT / 'WORKSPACE.md'))
  assert {'performer.train', 'runtime.evaluate'} <= dict(found).keys()


@pytest.mark.parametrize(
  'module', ['evaluate', 'report', 'compare', 'performer.generate']
)
def test_options_of_commands_that_the_page_names_exist(module, monkeypatch):
  name = module if '.' in module else f'runtime.{module}'
  known = set()

  def stop(parser, argv=None):
    known.update(parser._option_string_actions)
    raise SystemExit

  monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
  with pytest.raises(SystemExit):
    importlib.import_module(name).main([])
  text = (ROOT / 'WORKSPACE.md').read_text()
  (row,) = re.findall(rf'^\| `python -m {name} .*$', text, re.M)
  assert set(re.findall(r'`(--\w+)', row)) <= known


LINK = re.compile(r'(?<!`)!?\[[^]]*\]\(([^)\s]+)\)')


def slug(heading):
  """The anchor that viewers of Markdown give to a heading."""
  return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


def dead_links(page, text):
  """Links to files or headings that do not exist."""
  prose = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
  for link in LINK.findall(prose):
    if re.match(r'[a-z]+:', link):
      continue
    name, _, anchor = link.partition('#')
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
      yield link
    elif anchor:
      other = text if target == page else target.read_text()
      headings = re.findall(r'^#+ (.+)$', other, re.M)
      if anchor not in map(slug, headings):
        yield link


def test_links_of_all_pages_lead_somewhere():
  pages = [*PAGES, ROOT / 'docs' / 'results.md']
  found = {
    str(page.relative_to(ROOT)): dead
    for page in pages
    if (dead := [*dead_links(page, page.read_text())])
  }
  assert found == {}


def test_dead_links_would_be_found():
  text = (
    '# One two\n[a](WORKSPACE.md) [b](nowhere.md) ![c](#one-two) [d](#three)'
  )
  text += '\n```\n[e](code.md)\n```\n[f](https://x.y) [g](WORKSPACE.md#sweep)'
  found = [*dead_links(ROOT / 'README.md', text)]
  assert found == ['nowhere.md', '#three']


def test_the_table_of_papers_is_current():
  text = (ROOT / 'README.md').read_text()
  assert rows.with_results(text, ROOT / 'docs' / 'results') == text
  with pytest.raises(ValueError, match='needs the marks'):
    rows.with_results('# No marks', ROOT / 'docs' / 'results')


def test_the_citation_names_this_version_and_all_papers():
  text = (ROOT / 'CITATION.cff').read_text()
  with (ROOT / 'pyproject.toml').open('rb') as stream:
    version = tomllib.load(stream)['project']['version']
  assert f'version: {version}\n' in text
  assert f'## {version}\n' in (ROOT / 'CHANGELOG.md').read_text()
  assert re.findall(r'value: arXiv:(\S+)', text) == [*papers.PAPERS]


NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_kept_without_outputs(path):
  notebook = json.loads(path.read_text())
  code = [c for c in notebook['cells'] if c['cell_type'] == 'code']
  assert code
  assert all(c['outputs'] == [] and c['execution_count'] is None for c in code)
  text = ''.join(''.join(c['source']) for c in notebook['cells'])
  assert [*dead_links(path, text)] == []


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path, monkeypatch):
  nbclient = pytest.importorskip('nbclient')
  nbformat = pytest.importorskip('nbformat')
  pytest.importorskip('ipykernel')
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(ROOT), *sys.path]))
  notebook = nbformat.read(path, as_version=4)
  options = {'timeout': 1200, 'resources': {'metadata': {'path': str(ROOT)}}}
  nbclient.NotebookClient(notebook, **options).execute()


def test_the_notebook_of_the_workspace(tmp_path, capsys):
  text = (ROOT / 'WORKSPACE.md').read_text()
  (block,) = re.findall(r'^```python\n(.*?)^```', text, re.M | re.S)
  params = ['STEPS = 2', 'LOG_EVERY = 1']
  params.append("checkpoints.CheckpointConfig.best_metric = 'eval/true/slope'")
  files = ['configs/hpo/ufom_toy_tiny.gin']
  with sessions.session(trainer.train, files, params) as parsed:
    parsed.build(
      workdir=str(tmp_path),
      seed=0,
      context=RunContext(operative_config=parsed.operative),
    )
  capsys.readouterr()
  assert "'runs/protein_mlm_tiny'" in block
  exec(block.replace("'runs/protein_mlm_tiny'", repr(str(tmp_path))), {})
  assert 'eval/true/slope' in capsys.readouterr().out
