"""The pages of the site, as hooks of MkDocs; see mkdocs.yml.

The Markdown files of the repository keep their places, and so do the pictures that
they show. Notebooks become pages. Each package has a page with the docstrings of its
modules.
"""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure import files as files_lib

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ('performer', 'rl', 'nas', 'hpo', 'runtime')
_NOT_OURS = {'.venv', '.cache', '.git', 'runs', 'tests', 'site'}
_LINK = re.compile(r'\]\(([^)#\s]+)')


def on_config(config: Any) -> Any:
  """Names the pages in their order."""
  systems = [
    {_title(path): path}
    for path in _markdown()
    if path.endswith('/README.md') and path.partition('/')[0] in _PACKAGES
  ]
  config.nav = [
    {'Attune': 'README.md'},
    {'Map': 'WORKSPACE.md'},
    {'Systems': systems},
    {'Notebooks': [{_title(p): _as_page(p)} for p in _notebooks()]},
    {'Results': 'docs/results.md'},
    {'Benchmarks': 'benchmarks/README.md'},
    {'API': [{name: path} for name, path in _api()]},
    {'Changes': ['CHANGELOG.md', 'CONTRIBUTING.md']},
  ]
  return config


def on_files(files: files_lib.Files, config: Any) -> files_lib.Files:
  """Adds the files of the repository, and the pages made of code."""
  found: dict[str, str | None] = {}
  for path in _markdown():
    found[path] = None
    found |= dict.fromkeys(_linked(path))
  for path in _notebooks():
    found[_as_page(path)] = _page(_ROOT / path)
  for name, path in _api():
    found[path] = _docstrings(name)
  for path, content in found.items():
    source = {'abs_src_path': str(_ROOT / path)} if content is None else {}
    source = source or {'content': content}
    files.append(files_lib.File.generated(config, path, **source))
  return files


def on_page_markdown(markdown: str, **unused: Any) -> str:
  """Links to notebooks lead to their pages."""
  del unused
  return markdown.replace('.ipynb)', '.md)')


def _markdown() -> list[str]:
  paths = (path.relative_to(_ROOT) for path in _ROOT.rglob('*.md'))
  return sorted(p.as_posix() for p in paths if not _NOT_OURS & {*p.parts})


def _notebooks() -> list[str]:
  paths = sorted((_ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
  return [path.relative_to(_ROOT).as_posix() for path in paths]


def _as_page(notebook: str) -> str:
  return notebook.removesuffix('.ipynb') + '.md'


def _linked(page: str) -> Iterator[str]:
  """Other files that a page links to or shows."""
  folder = (_ROOT / page).parent
  for link in _LINK.findall((_ROOT / page).read_text(encoding='utf-8')):
    path = (folder / link).resolve()
    if path.suffix not in ('.md', '.ipynb') and path.is_file():
      yield path.relative_to(_ROOT).as_posix()


def _title(path: str) -> str:
  """The first heading of a page, or of the first cell of a notebook."""
  text = (_ROOT / path).read_text(encoding='utf-8')
  if path.endswith('.ipynb'):
    text = _page(_ROOT / path)
  return re.search(r'^# (.+)$', text, re.M)[1]


def _page(notebook: pathlib.Path) -> str:
  """A notebook as Markdown; its outputs are not kept in the repository."""
  parts = []
  for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
    text = ''.join(cell['source'])
    is_code = cell['cell_type'] == 'code'
    parts.append(f'```python\n{text}\n```' if is_code else text)
  return '\n\n'.join(parts)


def _api() -> list[tuple[str, str]]:
  """Names and pages of all packages with modules."""
  inits = sorted(
    path.parent.relative_to(_ROOT)
    for package in _PACKAGES
    for path in (_ROOT / package).rglob('__init__.py')
  )
  return [
    ('.'.join(path.parts), f'api/{"/".join(path.parts)}.md') for path in inits
  ]


def _docstrings(package: str) -> str:
  """The directives for a package and its modules."""
  folder = _ROOT.joinpath(*package.split('.'))
  modules = [
    f'{package}.{path.stem}'
    for path in sorted(folder.glob('*.py'))
    if path.stem not in ('__init__', '__main__')
  ]
  directives = [f'::: {name}' for name in (package, *modules)]
  return '\n\n'.join([f'# {package}', *directives])
