"""TensorBoard events, written in the caller's thread, so that a full disk raises an error there."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mmjax.errors import InputError, with_filename


class Events:
    """One file of events. TensorBoard shows all the files of a folder as one run."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Opens a new file.

        Args:
          purge_step: TensorBoard hides this step and later ones of the folder's earlier files.

        Raises:
          InputError: there is a file in place of the folder.
          OSError: the disk is full or broken; names the file without its suffix. The methods raise it too.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if folder.exists() and not folder.is_dir():
            raise InputError(f"expected a folder at {folder}, found a file: move it away")
        folder.mkdir(exist_ok=True)
        self._prefix = folder / "events"
        with with_filename(self._prefix):
            # Without the suffix, two files of the same second would have the same name.
            self._writer = EventsWriter(str(self._prefix), f".{os.getpid()}.{time.monotonic_ns()}")
            if purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                self._writer.write_event(Event(step=purge_step, wall_time=time.time(), session_log=start))
            self._writer.flush()  # now: a failure in close() would hide the error that ended the run

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes one step's scalars by tag. Non-finite ones are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=tag.replace("->", "-to-").replace(" ", "_"), simple_value=value)
            for tag, value in numbers.items()
            if math.isfinite(value)
        ]
        with with_filename(self._prefix):
            self._writer.write_event(Event(step=step, wall_time=time.time(), summary=Summary(value=values)))
            self._writer.flush()

    def close(self) -> None:
        """Flushes and closes the file."""
        with with_filename(self._prefix):
            self._writer.close()
