"""Where examples come from: indexed data sets, pictures, public data sets."""
