"""Memory and time of gradients: SLiM's strategies and what they replace.

The peers are what a user would write with JAX alone, so they need no other
package. Forms that keep all activations are measured up to `whole_up_to`.
"""

import dataclasses
import functools

from benchmarks import harness, programs
from benchmarks import slim_bars as bars
from benchmarks import slim_forms as forms

_SWEPT = ('subtract', 'checkpoint')


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes and settings of the measurement."""

  model: forms.Sizes = forms.Sizes()
  lengths: tuple[int, ...] = tuple(2**n for n in range(10, 17))
  chunks: tuple[int, ...] = (64, 256)  # They divide all lengths.
  kinds: tuple[str, ...] = (*forms.OURS, *forms.PEERS)
  sweep: tuple[int, ...] = tuple(2**n for n in range(4, 12))  # More chunks
  sweep_length: int = 16384  # at this length.
  timed_up_to: int = 16384  # Longer ones are only compiled.
  whole_up_to: int = 16384  # The longest for forms that keep all activations.

  def __post_init__(self) -> None:
    for length in self.lengths:
      if any(length % min(chunk, length) for chunk in self.chunks):
        raise ValueError(
          f'chunks must divide lengths, got {self.chunks=} {length=}'
        )


def forms_of(sizes: Sizes, case: forms.Case) -> list[harness.Form]:
  """Forms that fit a length, with the sweep over chunks at its length."""
  whole = sizes.kinds if case.length <= sizes.whole_up_to else ()
  found = [forms.Form(kind) for kind in whole if kind in forms.WHOLE]
  chunked = [kind for kind in sizes.kinds if kind not in forms.WHOLE]
  found += [forms.Form(k, c) for c in sizes.chunks for k in chunked]
  if case.length == sizes.sweep_length:
    swept = [kind for kind in _SWEPT if kind in sizes.kinds]
    found += [forms.Form(k, c) for c in sizes.sweep for k in swept]
  return [
    harness.Form(
      form,
      functools.partial(forms.program, form, sizes.model),
      lambda case, built, form=form: _wrong(form, sizes),
      ours=form.ours,
    )
    for form in dict.fromkeys(found)
  ]


def _wrong(form: forms.Form, sizes: Sizes) -> str | None:
  return forms.wrong(form, forms.build(sizes.model))


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
  cases=lambda sizes: [forms.Case(n) for n in sizes.lengths],
  forms=forms_of,
  beside=_beside,
  timed=lambda sizes, case: case.length <= sizes.timed_up_to,
  summary=lambda sizes, results: bars.summary(
    sizes.chunks, forms.state_bytes(forms.build(sizes.model)), results
  ),
  panels=lambda sizes, results: bars.panels(results),
  settings=programs.Settings(rounds=7, seconds=12.0),
  packages=('jax', 'jaxlib', 'flax', 'numpy'),
)
