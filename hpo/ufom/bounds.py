"""Bounds of first-order bias and of gradients.

Losses have gradients of norm at most L1 and are L2-smooth, their Hessians are
Lipschitz, and ||dV / dtheta|| <= M1. With (1 + alpha L2)^r - 1 written b,

    ||grad M - g_FO|| <= (1 + M1) L1 b,   and <= M1 L1 b if the inner loss does
                                          not see theta

so the bias is of order alpha r. The published bounds are (1 + alpha L2) times
these for the bias. First-order descent therefore ends where the true gradient is
at most as large as that.

Source: arXiv:2106.02487, Section 4; the tighter constant is derived here.
"""

__all__ = ['bias_bound', 'published_bias_bound', 'published_gradient_bound']


def _growth(alpha: float, r: int, L2: float) -> float:
  """(1 + alpha L2)^r - 1, after checks."""
  if r < 0 or min(alpha, L2) < 0:
    raise ValueError(
      f'r, alpha and L2 must not be negative, got {r=} {alpha=} {L2=}'
    )
  return (1 + alpha * L2) ** r - 1


def bias_bound(
  alpha: float,
  r: int,
  *,
  L1: float,
  L2: float,
  M1: float = 1.0,
  direct: bool = True,
) -> float:
  """The most that ||grad M - g_FO|| can be.

  Args:
    alpha: greatest learning rate.
    r: number of inner steps.
    L1: bound of the losses' gradients.
    L2: bound of the inner loss's second derivatives.
    M1: bound of dV / dtheta.
    direct: whether the inner loss sees theta; not in MAML.

  Raises:
    ValueError: r, alpha or L2 is negative.
  """
  return (direct + M1) * L1 * _growth(alpha, r, L2)


def published_bias_bound(
  alpha: float, r: int, *, L1: float, L2: float, M1: float = 1.0
) -> float:
  """The same as published: (1 + M1) L1 L2 alpha sum_j (1 + alpha L2)^j."""
  return (1 + alpha * L2) * bias_bound(alpha, r, L1=L1, L2=L2, M1=M1)


def published_gradient_bound(
  alpha: float, r: int, *, L1: float, L2: float, M1: float = 1.0
) -> float:
  """The most that ||grad M|| can be, as published."""
  growth = _growth(alpha, r, L2)
  return L1 + M1 * L1 * (1 + growth) + L1 * (1 + alpha * L2) * growth
