"""The first signal requests a stop, the second acts immediately, and earlier handlers are restored."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from mmjax.errors import Interrupted
from mmjax.run.signals import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_sets_requested_and_end_raises(number, capfd):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Interrupted) as end:
            stop.end("after step 3, which is saved")
    name = signal.Signals(number).name
    assert str(end.value) == f"stopped by {name} after step 3, which is saved; the same command resumes"
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(number) is before


def test_stop_requested_by_another_process_names_no_signal():
    with pytest.raises(Interrupted, match="stopped by another process after step 3"):
        StopSignal().end("after step 3")


def test_second_signal_acts_immediately():
    """Runs in a subprocess, which the default action of SIGTERM ends."""
    script = """
        import os, signal
        from mmjax.run.signals import StopSignal
        with StopSignal():
            os.kill(os.getpid(), signal.SIGTERM)
            print("survived the first", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            print("survived the second", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "survived the first\n"


def test_outside_the_main_thread_handlers_stay_unchanged():
    """A notebook or a server may run training in a thread."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignal() as stop:
            found.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, False)]
