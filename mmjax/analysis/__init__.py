"""Reads collectives, FLOPs, memory and the time of a train step from its compiled program, without a run."""
