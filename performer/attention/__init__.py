"""Fast attention: FAVOR+ and exact attention with one signature."""

from performer.attention.analysis.diagnosis import diagnose
from performer.attention.analysis.pair_errors import kernel_estimate
from performer.attention.analysis.recovery import (
  bad_denominator_fraction,
  recover_attention,
)
from performer.attention.auto import Auto
from performer.attention.exact import Exact, exact_attention
from performer.attention.favor import Favor, favor_attention
from performer.attention.kernels import KERNELS
from performer.attention.presets import PRESETS, preset

__all__ = [
  'KERNELS',
  'PRESETS',
  'Auto',
  'Exact',
  'Favor',
  'bad_denominator_fraction',
  'diagnose',
  'exact_attention',
  'favor_attention',
  'kernel_estimate',
  'preset',
  'recover_attention',
]
