"""TensorBoard events, written where they arise: a full disk is an error of the caller, not of a thread."""

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from mmjax.errors import with_filename


class Events:
    """One file of events; several in a folder are one run to TensorBoard."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """``purge_step``: what earlier files tell of this step and later ones is hidden.

        Raises: OSError, here and below: the disk is full or broken. It names the file, less its suffix.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(exist_ok=True)
        self._prefix = folder / "events"
        with with_filename(self._prefix):
            # The suffix keeps two files of one second apart.
            self._writer = EventsWriter(str(self._prefix), f".{os.getpid()}.{time.monotonic_ns()}")
            if purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                self._writer.write_event(Event(step=purge_step, wall_time=time.time(), session_log=start))
            self._writer.flush()  # left to close(), it could fail there, in place of a run's own error

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """One step's numbers by tag; those that are not finite are left out."""
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
