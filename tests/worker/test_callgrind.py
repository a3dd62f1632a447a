"""Counting instructions, with workers that need no valgrind, and with valgrind where it is."""

import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
from fakes import FakeWorker
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import Case
from ntp.errors import OptionError, WorkerFailed
from ntp.worker import callgrind
from ntp.worker.callgrind import STEPS_BEFORE, check_valgrind, count_instructions, small, total_of
from ntp.worker.pairs import SideFailed
from ntp.worker.sources import Source

CASE = Case.parse("simple-b2-s16-t1")
SOURCES = {"base": Source(folder=Path("/base")), "head": Source(folder=Path("/head"))}


def profile(total):
    return f"version: 1\nevents: Ir\nsummary: 7\nfn=(1) main\n12 34\ntotals: {total}\n"


class Worker(FakeWorker):
    """In place of a worker under callgrind: its marked step leaves a profile, and its other requests are told."""

    log: ClassVar[list[tuple[str, str]]] = []
    totals: ClassVar[dict[str, int]] = {"base": 1000, "head": 1013}
    fails: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, case, *, timeout_s, source, launch):
        (self.file,) = launch.args
        self.side = source.folder.name

    pid = 7

    def said(self, what):
        self.log.append((self.side, what))
        if error := self.fails.get((self.side, what)):
            raise WorkerFailed(f"{CASE.id}: {error}", "its last words")

    def run_marked_step(self):
        if self.side in self.totals:
            self.file.with_name(f"{self.side}.1").write_text(profile(self.totals[self.side]))
        return super().run_marked_step()


@pytest.fixture(autouse=True)
def no_valgrind(monkeypatch):
    monkeypatch.setattr(callgrind, "PipeWorker", Worker)
    monkeypatch.setattr(Worker, "log", [])
    monkeypatch.setattr(subprocess, "run", lambda command, **_: Worker.log.append(("callgrind", " ".join(command))))


def test_the_step_that_is_counted_is_the_same_on_both_sides():
    counted = count_instructions(CASE, SOURCES)
    assert (counted.case_id, counted.base, counted.head) == (CASE.id, 1000, 1013)
    for side in SOURCES:
        asked = [what for name, what in Worker.log if name == side]
        assert asked == ["load", f"run {STEPS_BEFORE}", "run_marked_step", "run 1", "stop"]
    assert Worker.log.count(("callgrind", "vgdb --pid=7 instrumentation on")) == 2


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (subprocess.CalledProcessError(1, "vgdb", stderr="no such pid\nmore"), "no such pid"),
        (subprocess.TimeoutExpired("vgdb", 60), "timed out"),
        (FileNotFoundError("no vgdb"), "no vgdb"),
    ],
)
def test_callgrind_that_cannot_be_switched_on_is_a_failure(monkeypatch, error, says):
    def run(command, **_):
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SideFailed, match=rf"callgrind could not be switched on \(.*{says}.*\): omit --instructions"):
        count_instructions(CASE, SOURCES)


@pytest.mark.parametrize("side", SOURCES)
@pytest.mark.parametrize("what", ["load", f"run {STEPS_BEFORE}", "run_marked_step"])
def test_a_side_that_fails_is_named(monkeypatch, side, what):
    monkeypatch.setattr(Worker, "fails", {(side, what): "died of SIGSEGV"})
    with pytest.raises(SideFailed, match=f"^{side}: {CASE.id}: died of SIGSEGV$") as failure:
        count_instructions(CASE, SOURCES)
    assert failure.value.stderr_tail == "its last words"


def test_an_instruction_that_valgrind_does_not_know_is_explained(monkeypatch):
    monkeypatch.setattr(Worker, "fails", {("head", "load"): "died of SIGILL while loading the model"})
    with pytest.raises(SideFailed, match="SIGILL while loading the model: this valgrind does not know an instruction"):
        count_instructions(CASE, SOURCES)


def test_a_step_without_a_profile_was_not_counted(monkeypatch):
    monkeypatch.setattr(Worker, "totals", {"base": 1})
    with pytest.raises(SideFailed, match=r"^head: callgrind kept no count"):
        count_instructions(CASE, SOURCES)


@given(st.integers(0, 2**63))
def test_the_total_is_that_of_the_profile(tmp_path_factory, total):
    path = tmp_path_factory.mktemp("profile") / "base.1"
    path.write_text(profile(total))
    assert total_of(path) == total


@pytest.mark.parametrize("text", ["", "events: Ir\n", "totals:\n"])
def test_a_profile_that_was_cut_short_holds_no_total(tmp_path, text):
    (tmp_path / "base.1").write_text(text)
    with pytest.raises(WorkerFailed, match="kept no count"):
        total_of(tmp_path / "base.1")


@pytest.mark.parametrize(
    ("case_id", "stands_for_it"),
    [
        ("simple-b8-s64-t1", "simple-b2-s16-t1"),
        ("simple-b32-s128-t2-bf16", "simple-b2-s16-t1-bf16"),
        ("model.py:make-b8-s64-t2-passive-forward", "model.py:make-b2-s16-t1"),
    ],
)
def test_a_small_step_of_one_thread_stands_for_a_case(case_id, stands_for_it):
    assert small(Case.parse(case_id)).id == stands_for_it


def test_without_valgrind_it_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OptionError, match="needs valgrind, which is not on the PATH: install it, or omit"):
        check_valgrind()
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    check_valgrind()
