"""Trains an agent or a strategy: `python -m rl.train --gin_file=...`."""

from rl import main

if __name__ == '__main__':
  main.main()
