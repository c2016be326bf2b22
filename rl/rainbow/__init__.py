"""Rainbow: value distributions learnt from prioritised replay."""
