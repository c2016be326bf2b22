"""Data sets for the Performer language models."""
