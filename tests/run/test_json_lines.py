"""Logs of a run survive kills: no row is glued to another, none is lost, and damage is named."""

import os

import pytest

from mmjax.errors import InputError
from mmjax.run.folder import RunFolder
from mmjax.run.json_lines import append_row, mend_end, read_rows, write_rows

ROW = b'{"step": 1, "loss": 0.5}'
HALVES = [b'{"st', b'{"step": 2, "loss": 0.2', b'"', b"\0" * 50, b"\xff\xfe", b"[1]"]
LONG = b'{"step": 3, "name": "' + b"x" * 200_000  # longer than what is read at once


@pytest.mark.parametrize(
    "half", [b'{"st', b'{"step": 2, "loss": 0.2', b'"', b"\0" * 50, b"\xff\xfe", b"[1]", LONG]
)
def test_half_a_row_is_cut_before_the_next_and_said_once(tmp_path, caplog, half):
    file = tmp_path / "evals.jsonl"
    file.write_bytes(ROW + b"\n" + half)
    assert read_rows(file) == [{"step": 1, "loss": 0.5}]
    assert file.read_bytes() == ROW + b"\n" + half, "reading changes nothing"
    for step in (2, 3):
        append_row(file, {"step": step})
    assert file.read_bytes() == ROW + b'\n{"step": 2}\n{"step": 3}\n'
    assert caplog.text.count(f"cut {len(half)} bytes of half a row, which a killed process left") == 1


def test_a_whole_row_without_a_line_break_is_kept(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(ROW)
    append_row(file, {"step": 2})
    assert read_rows(file) == [{"step": 1, "loss": 0.5}, {"step": 2}]
    assert "ended the last line" in caplog.text


def test_only_half_a_row(tmp_path):
    (tmp_path / "x").write_bytes(b'{"step"')
    mend_end(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"" and read_rows(tmp_path / "x") == []
    mend_end(tmp_path / "nosuch")
    assert read_rows(tmp_path / "nosuch") == [] and not (tmp_path / "nosuch").exists()


DAMAGED = [b"5", b"{}", b"\xff\x00", b'{"step": "1"}', b'{"step": true}', b'{"step": 1.5}', b'{"step": -1}',
           b'{"step": 1' + b"0" * 30 + b"}", b'{"step": 1, "x": "2"}', b'{"step": 1, "x": [1]}', b"[" * 10**5,
           b'{"step": 1, "x": 1' + b"0" * 400 + b"}", b'{"step": 1, "eval": 3}', ROW + ROW]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: repr(damage[:25]))
def test_a_damaged_line_is_named_and_nothing_is_changed(tmp_path, damage):
    file = tmp_path / "metrics.jsonl"
    for end in (b"\n" + ROW + b"\n", b"\n"):  # also as the last line, which was written whole
        file.write_bytes(ROW + b"\n" + damage + end)
        with pytest.raises(InputError, match="with a step and numbers in .*metrics.jsonl, line 2, found "):
            read_rows(file)
        assert file.read_bytes() == ROW + b"\n" + damage + end


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "metrics.jsonl")
    for read in (read_rows, mend_end, lambda file: append_row(file, {"step": 1})):
        with pytest.raises(InputError, match="expected a file at .*metrics.jsonl, found a"):
            read(tmp_path / "metrics.jsonl")


def test_rows_are_what_was_written(tmp_path):
    rows = [{"step": 2**40, "loss": None, "é": 1e300}, {"step": 2, "eval": "a\nb", "R@1": 1}]
    write_rows(tmp_path / "x", rows)
    assert read_rows(tmp_path / "x") == rows
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes().replace(b"\n", b"\r\n\r\n"))  # by an editor
    assert read_rows(tmp_path / "x") == rows


def test_a_resume_cuts_half_a_row(tmp_path, caplog):
    with RunFolder.claim(tmp_path / "run", "Experiment()\n") as folder:
        folder.write_eval(1, "a", {"score": 0.5})
        with (tmp_path / "run" / "evals.jsonl").open("a") as stream:
            stream.write('{"step": 2, "ev')
        folder.resume(1)
        folder.write_eval(2, "a", {"score": 0.75})
        assert folder.scores("a", "score") == {1: 0.5, 2: 0.75}
    assert caplog.text.count("evals.jsonl: cut 15 bytes of half a row") == 1
