"""Runs of several processes: detects the launcher, starts jax.distributed, shares errors and stop flags."""
