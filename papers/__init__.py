"""The tables and figures of the papers as data; `python -m papers` runs them."""
