"""The encoder-decoder of OptFormer: logits, and decoding with caches.

The encoder reads the text of a problem; the decoder reads trials and predicts
the next token of each. Decoding goes through three calls: `start` encodes the
text and reads a history, `extend` reads more of it, and `branch` continues it in
n ways at once.

Reference: arXiv:2205.13320, Section 4.2 and Appendix D.2.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree

from hpo.optformer import blocks, copying, places, relative
from performer.models import attention as attention_lib
from performer.models import layers
from rl import ranges

__all__ = ['Branch', 'OptFormer', 'Prefix']


class Prefix(NamedTuple):
  """A history that the decoder has read, for each of b studies.

  Attributes:
    state: of self-attention, stacked over layers.
    cross: summaries of the encoder, stacked over layers.
    lengths: tokens read.
    last: activations at the last token, which predict the next one; None
      before the first.
    legal: codes of the legal tokens of the parameters, see `legality`; None if
      not needed.
    opened: sum over the last trial, see `places`; None before the first token.
    ids: of the trials, up to the capacity of the cache; None if not needed.
    changed: see `copying.changes`; None before the first token.
  """

  state: PyTree
  cross: PyTree
  lengths: Int[Array, ' b']
  last: Float[Array, 'b e'] | None
  legal: Int[Array, 'b d'] | None
  opened: Float[Array, 'b e'] | None
  ids: Int[Array, 'b c'] | None = None
  changed: Float[Array, 'b t'] | None = None


class Branch(NamedTuple):
  """Continuations of a prefix: n of each study.

  Attributes:
    state: of self-attention, stacked over layers.
    step: tokens read beyond the prefix, the same for all.
    opened: sums over their trial; see `Prefix`.
    changed: of their trial; see `Prefix`.
  """

  state: PyTree
  step: Int[Array, '']
  opened: Float[Array, 'b n e']
  changed: Float[Array, 'b n t'] | None


class OptFormer(nn.Module):
  """The model; `presets.make` builds it for a vocabulary and a size by name.

  Attributes:
    text_size: rows of the table of metadata.
    trial_size: rows of the table of trials.
    width: of activations.
    num_layers: of each of the two stacks.
    num_heads: of each attention.
    head_dim: width of a head.
    d_ff: width of the gated MLPs.
    first_bin: id of bin 0.
    bins: Q.
    shared: whether text and trials have one table, as in the public models.
    tied: whether the output layer is the table of trials, and not its own.
    fourier: whether the rows of bins start as Fourier features of their middle,
      and not at random.
    places: whether tokens are told where they stand in their trial; see
      `places`. Calls then need `legal`.
    copies: whether earlier trials add to the likelihood of their values; see
      `copying`. Calls then need `legal`. Memory grows with the square of the
      number of trials.
    first_trial: its position: the number of tokens before it.
    dropout: rate on embeddings, after each part and in the MLPs; active in calls
      with an rng named 'dropout'.
    dtype: of activations; parameters, norms and logits are float32.
    attention: `relative.Softmax`, or a mechanism such as `attention.Favor`,
      which takes no bias: then positions are added to the embeddings.
    remat: recompute layers in the backward pass instead of storing them.

  Raises:
    ValueError: sizes are out of range or contradict each other.
  """

  text_size: int
  trial_size: int
  width: int
  num_layers: int
  num_heads: int
  head_dim: int
  d_ff: int
  first_bin: int
  bins: int
  shared: bool = False
  tied: bool = False
  fourier: bool = False
  places: bool = False
  copies: bool = False
  first_trial: int = 1
  dropout: float = 0.0
  dtype: Any = jnp.float32
  attention: attention_lib.AttentionFn = relative.Softmax()
  remat: bool = False

  def __post_init__(self) -> None:
    ranges.check_counts(
      text_size=self.text_size,
      trial_size=self.trial_size,
      width=self.width,
      num_layers=self.num_layers,
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      d_ff=self.d_ff,
    )
    if self.shared and self.text_size != self.trial_size:
      raise ValueError(
        f'a shared table has one size, got {self.text_size=} {self.trial_size=}'
      )
    if not 0 <= self.first_bin <= self.trial_size - self.bins:
      raise ValueError(
        'the bins must lie in the table of trials, '
        f'got {self.first_bin=} {self.bins=} {self.trial_size=}'
      )
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be in [0, 1), got {self.dropout=}')
    super().__post_init__()

  def setup(self) -> None:
    """Makes tables and stacks."""
    table = lambda name, init, axes, *shape: self.param(
      name, attention_lib.partitioned(init, *axes), shape
    )
    rows = 'vocab', 'embed'
    self.trials = table(
      'trials', self._trial_init, rows, self.trial_size, self.width
    )
    self.text = self.trials
    if not self.shared:
      init = nn.initializers.normal(1.0)
      self.text = table('text', init, rows, self.text_size, self.width)
    if not self.tied:
      init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')
      self.head_kernel = table(
        'head', init, rows[::-1], self.width, self.trial_size
      )
    self.encoder = self._stack(blocks.EncoderBlock)
    self.decoder = self._stack(blocks.DecoderBlock)
    self.encoder_norm = blocks.norm(None, self.dtype)
    self.decoder_norm = blocks.norm(None, self.dtype)
    self.drop = nn.Dropout(self.dropout)
    if self.places:
      self.place_codes = places.Places(self.width, self.first_trial)
    if self.copies:
      bins = self.first_bin, self.bins
      self.copy_scores = copying.Copies(self.first_trial, bins)
    if self._takes_bias:
      self.encoder_bias = relative.Bias(self.num_heads, causal=False)
      self.decoder_bias = relative.Bias(self.num_heads, causal=True)

  @property
  def _takes_bias(self) -> bool:
    return getattr(self.attention, 'takes_bias', False)

  def _stack(self, block: type[nn.Module]) -> nn.Module:
    return layers.stacked(block, self.num_layers, remat=self.remat)(
      num_heads=self.num_heads,
      head_dim=self.head_dim,
      d_ff=self.d_ff,
      attention=self.attention,
      dropout=self.dropout,
      dtype=self.dtype,
    )

  def _trial_init(self, key: Array, shape: tuple[int, int]) -> Array:
    table = jax.random.normal(key, shape)
    if not self.fourier:
      return table
    codes = blocks.fourier_features(self.bins, self.width)
    return table.at[self.first_bin : self.first_bin + self.bins].set(codes)

  def draw_projections(self, key: Array, step: int | Array) -> PyTree:
    """The random matrices of all layers at a training step.

    Args:
      key: a typed key; the same one during the whole run.
      step: training step; the matrices change every `attention.redraw_every`.

    Returns:
      Matrices of the encoder, the decoder, and the attention from one to the
      other, stacked over layers; Nones for attention without them.
    """

    def draw(layer: Array) -> PyTree:
      return self.attention.draw(
        key,
        layer=layer,
        step=step,
        num_heads=self.num_heads,
        head_dim=self.head_dim,
      )

    numbers = jnp.arange(3 * self.num_layers).reshape(3, -1)
    drawn = jax.vmap(jax.vmap(draw))(numbers)
    return tuple(jax.tree.map(lambda x, i=i: x[i], drawn) for i in range(3))

  def __call__(
    self,
    metadata: Int[Array, 'b s'],
    tokens: Int[Array, 'b l'],
    *,
    legal: Int[Array, 'b d'] | None = None,
    projections: PyTree = (None, None, None),
  ) -> Float[Array, 'b l v']:
    """Logits of the token after each one.

    Args:
      metadata: text of the problems; id 0 fills up.
      tokens: trials.
      legal: codes of the legal tokens of the parameters, 0 beyond them; a model
        with `places` or `copies` needs them, others do not look at them.
      projections: of `draw_projections`.
    """
    memory, mask = self.encode(metadata, projections=projections)
    keys = None
    if self._takes_bias:
      keys = relative.Keys(self.decoder_bias(tokens.shape[1]))
    context = blocks.Context(keys=keys, memory=memory, memory_mask=mask)
    own = blocks.PerLayer(projections[1], projections[2])
    positions = jnp.arange(tokens.shape[1])[None]
    x, _ = self._embed_trials(tokens, positions, legal)
    x, _ = self.decoder(x, context, own, None)
    x = self._drop(self.decoder_norm(x))
    logits = self.logits(x)
    if not self.copies:
      return logits
    read = self.copy_scores.sheet(tokens, legal)
    at = jnp.broadcast_to(positions, tokens.shape) - self.first_trial
    changed = copying.changes(read, tokens, at)
    return self.copy_scores(logits, x, read, at, changed)

  def encode(
    self,
    metadata: Int[Array, 'b s'],
    *,
    projections: PyTree = (None, None, None),
  ) -> tuple[Float[Array, 'b s e'], Bool[Array, 'b s']]:
    """Activations of the encoder, and which positions are real."""
    length = metadata.shape[1]
    mask = metadata != 0
    keys = None
    if self._takes_bias:
      keys = relative.Keys(self.encoder_bias(length))
    context = blocks.Context(keys=keys, mask=mask)
    x = self.text[metadata].astype(self.dtype)
    x = self._positioned(x, jnp.arange(length))
    x, _ = self.encoder(x, context, blocks.PerLayer(projections[0]), None)
    return self._drop(self.encoder_norm(x)), mask

  def start(
    self,
    metadata: Int[Array, 'b s'],
    tokens: Int[Array, 'b l'],
    lengths: Int[Array, ' b'],
    *,
    capacity: int,
    legal: Int[Array, 'b d'] | None = None,
    projections: PyTree = (None, None, None),
  ) -> Prefix:
    """Encodes problems and reads their histories.

    Args:
      metadata: text of the problems; id 0 fills up.
      tokens: histories, filled up on the right with anything.
      lengths: of the histories, at least 1.
      capacity: positions of the cache; at least l.
      legal: as in a call of the model.
      projections: of `draw_projections`.

    Raises:
      ValueError: the cache is too small.
    """
    batch, length = tokens.shape
    if capacity < length:
      raise ValueError(f'capacity must be at least {length}, got {capacity=}')
    memory, mask = self.encode(metadata, projections=projections)
    state = None
    if self._takes_bias:
      shape = (self.num_layers, batch, capacity, self.num_heads, self.head_dim)
      zeros = jnp.zeros(shape, self.dtype)
      state = relative.KV(zeros, zeros)
    ids = jnp.zeros((batch, capacity), jnp.int32) if self.copies else None
    return self._read(
      tokens,
      lengths,
      blocks.Context(memory=memory, memory_mask=mask),
      Prefix(state, None, jnp.zeros(batch, jnp.int32), None, legal, None, ids),
      projections,
    )

  def extend(
    self,
    prefix: Prefix,
    tokens: Int[Array, 'b l'],
    lengths: Int[Array, ' b'],
    *,
    projections: PyTree = (None, None, None),
  ) -> Prefix:
    """Reads more of histories; the cache must have room for l tokens.

    Args:
      prefix: of `start` or `extend`.
      tokens: the new ones, filled up on the right with anything.
      lengths: numbers of new tokens, at least 1.
      projections: as before.
    """
    return self._read(tokens, lengths, blocks.Context(), prefix, projections)

  def _read(
    self,
    tokens: Int[Array, 'b l'],
    lengths: Int[Array, ' b'],
    context: blocks.Context,
    prefix: Prefix,
    projections: PyTree,
  ) -> Prefix:
    before, cross = prefix.lengths, prefix.cross
    columns = jnp.arange(tokens.shape[1])
    positions = before[:, None] + columns
    context = context._replace(before=before)
    if self._takes_bias:
      cached = jnp.arange(prefix.state.k.shape[2])[None]
      bias = self.decoder_bias.at(positions, cached)
      context = context._replace(keys=relative.Keys(bias, before))
    else:
      context = context._replace(mask=columns < lengths[:, None])
    own = blocks.PerLayer(projections[1], projections[2], None, cross)
    x, sums = self._embed_trials(tokens, positions, prefix.legal, prefix.opened)
    x, (state, made) = self.decoder(x, context, own, prefix.state)
    ids, changed = prefix.ids, None
    if self.copies:
      ids = ids.at[jnp.arange(len(ids))[:, None], positions].set(tokens)
      read = self.copy_scores.sheet(ids, prefix.legal)
      at = positions - self.first_trial
      changed = copying.changes(read, tokens, at, prefix.changed)
    last, opened, changed = jax.tree.map(
      lambda rows: jnp.take_along_axis(
        rows, lengths[:, None, None] - 1, axis=1
      )[:, 0],
      (x, sums, changed),
    )
    return Prefix(
      state,
      made if cross is None else cross,
      before + lengths,
      self.decoder_norm(last),
      prefix.legal,
      opened,
      ids,
      changed,
    )

  def fork(self, prefix: Prefix, count: int, room: int) -> Branch:
    """Branches of a prefix that have read nothing more; each may end its trial.

    Args:
      prefix: with b studies.
      count: n, branches of each study.
      room: tokens that each will read, at most.
    """
    repeat = lambda x: jnp.repeat(x[:, None], count, axis=1)
    own = jax.tree.map(repeat, (prefix.opened, prefix.changed))
    if not self._takes_bias:
      state = jax.tree.map(lambda x: jnp.repeat(x, count, axis=1), prefix.state)
      return Branch(state, jnp.int32(0), *own)
    shape = (self.num_layers, prefix.lengths.shape[0], count, room)
    zeros = jnp.zeros((*shape, self.num_heads, self.head_dim), self.dtype)
    return Branch(relative.KV(zeros, zeros), jnp.int32(0), *own)

  def branch(
    self,
    prefix: Prefix,
    branch: Branch,
    tokens: Int[Array, 'b n'],
    *,
    projections: PyTree = (None, None, None),
  ) -> tuple[Float[Array, 'b n e'], Branch]:
    """Reads one more token of each branch.

    The model must have been cloned with `relative.Branches` around its
    attention; parameters are the same.

    Args:
      prefix: which all branches of a study share.
      branch: of `fork` or `branch`.
      tokens: the next of each.
      projections: as before.

    Returns:
      Activations that predict the token after, and the branches.
    """
    position = prefix.lengths + branch.step
    context = blocks.Context(before=position)
    shared = None
    if self._takes_bias:
      shared = prefix.state
      context = context._replace(keys=self._branch_keys(prefix, branch))
    own = blocks.PerLayer(projections[1], projections[2], shared, prefix.cross)
    legal = None if prefix.legal is None else prefix.legal[:, None]
    # Each branch is a sequence of one token.
    x, sums = self._embed_trials(
      tokens[..., None], position[:, None, None], legal, branch.opened
    )
    x, (state, _) = self.decoder(x[:, :, 0], context, own, branch.state)
    changed = None
    if self.copies:
      # Each branch is a sequence of one token here, too.
      at = (position - self.first_trial)[:, None]
      read = self.copy_scores.sheet(prefix.ids, prefix.legal)
      read_on = lambda ids, opened: copying.changes(read, ids, at, opened)
      changed = jax.vmap(read_on, 1, 1)(tokens[..., None], branch.changed)
      changed = changed[:, :, 0]
    branch = Branch(state, branch.step + 1, sums[:, :, 0], changed)
    return self.decoder_norm(x), branch

  def _branch_keys(self, prefix: Prefix, branch: Branch) -> relative.Keys:
    query = (prefix.lengths + branch.step)[:, None]
    cached = jnp.arange(prefix.state.k.shape[2])[None]
    known = cached < prefix.lengths[:, None]
    to_prefix = self.decoder_bias.at(query, cached)
    to_prefix = jnp.where(known[:, None, None], to_prefix, relative.HIDDEN)
    own = prefix.lengths[:, None] + jnp.arange(branch.state.k.shape[3])
    return relative.Keys(
      self.decoder_bias.at(query, own),
      start=branch.step,
      prefix_bias=to_prefix,
    )

  def bin_logits(
    self, x: Float[Array, '*n e'], prefix: Prefix, branch: Branch | None = None
  ) -> Float[Array, '*n q']:
    """Logits of the Q bins as the next token.

    Args:
      x: activations at the end of the prefix, [b, e], or of each of its branches,
        [b, n, e].
      prefix: of `start` or `extend`.
      branch: of `fork` or `branch`; None: `x` belongs to the prefix itself.
    """
    logits = self.logits(x, bins_only=True)
    if not self.copies:
      return logits
    read = self.copy_scores.sheet(prefix.ids, prefix.legal)
    at = (prefix.lengths - self.first_trial - 1)[:, None]
    if branch is not None:
      at = jnp.broadcast_to(at + branch.step, x.shape[:2])
      return self.copy_scores(logits, x, read, at, branch.changed)
    alone = logits[:, None], x[:, None], read, at, prefix.changed[:, None]
    return self.copy_scores(*alone)[:, 0]

  def logits(
    self, x: Float[Array, '*n e'], *, bins_only: bool = False
  ) -> Float[Array, '*n v']:
    """Logits of activations, float32.

    Args:
      x: activations after the last norm.
      bins_only: compute those of the Q bins alone.
    """
    rows = slice(None)
    if bins_only:
      rows = slice(self.first_bin, self.first_bin + self.bins)
    x = x.astype(layers.wide(self.dtype))
    if self.tied:
      return (x * self.width**-0.5) @ self.trials[rows].T
    return x @ self.head_kernel[:, rows]

  def _embed_trials(
    self,
    ids: Int[Array, '*b l'],
    positions: Int[Array, '*#b l'],
    legal: Int[Array, '*#b d'] | None,
    opened: Float[Array, '*b e'] | None = None,
  ) -> tuple[Float[Array, '*b l e'], Float[Array, '*b l e']]:
    """Embeddings; and sums over trials, see `places`."""
    x = self.trials[ids].astype(self.dtype)
    sums = jnp.zeros_like(x)
    if (self.places or self.copies) and legal is None:
      raise ValueError('a model with places or copies needs `legal`, got None')
    if self.places:
      sizes = jnp.minimum(legal, self.bins)
      x, sums = self.place_codes(x, positions, sizes, opened)
    return self._positioned(x, positions), sums

  def _positioned(
    self, x: Float[Array, '*b l e'], positions: Int[Array, '...']
  ) -> Float[Array, '*b l e']:
    if not self._takes_bias:
      x += blocks.sinusoids(positions, self.width).astype(self.dtype)
    return self._drop(x)

  def _drop(self, x: Array) -> Array:
    return self.drop(x, deterministic=not self.has_rng('dropout'))
