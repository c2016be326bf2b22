"""Rows of the ledger as data: claims, measurements, verdicts, pictures."""

import dataclasses
import importlib
import os
import pathlib
import pkgutil
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt

import papers
from papers import claims as claims_lib
from papers import describing, figures, running
from papers import study as study_lib
from runtime.record import ledger, tables

__all__ = [
  'Row',
  'System',
  'find',
  'judge',
  'numbers',
  'power',
  'publish',
  'results_table',
  'table',
  'with_results',
  'write_page',
]

# Marks of a page between which the table of papers stands.
_BEGIN, _END = '<!-- results: python -m papers page -->', '<!-- end -->'
Table = Mapping[str, npt.ArrayLike]
Claims = Sequence[claims_lib.Claim]
_MOST_TOLD = 8  # Arms whose trials fit a remark.


@dataclasses.dataclass(frozen=True)
class Row:
  """A row before it is run.

  Attributes:
    id: name of the row, unique in its system; also the name of its files.
    claim: the claim of the paper, in a sentence.
    study: the study to run; where scales differ, by 'tiny' and 'paper'.
    ours: makes the numbers: by label, one per seed, or a single one for what
      does not depend on the seed.
    trend: the relation that must hold between the numbers, in words.
    claims: that relation; all must hold. A function where it depends on the
      numbers, such as on which arm is best.
    figure: panels of the picture.
    published: the published figure, or `not found`.
    explain: remarks on the setting and on what failed.
    unlisted: more numbers that claims need, which the row does not list.
    headline: label of the number that the table of the page shows; empty: the
      first.
    title: above the picture.
    curves: also write the curves of the picture as CSV.
  """

  id: str
  claim: str
  study: study_lib.Study | Mapping[str, study_lib.Study]
  ours: Callable[[study_lib.Results], Table]
  trend: str
  claims: Claims | Callable[[claims_lib.Table], Claims]
  figure: Callable[[study_lib.Results], figures.Panel | Sequence[figures.Panel]]
  published: ledger.Published | str = ledger.NOT_FOUND
  explain: str | Callable[[study_lib.Results], str] = ''
  unlisted: Callable[[study_lib.Results], Table] | None = None
  headline: str = ''
  title: str = ''
  curves: bool = False

  def has_scale(self, scale: str) -> bool:
    """Whether there is a study at a scale."""
    return isinstance(self.study, study_lib.Study) or scale in self.study

  def at_scale(self, scale: str) -> study_lib.Study:
    """The study at a scale; raises ValueError if there is none."""
    if not self.has_scale(scale):
      raise ValueError(
        f'{self.id} has no scale {scale!r}, only {sorted(self.study)}'
      )
    whole = isinstance(self.study, study_lib.Study)
    return self.study if whole else self.study[scale]

  def seeds(self, scale: str, count: int | None) -> range | None:
    """The seeds at a scale; None where nothing is random.

    Args:
      scale: 'tiny' or 'paper'.
      count: number of seeds; None: as many as the study has.

    Raises:
      ValueError: if there is no such scale, or there is nothing to seed.
    """
    usual = self.at_scale(scale).seeds
    if usual is None and count is not None:
      raise ValueError(f'{self.id} has no randomness, so no seeds: {count}')
    return None if usual is None else range(count or usual)

  def stated(self, values: claims_lib.Table) -> claims_lib.All:
    """The claims about these numbers."""
    found = self.claims(values) if callable(self.claims) else self.claims
    return claims_lib.All(tuple(found))

  def is_stale(self, recorded: ledger.Row) -> bool:
    """Whether settings or claims have changed since the row was recorded.

    What a row was recorded without, settings or judged claims, has not changed.
    """
    study = self.at_scale(recorded.scale)
    changed = bool(recorded.settings) and any(
      recorded.settings.get(arm) not in options
      for arm, options in _options(study, recorded.settings).items()
    )
    return changed or (
      bool(recorded.findings) and self._judges_otherwise(recorded)
    )

  def _judges_otherwise(self, recorded: ledger.Row) -> bool:
    """Whether the claims say something else about the recorded numbers."""
    if callable(self.claims) and self.unlisted:
      return False  # They are made for numbers of which some are not recorded.
    exact = self.at_scale(recorded.scale).seeds is None
    try:
      parts = self.stated(recorded.ours).parts
      found = [part.judge(recorded.ours, exact=exact) for part in parts]
    except claims_lib.MissingLabelError:
      return False  # Recorded without labels that the row does not list.
    return tuple(part.sentence for part in found) != recorded.findings


def _options(
  study: study_lib.Study, known: Mapping[str, Any]
) -> dict[str, list[Any]]:
  """Descriptions of the settings that an arm may end with, beside known ones."""
  trials = study.trials
  return {
    arm: [
      describing.describe(option, known=known.get(arm))
      for option in (trials.options(value).values() if trials else [value])
    ]
    for arm, value in study.arms.items()
  }


class System(NamedTuple):
  """A folder of `papers`.

  Attributes:
    name: of the folder.
    paper: arXiv id, as the folder's `PAPER` says.
    rows: by id, from the tuples `ROWS` of its modules.
  """

  name: str
  paper: str
  rows: Mapping[str, Row]


def find() -> dict[str, System]:
  """All systems by name.

  Raises:
    ValueError: if two rows of a system have one id.
  """
  return {
    module.name: _system(importlib.import_module(f'papers.{module.name}'))
    for module in pkgutil.iter_modules(papers.__path__)
    if module.ispkg
  }


def _system(package: Any) -> System:
  rows: dict[str, Row] = {}
  name = package.__name__.rpartition('.')[-1]
  for module in pkgutil.iter_modules(package.__path__):
    table = importlib.import_module(f'{package.__name__}.{module.name}')
    for row in getattr(table, 'ROWS', ()):
      if row.id in rows:
        raise ValueError(f'two rows of {name} are called {row.id!r}')
      rows[row.id] = row
  return System(name, package.PAPER, rows)


def table(
  results: study_lib.Results,
  *metrics: str,
  form: str | None = None,
  arms: Sequence[str] | None = None,
  names: Mapping[str, str] | None = None,
  factor: float = 1.0,
) -> dict[str, np.ndarray]:
  """Numbers by label: the metrics of all arms, of curves the last value.

  Args:
    results: of a study.
    *metrics: metrics in its records.
    form: of the labels; with `{at}` if the study has positions, of which those
      that have no such metric are left out. None: '{arm}' for one metric,
      '{arm}: {metric}' for several.
    arms: which; None: all.
    names: of metrics in the labels, where other than in the records.
    factor: of the numbers, such as 100 for percent.
  """
  names = names or {}
  if form is None:
    form = '{arm}: {metric}' if len(metrics) > 1 else '{arm}'
  return {
    form.format(arm=arm, metric=names.get(metric, metric), at=at): factor
    * np.array([np.ravel(x)[-1] for x in results.curves(arm, metric, at)])
    for metric in metrics
    for arm in (results.arms if arms is None else arms)
    for at in results.places(arm, metric)
  }


def numbers(
  *metrics: str, **options: Any
) -> Callable[[study_lib.Results], dict[str, np.ndarray]]:
  """The numbers of a row that are a `table`; arguments as there."""
  return lambda results: table(results, *metrics, **options)


def _as_tuples(values: Table) -> dict[str, tuple[float, ...]]:
  return {k: tuple(map(float, np.atleast_1d(v))) for k, v in values.items()}


def judge(
  row: Row, results: study_lib.Results
) -> tuple[dict[str, tuple[float, ...]], list[claims_lib.Judged]]:
  """The numbers of a row, and their verdict on each of its claims."""
  ours = _as_tuples(row.ours(results))
  more = _as_tuples(row.unlisted(results)) if row.unlisted else {}
  exact = results.seeds is None
  parts = row.stated(ours | more).parts
  return ours, [part.judge(ours | more, exact=exact) for part in parts]


def publish(
  row: Row,
  scale: str,
  *,
  system: System,
  root: str | os.PathLike[str],
  seeds: int | None,
  options: running.Options,
) -> ledger.Row:
  """Runs a row and writes it with its picture.

  Args:
    row: row to run.
    scale: 'tiny' or 'paper'.
    system: system of the row.
    root: folder of the ledger.
    seeds: number of seeds; None: those of the study.
    options: options of the runs.

  Returns:
    The row of the ledger.

  Raises:
    ValueError: as `Row.seeds` and `running.run`.
  """
  chosen = row.seeds(scale, seeds)
  results = running.run(row.at_scale(scale), chosen, options)
  written = _recorded(row, scale, system, results)
  path, _ = ledger.write(written, root)
  panels = row.figure(results)
  panels = [panels] if isinstance(panels, figures.Panel) else panels
  figures.draw(panels, path.with_suffix('.png'), title=row.title)
  if row.curves:
    figures.write_curves(panels, path.with_name(f'{path.stem}-curves.csv'))
  return written


def _recorded(
  row: Row, scale: str, system: System, results: study_lib.Results
) -> ledger.Row:
  ours, judged = judge(row, results)
  count = None if results.seeds is None else len(results.seeds)
  return ledger.Row(
    id=row.id,
    paper=system.paper,
    claim=row.claim,
    scale=scale,
    hardware=_hardware(),
    seeds=results.seeds or (0,),
    ours=ours,
    published=row.published,
    trend=row.trend,
    verdict=claims_lib.conjunction(part.verdict for part in judged),
    command=_command(system.name, row.id, scale, count),
    commit=results.commits[-1],
    minutes=results.minutes,
    explanation=_explanation(row, results),
    findings=tuple(part.sentence for part in judged),
    settings={k: describing.describe(v) for k, v in results.settings.items()},
    headline=row.headline,
    date=results.date,
  )


def _hardware() -> str:
  device = jax.devices()[0]
  if device.platform == 'cpu':
    return f'{platform.machine()} CPU, {os.cpu_count()} cores'
  return device.device_kind


def _command(system: str, name: str, scale: str, seeds: int | None) -> str:
  words = ['python', '-m', 'papers', system, name, '--scale', scale]
  words += [] if seeds is None else ['--seeds', str(seeds)]
  return shlex.join(words)


def _explanation(row: Row, results: study_lib.Results) -> str:
  """The row's remarks, the choices of trials, and the commits of its runs."""
  text = row.explain(results) if callable(row.explain) else row.explain
  parts = [text] if text else []
  if results.tried:
    parts.append(_choices(results))
  if len(results.commits) > 1:
    parts.append(f'Runs of several commits: {", ".join(results.commits)}.')
  return ' '.join(parts)


def _choices(results: study_lib.Results) -> str:
  """What trials chose, with all scores unless there are many arms."""
  trials = results.study.trials
  told = f'Short runs with seeds {trials.seeds} chose the {trials.field}'
  if len(results.tried) > _MOST_TOLD:
    return f'{told} of each arm, which its settings have.'
  chosen = '; '.join(
    f'{arm} {max(scores, key=scores.__getitem__)} ('
    + ', '.join(f'{value}: {score:.4g}' for value, score in scores.items())
    + ')'
    for arm, scores in results.tried.items()
  )
  return f'{told} (in brackets: the score of each value): {chosen}.'


def write_page(root: str | os.PathLike[str]) -> pathlib.Path:
  """Writes the contact sheet and the page of all rows; returns its path.

  The README.md above `docs/results` gets the table of papers anew; the ledger of
  another folder is not that of the workspace.
  """
  folder = pathlib.Path(root)
  pictures = {
    row.id: path
    for row in ledger.read_all(folder)
    if (path := folder / row.paper / f'{row.id}.png').is_file()
  }
  if pictures:
    figures.contact_sheet(pictures, folder / ledger.CONTACT_SHEET)
  whole = folder.resolve()
  readme = whole.parent.parent / 'README.md'
  if whole.parts[-2:] == ('docs', 'results') and readme.is_file():
    text = readme.read_text(encoding='utf-8')
    readme.write_text(with_results(text, folder), encoding='utf-8')
  return ledger.write_page(folder)


def with_results(text: str, root: str | os.PathLike[str]) -> str:
  """A page with a new table of papers between its marks.

  Args:
    text: of the page, which lies two folders above the ledger.
    root: folder of the ledger.

  Raises:
    ValueError: if the page lacks a mark.
  """
  before, mark, rest = text.partition(_BEGIN)
  _, other, after = rest.partition(_END)
  if not mark or not other:
    raise ValueError(f'the page needs the marks {_BEGIN} and {_END}')
  return f'{before}{mark}\n\n{results_table(root)}\n{other}{after}'


def results_table(root: str | os.PathLike[str]) -> str:
  """All papers: where they are implemented, and what the ledger says.

  Args:
    root: folder of the ledger, which links name relative to its grandparent.
  """
  folder = pathlib.Path(root)
  recorded = ledger.read_all(folder)
  page = folder.with_suffix('.md')
  page = page.relative_to(page.parent.parent).as_posix()
  lines = []
  for name, paper in papers.PAPERS.items():
    rows = [r for r in recorded if r.paper == (paper.measured_with or name)]
    is_there = (folder.parent.parent / paper.page).is_file()
    line: dict[str, Any] = {
      'paper': f'[{name}](https://arxiv.org/abs/{name})',
      'title': f'[{paper.title}]({paper.page})' if is_there else paper.title,
    }
    if rows:
      where = ledger.link_of(rows[0].paper, page=page)
      shared = {'rows': f'with {where}'}
      line |= shared if paper.measured_with else ledger.counts(rows)
    lines.append(line)
  return tables.table(lines)


def power(row: Row, recorded: ledger.Row) -> list[dict[str, Any]]:
  """Number of seeds that would decide the open parts of a recorded row.

  The recorded means and spreads are taken for the true ones; power 80 %.

  Args:
    row: has the claims.
    recorded: has the numbers.

  Returns:
    For each open part what it says, and numbers of seeds: as it is judged, and
    if its values could be paired by seed (or the verdict that this gives). None:
    seeds do not decide it.
  """
  lines = []
  for part in row.stated(recorded.ours).parts:
    try:
      found = part.judge(recorded.ours)
    except claims_lib.MissingLabelError:
      continue  # Recorded without labels that the row does not list.
    if found.verdict == 'inconclusive':
      needed = part.seeds_needed(recorded.ours)
      pairs = _paired(part)
      decided = pairs.judge(recorded.ours).verdict
      if decided == 'inconclusive':
        decided = pairs.seeds_needed(recorded.ours)
      lines.append(
        {'part': found.sentence, 'decided by': needed, 'if paired': decided}
      )
  return lines


def _paired(claim: claims_lib.Claim) -> claims_lib.Claim:
  """The claim with its values paired by seed, where it compares two arms."""
  if isinstance(claim, claims_lib.Difference) and isinstance(claim.than, str):
    return dataclasses.replace(claim, paired=True)
  return claim
