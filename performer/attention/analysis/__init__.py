"""What attention does to given queries and keys: errors, norms, matrices."""
