"""Trains a Performer: `python -m performer.train --gin_file=...`."""

from performer import main

if __name__ == '__main__':
  main.main()
