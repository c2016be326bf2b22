"""Architecture search: RL-DARTS and ES-ENAS."""
