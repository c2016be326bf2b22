"""Trains policies and classifiers: `python -m rl.odetoode.main --gin_file=...`."""

from rl import main

if __name__ == '__main__':
  main.main()
