"""AutoRL: tunes the workspace's trainers, between runs and within them."""
