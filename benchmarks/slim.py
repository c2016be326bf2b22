"""Memory and time of gradients: SLiM's strategies and what they replace.

The peers are what a user would write with JAX alone, so they need no other
package. Forms that keep all activations are measured up to `whole_up_to`.
"""

import dataclasses
import functools
from collections.abc import Sequence

from benchmarks import harness, programs
from benchmarks import slim_bars as bars
from benchmarks import slim_forms as forms

__all__ = ['SUBJECT', 'Sizes', 'chunked', 'forms_of']

_SWEPT = ('subtract', 'checkpoint')


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is measured.

  Attributes:
    model: its sizes.
    lengths: L.
    chunks: C at every length; they divide all lengths that are longer.
    kinds: members of `slim_forms.OURS` and `slim_forms.PEERS`.
    sweep: C at `sweep_length` only.
    sweep_length: L.
    timed_up_to: the longest L that is run; longer ones are compiled.
    whole_up_to: the longest L of forms that keep all activations.
  """

  model: forms.Sizes = forms.Sizes()
  lengths: tuple[int, ...] = tuple(2**n for n in range(10, 17))
  chunks: tuple[int, ...] = (64, 256)
  kinds: tuple[str, ...] = (*forms.OURS, *forms.PEERS)
  sweep: tuple[int, ...] = tuple(2**n for n in range(4, 12))
  sweep_length: int = 16384
  timed_up_to: int = 16384
  whole_up_to: int = 16384

  def __post_init__(self) -> None:
    for length in self.lengths:
      if any(length % min(chunk, length) for chunk in self.chunks):
        raise ValueError(
          f'chunks must divide lengths, got {self.chunks=} {length=}'
        )


def chunked(kinds: Sequence[str], chunks: Sequence[int]) -> list[forms.Form]:
  """Every kind that has no chunks, then the others with each chunk."""
  return [
    forms.Form(kind, chunk)
    for chunk in (None, *chunks)
    for kind in kinds
    if (kind in forms.WHOLE) == (chunk is None)
  ]


def forms_of(sizes: Sizes, case: forms.Case) -> list[harness.Form]:
  """Forms that fit a length, with the sweep over chunks at its length."""
  found = chunked(sizes.kinds, sizes.chunks)
  if case.length == sizes.sweep_length:
    found += chunked([k for k in _SWEPT if k in sizes.kinds], sizes.sweep)
  return [
    harness.Form(
      form,
      functools.partial(forms.program, form, sizes.model),
      lambda case, built, form=form: _wrong(form, sizes.model),
      ours=form.ours,
    )
    for form in dict.fromkeys(found)
    if case.length <= sizes.whole_up_to or not form.whole
  ]


_wrong = functools.cache(forms.wrong)


def _beside(one: harness.Measured, two: harness.Measured) -> bool:
  """Ours beside the peers and beside `full`."""
  full = two.form.kind == 'full' != one.form.kind
  return one.form.ours and (full or not two.form.ours)


SUBJECT = harness.Subject(
  'slim',
  Sizes(),
  quick=Sizes(
    forms.Sizes(8, 2, 1, 8, 7),
    lengths=(16,),
    chunks=(8,),
    kinds=('subtract', 'autodiff'),
    sweep=(),
  ),
  cases=lambda sizes: [
    forms.Case(n, n <= sizes.timed_up_to) for n in sizes.lengths
  ],
  forms=forms_of,
  beside=_beside,
  timed=lambda case: case.timed,
  summary=lambda sizes, results: bars.summary(
    list(results), forms.state_bytes(forms.build(sizes.model))
  ),
  panels=lambda results: bars.panels(list(results)),
  settings=programs.Settings(rounds=7, seconds=12.0),
  packages=('jax', 'jaxlib', 'flax', 'numpy'),
)
