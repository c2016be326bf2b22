"""ES-ENAS: evolution strategies with a controller of architectures (2101.07415)."""
