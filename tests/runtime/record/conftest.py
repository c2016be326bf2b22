"""What tests of pictures share."""

import pytest

from runtime.record import pictures as pictures_lib


@pytest.fixture
def figures(monkeypatch):
  """Collects the figures that are drawn, to look inside."""
  drawn = []
  save = pictures_lib.save

  def keep(figure, path):
    drawn.append(figure)
    return save(figure, path)

  monkeypatch.setattr(pictures_lib, 'save', keep)
  return drawn
