"""The devices of a run: the mesh, and the cost of functions."""
