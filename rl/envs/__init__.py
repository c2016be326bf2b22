"""Environments behind one batched protocol; see `rl.envs.protocol`."""
