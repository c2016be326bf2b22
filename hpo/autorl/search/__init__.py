"""Tuners that choose whole runs; see `asking` for how they are used."""
