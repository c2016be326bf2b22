"""Named sets of options: those of the papers, and those we recommend.

References: arXiv:2009.14794, sections 4.2 to 4.4 and D, and its released code;
arXiv:2006.03555.
"""

import types
from collections.abc import Mapping
from typing import Any

from performer.attention import checks
from performer.attention import favor as favor_lib

__all__ = ['PRESETS', 'preset']

PRESETS: Mapping[str, Mapping[str, Any]] = types.MappingProxyType(
  {
    # Unbiased, least variance of the simple positive features at r = 256.
    'default': {},
    # The published softmax Performer: 256 positive orthogonal features.
    'paper': {'kernel': 'softmax_pos'},
    # Its predecessor, FAVOR.
    'favor': {'kernel': 'softmax_trig'},
    # Smaller variance for a small bias, which a model in training learns.
    'train_fast': {'kernel': 'softmax_pos_reg'},
    # The published generalised Performer: no projection, so r = d.
    'relu_det': {'kernel': 'relu', 'projection': False, 'features': None},
    # The same with 256 orthogonal rows.
    'relu_proj': {'kernel': 'relu'},
  }
)


def preset(name: str, **changes: Any) -> favor_lib.Favor:
  """Makes the attention of a preset.

  Args:
    name: a key of `PRESETS`.
    **changes: options of `options.Options` that replace those of the preset.

  Returns:
    The attention.

  Raises:
    ValueError: if there is no such preset, or as `Favor`.
  """
  checks.check_choice('preset', name, PRESETS)
  return favor_lib.Favor(**(dict(PRESETS[name]) | changes))
