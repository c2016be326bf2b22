"""Views of a study: one function, seen in other orders and directions.

A function stays the same when its parameters change places, a range is reflected,
or categories are listed in another order. A small model's forecasts of such views
differ, and their mean is better than each. The paper's model sees one order at a
time.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy import special

from hpo import spaces, studies
from hpo.optformer import decoding, histories, legality
from hpo.optformer import trained as trained_lib

__all__ = ['View', 'drawn', 'log_probabilities']


@dataclasses.dataclass(frozen=True, eq=False)
class View:
  """How the free parameters are seen.

  Attributes:
    columns: place of each parameter of the view among those of the reading.
    tables: for each parameter of the view, its token by that of the reading.
    metadata: ids of the text.
  """

  columns: tuple[int, ...]
  tables: tuple[Int[np.ndarray, ' _'], ...]
  metadata: Int[np.ndarray, ' s']

  def tokens(
    self, parameters: Int[np.ndarray, 't d']
  ) -> Int[np.ndarray, 't d']:
    """Tokens of the view by those of the reading."""
    pairs = zip(self.columns, self.tables, strict=True)
    return np.stack([table[parameters[:, i]] for i, table in pairs], axis=1)


def drawn(
  trained: trained_lib.Trained,
  problem: studies.Problem,
  read: histories.Reading,
  count: int,
  rng: np.random.Generator,
) -> tuple[View, ...]:
  """The view of a reading as it is, and others that are drawn uniformly.

  Args:
    trained: the model.
    problem: of the study.
    read: the reading.
    count: of the views.
    rng: of the draws.
  """
  width = len(read.order)
  bins = trained.tokenizer.ids.bins
  codes = read.legal[:width].tolist()
  same = tuple(np.arange(min(n, bins), dtype=np.int32) for n in codes)
  views = [View(tuple(range(width)), same, read.metadata)]
  for _ in range(count - 1):
    columns = tuple(rng.permutation(width).tolist())
    seen, tables = list(problem.space.parameters), []
    for i in columns:
      place = read.order[i]
      table = legality.reflected(codes[i], bins)
      seen[place], table = _turned(seen[place], same[i], table, rng)
      tables.append(table)
    space = dataclasses.replace(problem.space, parameters=seen)
    turned = dataclasses.replace(problem, space=space)
    order = tuple(read.order[i] for i in columns)
    metadata = histories.metadata(trained, turned, order)
    views.append(View(columns, tuple(tables), metadata))
  return tuple(views)


def _turned(
  parameter: spaces.Parameter,
  tokens: Int[np.ndarray, ' n'],
  reflected: Int[np.ndarray, ' n'],
  rng: np.random.Generator,
) -> tuple[spaces.Parameter, Int[np.ndarray, ' n']]:
  """Categories in a new order; others reflected or not, by a coin.

  Returns:
    The parameter, and its new token by the old one. The text of a reflected
    parameter is that of the other direction too: it has the ends of the range.
  """
  if not isinstance(parameter, spaces.Categorical):
    return parameter, reflected if rng.random() < 0.5 else tokens
  table = rng.permutation(tokens)
  values = [parameter.values[i] for i in np.argsort(table)]
  return dataclasses.replace(parameter, values=values), table


def log_probabilities(
  trained: trained_lib.Trained,
  read: histories.Reading,
  views: Sequence[View],
  given: Int[np.ndarray, 'n d'],
) -> Float[np.ndarray, 'n q']:
  """Logarithms of the mean forecast, at the temperature of the model.

  Args:
    trained: the model.
    read: the reading.
    views: of it.
    given: tokens of the points in the reading.
  """
  legal = np.stack([_legal(read, view) for view in views])
  history = decoding.advance(
    trained.model,
    trained.variables,
    np.stack([view.metadata for view in views]),
    np.stack([_ids(trained, read, view) for view in views]),
    legal,
    projections=trained.projections,
  )
  count = decoding.bucket(len(given))
  rows = [read.padded(view.tokens(given), count) for view in views]
  found = decoding.propose(
    trained.model,
    trained.variables,
    history.prefix,
    jnp.asarray(legal),
    jnp.asarray(np.concatenate(rows)),
    jax.random.split(jax.random.key(0), len(views)),
    star=trained.tokenizer.ids.star,
    count=count,
    projections=trained.projections,
    temperature=jnp.float32(1.0),
  )
  logits = np.float64(found.objective[:, : len(given)]) / trained.temperature
  each = special.log_softmax(logits, axis=-1)
  return special.logsumexp(each, axis=0) - np.log(len(views))


def _legal(read: histories.Reading, view: View) -> Int[np.ndarray, ' e']:
  legal = read.legal.copy()
  legal[: len(view.columns)] = read.legal[list(view.columns)]
  return legal


def _ids(
  trained: trained_lib.Trained, read: histories.Reading, view: View
) -> Int[np.ndarray, ' l']:
  shown = view.tokens(read.parameters)
  return dataclasses.replace(read, parameters=shown).ids(trained)
