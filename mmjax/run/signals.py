"""SIGTERM and SIGINT request a stop. The run saves after the current step and then ends."""

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn

from mmjax.errors import Interrupted

NOTICE = b"\nmmjax: stopping after this step, then saving; once more stops at once\n"


class StopSignal:
    """Inside `with`, a first SIGTERM or SIGINT only sets `requested`. A second one acts at once."""

    def __init__(self) -> None:
        self.name: str | None = None  # of the received signal
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.name is not None

    def end(self, state: str) -> NoReturn:
        """Raises Interrupted.

        Args:
          state: how far the run is and what is saved, such as "after step 5, which is saved".
        """
        raise Interrupted(f"stopped by {self.name or 'another process'} {state}; the same command resumes")

    def __enter__(self) -> "StopSignal":
        with contextlib.suppress(ValueError):  # only the main thread can handle signals
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()
        os.write(2, NOTICE)  # not print: the signal may have interrupted one
