"""Fast attention whose features may be signed, as rows compare kernels."""

import warnings
from typing import Any

from performer import attention
from performer.attention.analysis import theory

__all__ = ['favor', 'with_projections']


def favor(**options: Any) -> attention.Favor:
  """Fast attention, without the warning that a kernel is signed.

  That is the subject of the rows that have such kernels.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return attention.Favor(**options)


def with_projections(
  kernel: str, m: int, *, mix_rows: int | None = None, **options: Any
) -> attention.Favor:
  """Fast attention whose number of projections is given, not of features.

  Args:
    kernel: a softmax kernel.
    m: number of projections.
    mix_rows: n of a hybrid.
    **options: others of `attention.Favor`.
  """
  mixed = {} if mix_rows is None else {'mix_rows': mix_rows}
  features = m * theory.copies(kernel, **mixed)
  return favor(kernel=kernel, features=features, **mixed, **options)
