"""What Events writes, read back by tensorboardX's own records."""

import contextlib
import math
import resource
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mmjax.run.tensorboard import Events


def read(folder: Path) -> list[Event]:
    """Every event of a folder: length, checksum, protocol buffer, checksum."""
    events = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            events.append(Event.FromString(data[at + 12 : at + 12 + size]))
            at += 12 + size + 4
    return events


def scalars(events: list[Event]) -> dict[tuple[int, str], float]:
    return {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}


def test_numbers_are_on_disk_when_add_returns(tmp_path):
    events = Events(tmp_path / "tb")
    events.add(3, {"train/loss": 1.5, "eval/image->text R@1": 0.25})
    assert scalars(read(tmp_path / "tb")) == {
        (3, "train/loss"): 1.5,
        (3, "eval/image-to-text_R@1"): 0.25,
    }
    events.close()


def test_what_is_not_finite_is_left_out(tmp_path):
    events = Events(tmp_path / "tb")
    events.add(1, {"a": math.nan, "b": math.inf, "c": 2.0})
    events.close()
    assert scalars(read(tmp_path / "tb")) == {(1, "c"): 2.0}


def test_resumed_run_hides_what_it_will_do_again(tmp_path):
    Events(tmp_path / "tb").close()
    Events(tmp_path / "tb", purge_step=7).close()
    starts = [e for e in read(tmp_path / "tb") if e.session_log.status == SessionLog.START]
    assert [e.step for e in starts] == [7]
    assert len(list((tmp_path / "tb").iterdir())) == 2


def test_folder_that_cannot_be_made_is_the_callers_error(tmp_path):
    (tmp_path / "tb").write_text("a file")
    with pytest.raises(FileExistsError):
        Events(tmp_path / "tb")


@contextlib.contextmanager
def no_room():
    """No file grows, as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_write_that_fails_names_the_file(tmp_path):
    events = Events(tmp_path / "tb")
    with no_room(), pytest.raises(OSError, match=f"File too large: '{tmp_path}/tb/events'"):
        events.add(1, {"loss": 0.5})
    events.close()


def test_closing_what_is_whole_needs_no_room(tmp_path):
    """Else it would fail in the place of the error for which the run ends."""
    events = Events(tmp_path / "tb", purge_step=7)
    with no_room():
        events.close()
