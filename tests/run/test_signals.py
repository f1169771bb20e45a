"""A signal asks, once; the second acts; what was there before comes back."""

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
def test_signal_is_noted_and_obeyed_when_asked(number, capfd):
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


def test_a_stop_that_another_process_asked_for_names_no_signal():
    with pytest.raises(Interrupted, match="stopped by another process after step 3"):
        StopSignal().end("after step 3")


def test_second_signal_acts_at_once():
    """In a process of its own: SIGTERM's default action ends it."""
    script = """
        import os, signal
        from mmjax.run.signals import StopSignal
        with StopSignal():
            os.kill(os.getpid(), signal.SIGTERM)
            print("survived one", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            print("survived two", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "survived one\n"


def test_outside_the_main_thread_signals_are_left_alone():
    """A notebook or a server may run training in a thread."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignal() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
