"""The process of a command: streams that cannot be written, messages, and variables that JAX reads."""

import logging
import sys

import pytest

from mmjax.cli import environment
from mmjax.cli.main import main
from mmjax.errors import InputError


def test_printable_keeps_line_breaks_and_escapes_the_rest():
    assert environment.printable("a\n  b\x1b[2J\r\x00é") == "a\n  b\\x1b[2J\\r\\x00é"
    assert len(environment.printable("x" * 10_000)) < 1100


def test_log_lines_hold_no_control_characters():
    formatter = environment.LogFormatter("%(levelname)s: %(message)s")
    record = logging.LogRecord("mmjax", logging.WARNING, "x.py", 1, "the key %s", ("\x1b[31mred\r",), None)
    assert formatter.format(record) == "WARNING: the key \\x1b[31mred\\r"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_stream_is_refused_on_the_other(stream, monkeypatch, capsys):
    monkeypatch.setattr(sys, stream, None)
    assert main(["checkpoints", "nosuch"]) == 2
    captured = capsys.readouterr()
    assert "found it closed: redirect it to /dev/null" in captured.out + captured.err


def test_unknown_xla_flags_are_refused_in_one_line():
    with pytest.raises(InputError, match="Unknown flag in XLA_FLAGS: --xla_nonsense") as refusal:
        environment._refuse_unknown_xla_flags("--xla_nonsense=1")
    assert "\n" not in str(refusal.value)
    environment._refuse_unknown_xla_flags("--xla_force_host_platform_device_count=2")
