"""ES-ENAS and chromatic networks (arXiv:2101.07415, 1907.06511)."""

PAPER = '2101.07415'
