"""Checkpoints that resume exactly: written by Orbax, checked by sha256."""
