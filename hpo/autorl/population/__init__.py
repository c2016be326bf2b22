"""Populations that change their settings while they learn."""
