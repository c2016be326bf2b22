"""What every experiment runs on: launch, mesh, loop, checkpoints, reports."""
