"""Runs: train an experiment in a folder, resume, evaluate, and use the trained model."""
