"""Objectives on real data, to try OptFormer on."""
