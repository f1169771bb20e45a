"""One line of numbers for the progress bar."""


def progress(row: dict[str, float]) -> str:
    """One line of numbers beside the bar."""
    losses = [
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in row.items() if name.startswith("loss/")
    ]
    speed = ""
    if "examples_per_second" in row:
        speed = f"; {row['examples_per_second']:.0f} ex/s, input wait {row['input_wait_share']:.0%}"
    return f"loss {row['loss']:.3f}: {', '.join(losses)}{speed}"
