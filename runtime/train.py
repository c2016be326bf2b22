"""Trains any configuration: `python -m runtime.train --gin_file=...`."""

from runtime import launch


def main() -> None:
  """Reads flags and configuration, then trains."""
  # By name, so that --help answers before JAX is imported.
  launch.run('runtime.trainer.train')


if __name__ == '__main__':
  main()
