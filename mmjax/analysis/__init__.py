"""What a compiled program costs, before and beside a run."""
