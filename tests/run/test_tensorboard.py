"""Events, read back with the protocol buffers of tensorboardX."""

import contextlib
import math
import resource

import pytest
import tiny
from tensorboardX.proto.event_pb2 import Event, SessionLog

from mmjax.errors import InputError
from mmjax.run.tensorboard import Events


def scalars(events: list[Event]) -> dict[tuple[int, str], float]:
    return {(e.step, v.tag): v.simple_value for e in events for v in e.summary.value}


def test_add_flushes_to_disk(tmp_path):
    events = Events(tmp_path / "tb")
    events.add(3, {"train/loss": 1.5, "eval/image->text R@1": 0.25})
    assert scalars(tiny.read_events(tmp_path / "tb")) == {
        (3, "train/loss"): 1.5,
        (3, "eval/image-to-text_R@1"): 0.25,
    }
    events.close()


def test_non_finite_numbers_are_left_out(tmp_path):
    events = Events(tmp_path / "tb")
    events.add(1, {"a": math.nan, "b": math.inf, "c": 2.0})
    events.close()
    assert scalars(tiny.read_events(tmp_path / "tb")) == {(1, "c"): 2.0}


def test_purge_step_hides_later_steps_of_earlier_files(tmp_path):
    Events(tmp_path / "tb").close()
    Events(tmp_path / "tb", purge_step=7).close()
    starts = [e for e in tiny.read_events(tmp_path / "tb") if e.session_log.status == SessionLog.START]
    assert [e.step for e in starts] == [7]
    assert len(list((tmp_path / "tb").iterdir())) == 2


def test_error_of_creating_the_folder_reaches_the_caller(tmp_path):
    (tmp_path / "tb").write_text("a file")
    with pytest.raises(InputError, match="expected a folder at .*tb, found a file"):
        Events(tmp_path / "tb")


@contextlib.contextmanager
def full_disk():
    """No file can grow."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_error_of_a_failed_write_names_the_file(tmp_path):
    events = Events(tmp_path / "tb")
    with full_disk(), pytest.raises(OSError, match=f"File too large: '{tmp_path}/tb/events'"):
        events.add(1, {"loss": 0.5})
    events.close()


def test_close_writes_nothing_after_a_flush(tmp_path):
    """An error of close() would replace the error that ends the run."""
    events = Events(tmp_path / "tb", purge_step=7)
    with full_disk():
        events.close()
