"""Families of tasks: synthetic, hyper-cleaning, few-shot, a small Performer."""
