"""Learns by UFOM: `python -m hpo.ufom.main --gin_file=...`."""

from runtime import launch

if __name__ == '__main__':
  # By name, so that --help answers before JAX is imported.
  launch.run('hpo.ufom.train_lib.train')
