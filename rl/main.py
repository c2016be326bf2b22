"""Trains an agent or a strategy: `python -m rl.main --gin_file=...`."""

from runtime import launch


def main() -> None:
  """Reads flags and configuration, then trains."""
  # By name, so that --help answers before JAX is imported.
  launch.run('rl.train_lib.train')


if __name__ == '__main__':
  main()
