"""The devices of a run: the mesh, and what a function costs on it."""
