"""A command that makes a side ready, and what it leaves running."""

import os
import signal
from contextlib import suppress

import psutil
import pytest

from ntp.worker.preparing import prepare


def test_what_it_leaves_running_is_not_waited_for(tmp_path):
    preparation = prepare(tmp_path, "sleep 60 & echo $!")
    left = psutil.Process(int(preparation.output))
    assert left.is_running()
    left.kill()
    assert preparation.status == 0


def test_of_what_it_prints_the_end_is_kept(tmp_path):
    preparation = prepare(tmp_path, "yes | head -n 100000; echo last; exit 3")
    assert preparation.output.endswith("y\nlast\n")
    assert len(preparation.output) == 20_000
    assert preparation.status == 3


def test_an_interrupt_ends_it_and_all_that_it_started(tmp_path):
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, f"sleep 60 & echo $! > pid; sleep 0.5; kill -INT {os.getpid()}; sleep 60")
    finally:
        signal.signal(signal.SIGINT, handler)
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(int((tmp_path / "pid").read_text())).status() == psutil.STATUS_ZOMBIE
