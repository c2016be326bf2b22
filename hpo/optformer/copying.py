"""Values of earlier trials as candidates for the next one.

Not of the paper, whose model has to learn by attention that many algorithms repeat
the values of a good trial. Here each earlier trial adds to the likelihood of the
value that it has in the next slot, so that one of 1,000 values is repeated exactly.
Words and copies share one normaliser, as in CopyNet (arXiv:1603.06393, Section 3.2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from hpo.optformer import places

__all__ = ['Copies', 'Past', 'Sheet', 'add', 'changes', 'look_back', 'sheet']

_WINDOWS = (8, 16, 24, 32)  # Latest trials among which each is ranked.
_HIDDEN, _KEYS = 32, 16  # Widths of the network of scores.
_RARE = -4.0  # Scores before training: copies count little.


class Sheet(NamedTuple):
  """Trials of b sequences as a table of t rows; the last ones may not be full.

  Attributes:
    ids: the sequences, from the first trial on.
    counts: parameters of a trial.
    objectives: bins; -1 if there is none.
  """

  ids: Int[Array, 'b l']
  counts: Int[Array, 'b 1']
  objectives: Int[Array, 'b t']

  def column(self, slots: Int[Array, 'b p']) -> Int[Array, 'b p t']:
    """Ids of all trials in some slots."""
    rows = jnp.arange(self.objectives.shape[1])
    where = slots[..., None] + (rows * (self.counts + 3))[:, None]
    where = jnp.minimum(where, self.ids.shape[1] - 1)
    flat = where.reshape(len(self.ids), -1)
    return jnp.take_along_axis(self.ids, flat, axis=1).reshape(where.shape)


class Past(NamedTuple):
  """Earlier trials at p places.

  Attributes:
    ids: that each trial has in the slot of the next token.
    facts: about each trial; see `look_back`.
    usable: whether the next token is a parameter, and the trial an earlier one.
  """

  ids: Int[Array, 'b p t']
  facts: Float[Array, 'b p t f']
  usable: Bool[Array, 'b p t']


def sheet(
  ids: Int[Array, 'b l'], legal: Int[Array, 'b d'], bins: tuple[int, int]
) -> Sheet:
  """The table of sequences.

  Args:
    ids: from the first trial on, filled up with anything.
    legal: codes of the legal tokens of the parameters, 0 beyond them.
    bins: (id of bin 0, Q).
  """
  counts = (legal > 0).sum(axis=1, keepdims=True)
  # A trial has four tokens or more.
  rows = -(-ids.shape[1] // 4)
  blank = Sheet(ids, counts, jnp.zeros((len(ids), rows), jnp.int32))
  found = blank.column(counts + 1)[:, 0] - bins[0]
  is_bin = (found >= 0) & (found < bins[1])
  return blank._replace(objectives=jnp.where(is_bin, found, -1))


def changes(
  read: Sheet,
  ids: Int[Array, 'b p'],
  at: Int[Array, 'b p'],
  opened: Float[Array, 'b t'] | None = None,
) -> Float[Array, 'b p t']:
  """How many values of a trial so far differ from those of each other trial.

  Args:
    read: all trials.
    ids: neighbouring tokens of the sequences.
    at: their places; 0 is the first one of the first trial.
    opened: the changes before the first of these tokens.
  """
  slot = at % (read.counts + 3)
  is_parameter = (at >= 0) & (slot < read.counts)
  differs = (read.column(slot) != ids[..., None]) & is_parameter[..., None]
  return places.running_sums(differs.astype(jnp.float32), slot == 0, opened)


def look_back(
  read: Sheet, at: Int[Array, 'b p'], changed: Float[Array, 'b p t']
) -> Past:
  """Earlier trials, seen from the tokens at some places.

  The facts about a trial are whether it differs from the trial at hand, so far, in
  none, one or more values; whether it has an objective; its age; and its rank
  among all before the trial at hand, and among the latest 8, 16, 24 and 32. Ages
  and ranks are given as they are, as logarithms, and as whether they are 0.

  Args:
    read: trials, of which those before that of the next token are looked at.
    at: places; 0 is the first one of the first trial.
    changed: of `changes`, at these places.
  """
  trial, slot = jnp.divmod(at + 1, read.counts + 3)
  changed = jnp.where(slot[..., None] == 0, 0, changed)
  rows = jnp.arange(read.objectives.shape[1])
  is_past = rows < trial[..., None]
  age = jnp.where(is_past, trial[..., None] - 1 - rows, 0)
  is_known = jnp.broadcast_to(read.objectives[:, None] >= 0, age.shape)
  facts = [changed == 0, changed == 1, changed > 1, is_known, *_scales(age)]
  for window in (len(rows), *_WINDOWS):
    facts += _scales(_ranks(read.objectives, is_past & (age < window)))
  usable = is_past & ((at + 1 >= 0) & (slot < read.counts))[..., None]
  facts = jnp.stack([x.astype(jnp.float32) for x in facts], axis=-1)
  return Past(read.column(slot), facts, usable)


def _ranks(
  objectives: Int[Array, 'b t'], among: Bool[Array, 'b p t']
) -> Float[Array, 'b p t']:
  """How many trials of a group are better; of equal ones the first is best."""
  one, two = objectives[:, :, None], objectives[:, None]
  rows = jnp.arange(objectives.shape[1])
  beats = (one > two) | ((one == two) & (rows[:, None] < rows))
  return among.astype(jnp.float32) @ beats.astype(jnp.float32)


def _scales(number: Array) -> list[Array]:
  return [number / 16, jnp.log1p(number), number == 0]


class Copies(nn.Module):
  """Adds earlier trials to the likelihoods of their values, by learnt scores.

  Attributes:
    first_trial: its position in a sequence.
    bins: (id of bin 0, Q).
  """

  first_trial: int
  bins: tuple[int, int]

  def sheet(self, tokens: Int[Array, 'b l'], legal: Int[Array, 'b d']) -> Sheet:
    """The table of whole sequences; see `sheet`."""
    return sheet(tokens[:, self.first_trial :], legal, self.bins)

  @nn.compact
  def __call__(
    self,
    logits: Float[Array, 'b p v'],
    x: Float[Array, 'b p e'],
    read: Sheet,
    at: Int[Array, 'b p'],
    changed: Float[Array, 'b p t'],
  ) -> Float[Array, 'b p v']:
    """Logits to which earlier trials have added.

    Args:
      logits: of all tokens, or of the bins alone.
      x: activations that predict the next tokens.
      read: trials.
      at: places; 0 is the first one of the first trial.
      changed: of `changes`, at these places.
    """
    past = look_back(read, at, changed)
    hidden = nn.gelu(nn.Dense(_HIDDEN, name='facts_in')(past.facts))
    keys = nn.Dense(_KEYS, name='facts_out')(hidden)
    queries = nn.Dense(_KEYS, name='queries')(x.astype(jnp.float32))
    rare = self.param('rare', nn.initializers.constant(_RARE), (1,))
    scores = rare + jnp.einsum('bpk,bptk->bpt', queries, keys) / _KEYS**0.5
    first, count = self.bins
    columns = past.ids - (first if logits.shape[-1] == count else 0)
    return add(logits, scores, columns, past.usable & (past.ids >= first))


def add(
  logits: Float[Array, 'b p v'],
  scores: Float[Array, 'b p t'],
  columns: Int[Array, 'b p t'],
  usable: Bool[Array, 'b p t'],
) -> Float[Array, 'b p v']:
  """Logits to which earlier trials have added.

  Args:
    logits: of tokens.
    scores: of earlier trials.
    columns: of the logits, which they add to.
    usable: which of them do.
  """
  scores = jnp.where(usable, scores, -jnp.inf)
  top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
  top = jnp.where(jnp.isfinite(top), top, 0.0)
  gather = lambda columns, mass: (
    jnp.zeros(logits.shape[-1:], jnp.float32).at[columns].add(mass)
  )
  # Mapped, not indexed, so that the batch may be spread over devices.
  total = jax.vmap(jax.vmap(gather))(columns, jnp.exp(scores - top))
  copied = top + jnp.log(jnp.where(total > 0, total, 1.0))
  return jnp.where(total > 0, jnp.logaddexp(logits, copied), logits)
