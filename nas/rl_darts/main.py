"""Searches, or trains cells: `python -m nas.rl_darts.main --gin_file=...`."""

from runtime import launch

if __name__ == '__main__':
  # By name, so that --help answers before JAX is imported.
  launch.run('nas.rl_darts.train_lib.train')
