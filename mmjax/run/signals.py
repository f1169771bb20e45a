"""A signal asks a run to stop; the run chooses the moment, and saves first."""

import contextlib
import os
import signal
from types import FrameType
from typing import NoReturn

from mmjax.errors import Interrupted

NOTICE = b"\nmmjax: stopping after this step, then saving; once more stops at once\n"


class StopSignal:
    """Inside ``with``, SIGTERM and SIGINT are noted rather than obeyed. A second one acts at once."""

    def __init__(self) -> None:
        self.name: str | None = None  # of the signal that came
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """A signal has come."""
        return self.name is not None

    def end(self, state: str) -> NoReturn:
        """Raises Interrupted; ``state`` says how far the run is and what is saved."""
        raise Interrupted(f"stopped by {self.name or 'another process'} {state}; the same command goes on")

    def __enter__(self) -> "StopSignal":
        with contextlib.suppress(ValueError):  # not the main thread: signals are not ours to handle
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self.__exit__()
        os.write(2, NOTICE)  # print might be what the signal has just interrupted
