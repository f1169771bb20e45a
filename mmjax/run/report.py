"""The progress of a run: a bar in a terminal, a line for each log line elsewhere."""

import math
import sys
from typing import TextIO

from tqdm import tqdm


class Progress:
    """Shows on standard error how far a run is. A file or a pipe gets no bar: it would keep every redraw."""

    def __init__(
        self, name: str, first_step: int, num_steps: int, *, shows: bool = True, stream: TextIO | None = None
    ) -> None:
        """Draws the bar.

        Args:
          first_step: the number of steps already taken.
          shows: False in all but one of a run's processes: these show nothing.
        """
        self.stream = sys.stderr if stream is None else stream
        self.num_steps, self.prints = num_steps, shows and not self.stream.isatty()
        hidden = not shows or self.prints
        options = dict(desc=name, unit="step", dynamic_ncols=True, disable=hidden, file=self.stream)
        self._bar = tqdm(total=num_steps, initial=first_step, **options)

    def advance(self) -> None:
        """One more step is taken."""
        self._bar.update()

    def show(self, step: int, row: dict[str, float], *, line: bool) -> None:
        """Shows a logged row: beside the bar, or where there is no terminal, if `line`, as a line."""
        self._bar.set_postfix_str(progress(row), refresh=False)
        if self.prints and line:
            print(f"step {step:,} of {self.num_steps:,}: {progress(row)}", file=self.stream, flush=True)

    def close(self) -> None:
        """Ends the bar."""
        self._bar.close()


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
    return f"loss {row.get('loss', math.nan):.3f}: {', '.join(losses)}{speed}"
