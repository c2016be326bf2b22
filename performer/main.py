"""Trains a Performer: `python -m performer.main --gin_file=...`."""

from performer import train_lib
from runtime import launch


def main() -> None:
  """Reads flags and configuration, then trains."""
  launch.run(train_lib.train)


if __name__ == '__main__':
  main()
