"""Controllers: they propose architectures, and learn from scores."""
