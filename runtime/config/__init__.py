"""Gin configurations: `sessions` reads, checks and builds them for one root."""
