"""What happens to an experiment: session, loop, folder, evaluations."""
