"""Saves, verifies, restores and deletes checkpoints: Orbax, with sha256 checksums of every file."""
