"""The numbers beside the progress bar."""


def progress(row: dict[str, float]) -> str:
    """The losses, speed and input wait of a logged step, on one line.

    Args:
      row: a row of metrics.jsonl.
    """
    losses = [
        f"{name.removeprefix('loss/')} {value:.3f}" for name, value in row.items() if name.startswith("loss/")
    ]
    speed = ""
    if "examples_per_second" in row:
        speed = f"; {row['examples_per_second']:.0f} ex/s, input wait {row['input_wait_share']:.0%}"
    return f"loss {row['loss']:.3f}: {', '.join(losses)}{speed}"
