"""Searches by ES-ENAS: `python -m nas.es_enas.main --gin_file=...`."""

from runtime import launch

if __name__ == '__main__':
  # By name, so that --help answers before JAX is imported.
  launch.run('nas.es_enas.train_lib.train')
