"""Only one process at a time writes a file."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from ntp.errors import RecordError
from ntp.records import sole_writer as module
from ntp.records.sole_writer import sole_writer

HOLDER = """
import sys, time
from pathlib import Path
from ntp.records.sole_writer import sole_writer

with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reports/run.json"


@pytest.fixture
def holder(path):
    """A process that has locked the file."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_refused_and_named(path, holder):
    with (
        pytest.raises(RecordError, match=rf"is being written by another process \({holder.pid}\): wait"),
        sole_writer(path),
    ):
        pass
    with sole_writer(path.with_name("tune.json")):
        pass


def test_a_killed_process_keeps_nobody_away(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert path.with_name(".run.json.lock").exists()
    with sole_writer(path):
        assert path.with_name(".run.json.lock").read_text() == str(os.getpid())
    assert list(path.parent.iterdir()) == []


def test_it_can_be_held_again_after_an_error(path):
    with pytest.raises(ZeroDivisionError), sole_writer(path):
        raise ZeroDivisionError
    with sole_writer(path), pytest.raises(RecordError, match="another process"), sole_writer(path):
        pass


def test_a_worker_does_not_inherit_it(path):
    with sole_writer(path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with sole_writer(path):
        child.communicate(b"\n")
    assert child.returncode == 0


def test_a_lock_that_its_holder_removes_meanwhile_is_not_taken(path, monkeypatch):
    hold = module._hold
    left = []

    def hold_when_it_is_too_late(descriptor):
        hold(descriptor)
        if not left:
            left.append(descriptor)
            path.with_name(".run.json.lock").unlink()

    monkeypatch.setattr(module, "_hold", hold_when_it_is_too_late)
    with sole_writer(path), pytest.raises(RecordError, match="another process"), sole_writer(path):
        pass


@pytest.mark.parametrize("number", sorted(module._NO_LOCKS))
def test_where_the_file_system_has_no_locks_nobody_is_kept_away(path, monkeypatch, number):
    def flock(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with sole_writer(path), sole_writer(path):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_any_other_failure_is_one_line(path, monkeypatch, number):
    def flock(*_arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "flock", flock)
    with pytest.raises(RecordError, match="cannot be written"), sole_writer(path):
        pass


def test_what_is_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for wrong in (tmp_path / "file/run.json", tmp_path / "folder"):
        with pytest.raises(RecordError, match="cannot be written"), sole_writer(wrong):
            pass
