"""The error of a configuration that cannot be used, and nearest names."""

import difflib
from collections.abc import Iterable

__all__ = ['ConfigError', 'nearest']


class ConfigError(ValueError):
  """A mistake in a configuration, told in one message for its author.

  Attributes:
    where: the place of the mistake; empty where it has none.
    message: the whole message. gin extends the text of exceptions that cross
      it; this attribute stays as it was raised.
  """

  def __init__(self, message: str, where: str = '') -> None:
    """Builds the message.

    Args:
      message: what is wrong, with names, values and the rule.
      where: the place of the mistake, such as `configs/base.gin:12`.
    """
    self.where = where
    self.message = f'{where}: {message}' if where else message
    super().__init__(self.message)


def nearest(
  name: str, choices: Iterable[str], *, limit: int = 3, listed: int = 12
) -> str:
  """Says which names were probably meant.

  Args:
    name: the name that was not found.
    choices: the names that exist.
    limit: largest number of names to offer.
    listed: where no name is close, list all of them if they are so few.

  Returns:
    A clause such as `; did you mean FEATURES?`, or, where nothing is close, the
    choices themselves if they are few, or an empty string.
  """
  names = sorted(set(choices))
  folded = {}
  for choice in names:
    folded.setdefault(choice.lower(), choice)
  close = difflib.get_close_matches(name.lower(), folded, limit, cutoff=0.65)
  if close:
    return f'; did you mean {" or ".join(folded[c] for c in close)}?'
  if names and len(names) <= listed:
    return f'; known: {", ".join(names)}'
  return ''
