"""The worker's own side, without a process around it."""

import io
import json
import os
import sys
import threading
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import PHASES
from ntp.errors import ModelError
from ntp.lines import MESSAGE_CHARACTERS
from ntp.records.flame import FlameWarning
from ntp.records.run import WarmUp
from ntp.worker import worker
from ntp.worker.worker import PART_PHASES, CaseHolder, Stepper, serve, take_cpus


class FakeTraining:
    """A step whose phases take as long as it is told, by a clock of its own."""

    def __init__(self, phase_ns):
        self.phase_ns = phase_ns
        self.now_ns = 0
        self.steps = 0

    def clock_ns(self):
        return self.now_ns

    @property
    def batches(self):
        while True:
            self.now_ns += self.phase_ns["data"]
            yield None

    def step(self, phase=None):
        self.steps += 1
        for name in PHASES:
            with phase(name) if phase else nothing():
                self.now_ns += self.phase_ns[name]
        return f"loss {self.steps}"


@contextmanager
def nothing():
    yield


@given(st.fixed_dictionaries({name: st.integers(0, 10**12) for name in PHASES}))
def test_each_part_is_the_time_of_its_phases(phase_ns):
    for part, phases in {**PART_PHASES, "step": PHASES, "data": ("data",)}.items():
        training = FakeTraining(phase_ns)
        stepper = Stepper(training, part, training.clock_ns)
        assert stepper.loss is None
        assert [stepper.run_step() for _ in range(2)] == [sum(phase_ns[name] for name in phases)] * 2
        assert training.steps == (0 if part == "data" else 2)
        assert stepper.loss == (None if part == "data" else "loss 2")


class Holder:
    """Stands in for the case of a worker."""

    def warm_up(self, steps=2):
        return WarmUp(step_time_ns=tuple(range(1, steps + 1)), wall_time_ns=3, steady=False)

    def run(self, steps):
        if steps == 13:
            raise RuntimeError("13 is\nunlucky")
        if steps == 14:
            raise KeyboardInterrupt
        try:
            raise KeyError(steps)
        except KeyError as error:
            raise ModelError(f"no model for {steps} steps") from (error if steps == 3 else None)


def answers(*requests):
    out = io.StringIO()
    serve(Holder(), io.StringIO("".join(json.dumps(request) + "\n" for request in requests)), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_answers_are_records_one_a_line():
    ok = {"step_time_ns": [1, 2], "wall_time_ns": 3, "steady": False, "compiling_step_ns": []}
    assert answers({"do": "warm_up"}, {"do": "warm_up"}) == [{"ok": ok}, {"ok": ok}]


def test_a_model_that_interrupts_its_worker_is_answered_for_too(capsys):
    after = {"do": "warm_up"}
    error, answer = answers({"do": "run", "steps": 14}, after)
    assert error == {"error": "KeyboardInterrupt: no message", "kind": ""}
    assert "ok" in answer
    assert "raise KeyboardInterrupt" in capsys.readouterr().err


def test_what_a_request_holds_besides_its_name_are_the_arguments():
    (answer,) = answers({"do": "warm_up", "steps": 3})
    assert answer["ok"]["step_time_ns"] == [1, 2, 3]


def test_the_window_of_a_warm_up_is_the_one_that_was_asked_for(monkeypatch):
    asked = []

    def warm_up(run_step, _, steps):
        asked.append((run_step(), steps))
        return WarmUp(step_time_ns=(1,), wall_time_ns=1, steady=True)

    monkeypatch.setattr(worker, "warm_up", warm_up)
    holder = CaseHolder()
    holder._stepper = Stepper(None, "step")
    holder._stepper.run_step = iter(range(7, 100)).__next__
    assert holder.warm_up(2).compiling_step_ns == ()
    assert asked == [(7, 2)]
    holder._compiles = True
    assert holder.warm_up(3).compiling_step_ns == (8, 9, 10)
    assert asked[1:] == [(11, 3)]


@given(st.text(st.characters(exclude_categories=())))
def test_whatever_text_is_in_an_answer_reaches_the_parent(text):
    class Talkative(Holder):
        def flame(self):
            return FlameWarning(kind="failed", message=text, advice="")

        def fail(self):
            raise RuntimeError(text)

    out = io.StringIO()
    serve(Talkative(), io.StringIO('{"do": "flame"}\n{"do": "fail"}\n'), out)
    told, failed = map(json.loads, out.getvalue().encode().splitlines())
    assert FlameWarning.model_validate(told["ok"]).message == text
    assert failed["error"] == f"RuntimeError: {next(iter(text.strip().splitlines()), 'no message')}"


def test_an_exception_that_cannot_be_asked_is_an_answer_and_a_megabyte_of_one_is_not(capsys):
    class Mute(Exception):
        def __str__(self):
            raise ValueError

    class Hostile(Holder):
        def run(self, steps):
            raise Mute if steps == 1 else RuntimeError("no " * steps)

    out = io.StringIO()
    serve(Hostile(), io.StringIO('{"do": "run", "steps": 1}\n{"do": "run", "steps": 1000000}\n'), out)
    mute, talkative = map(json.loads, out.getvalue().splitlines())
    assert mute["error"] == "Mute: no message"
    assert talkative["error"].startswith("RuntimeError: no no")
    assert len(talkative["error"]) == MESSAGE_CHARACTERS


@pytest.fixture
def pinned(monkeypatch):
    """What was pinned to which CPUs."""
    calls = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cpus: calls.append((thread, cpus)), raising=False)
    return calls


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed in /proc")
def test_all_threads_there_are_take_the_cpus(pinned):
    started, done = threading.Event(), threading.Event()

    def wait():
        started.set()
        done.wait(10)

    other = threading.Thread(target=wait)
    other.start()
    started.wait(10)
    take_cpus([1, 3])
    done.set()
    other.join()
    assert {threading.get_native_id(), other.native_id} <= {thread for thread, _ in pinned}
    assert all(cpus == [1, 3] for _, cpus in pinned)


def test_without_cpus_nothing_is_pinned(pinned):
    take_cpus(None)
    assert pinned == []


def test_where_nothing_can_be_pinned_nothing_is(monkeypatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} is listed"))
    take_cpus([0])


@pytest.mark.parametrize(
    ("request_", "error", "kind", "last_words"),
    [
        ({"do": "run", "steps": 2}, "no model for 2 steps", "ModelError", ""),  # the message says it all
        ({"do": "run", "steps": 3}, "no model for 3 steps", "ModelError", "KeyError: 3\n"),
        ({"do": "run", "steps": 13}, "RuntimeError: 13 is", "", "RuntimeError: 13 is\nunlucky\n"),
        ({"do": "dance"}, "AttributeError: 'Holder' object has no attribute 'dance'", "", "'dance'\n"),
    ],
)
def test_an_error_is_an_answer_too_and_the_next_request_is_answered(request_, error, kind, last_words, capsys):
    ok = {"step_time_ns": [1, 2], "wall_time_ns": 3, "steady": False, "compiling_step_ns": []}
    assert answers(request_, {"do": "warm_up"}) == [{"error": error, "kind": kind}, {"ok": ok}]
    told = capsys.readouterr().err
    assert ("Traceback" in told) == bool(last_words)
    assert told.endswith(last_words)
