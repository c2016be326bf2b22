"""Trains OptFormer: `python -m hpo.optformer.main --gin_file=...`."""

from runtime import launch

if __name__ == '__main__':
  # By name, so that --help answers before JAX is imported.
  launch.run('hpo.optformer.train_lib.train')
