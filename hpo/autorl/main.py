"""Tunes while it trains: `python -m hpo.autorl.main --gin_file=...`."""

from runtime import launch

if __name__ == '__main__':
  # By name, so that --help answers before JAX is imported.
  launch.run('hpo.autorl.train_lib.train')
