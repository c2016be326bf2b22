"""Fast attention (FAVOR, FAVOR+, SLiM Performers) and its language models."""
