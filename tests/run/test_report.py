"""A terminal gets a progress bar, everything else one line for each log line."""

import io

import pytest

from mmjax.run.report import Progress

ROW = {"loss": 0.5, "loss/pairs": 0.5, "examples_per_second": 80.0, "input_wait_share": 0.25}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, num_steps: int = 800, log_every: int = 20, **options) -> str:
    bar = Progress("tiny", 0, num_steps, stream=stream, **options)
    for step in range(1, num_steps + 1):
        bar.advance()
        if step % 10 == 0:  # also logged at saves
            bar.show(step, ROW, line=step % log_every == 0)
    bar.close()
    return stream.getvalue()


def test_a_file_gets_one_line_for_each_log_line():
    lines = shown(io.StringIO()).splitlines()
    assert lines[0] == "step 20 of 800: loss 0.500: pairs 0.500; 80 ex/s, input wait 25%"
    assert len(lines) == 40 and all(line.startswith("step ") for line in lines)


def test_a_terminal_gets_a_bar():
    printed = shown(Terminal())
    assert "tiny" in printed and "800/800" in printed and "\r" in printed and "step 20" not in printed


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_other_processes_show_nothing(stream):
    assert shown(stream(), shows=False) == ""
