"""Fast attention: FAVOR+ and exact attention with one signature."""

from performer.attention.analysis.denominators import bad_denominator_fraction
from performer.attention.analysis.diagnosis import diagnose
from performer.attention.analysis.pair_errors import kernel_estimate
from performer.attention.analysis.recovery import recover_attention
from performer.attention.auto import Auto
from performer.attention.exact import Exact, exact_attention
from performer.attention.favor import Favor
from performer.attention.kernels.table import KERNELS
from performer.attention.presets import PRESETS, favor_attention, preset

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
