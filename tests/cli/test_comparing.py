"""What guard, tune and race have in common: each state of a record is kept, and what is told of it."""

import json
import signal
from types import SimpleNamespace

import pytest

from ntp.cli.comparing import judged, keep, tell_last_lines
from ntp.errors import RecordError
from ntp.interrupts import Terminated


class State:
    """A state of a record that was measured for so long."""

    def __init__(self, pairs):
        self.pairs = pairs

    def text(self, verdict):
        return json.dumps({"pairs": self.pairs, **verdict})


def states(*pairs, stop=None, closed=None):
    try:
        yield from map(State, pairs)
        if stop:
            raise stop
    finally:
        if closed is not None:
            closed.append(True)


def summary(state):
    return {"verdict": state.pairs > 1}


def test_each_state_replaces_the_one_before_it(tmp_path):
    path, closed = tmp_path / "race.json", []
    assert keep(states(1, 2, 3, closed=closed), path, summary, "judge it").pairs == 3
    assert json.loads(path.read_text()) == {"pairs": 3, "verdict": True}
    assert closed == [True]


@pytest.mark.parametrize("ends_early", [False, True])
def test_without_any_state_nothing_is_written(tmp_path, ends_early):
    assert keep(states(), tmp_path / "race.json", summary, "judge it", ends_early=ends_early) is None
    with pytest.raises(KeyboardInterrupt) as stop:
        keep(states(stop=KeyboardInterrupt()), tmp_path / "race.json", summary, "judge it", ends_early=ends_early)
    assert not hasattr(stop.value, "__notes__")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(signal.SIGTERM)])
def test_a_signal_fails_and_says_what_can_be_done_with_the_file(tmp_path, stop):
    with pytest.raises(type(stop)) as caught:
        keep(states(1, 2, stop=stop), tmp_path / "race.json", summary, "judge it")
    assert caught.value.__notes__ == ["; what was measured is kept: judge it"]
    assert json.loads((tmp_path / "race.json").read_text())["pairs"] == 2


def test_ctrl_c_ends_a_search_with_the_best_so_far(tmp_path, capsys):
    stopped = states(1, 2, stop=KeyboardInterrupt())
    assert keep(stopped, tmp_path / "tune.json", summary, "resume it", ends_early=True).pairs == 2
    assert "interrupted: this is the best so far; resume it" in capsys.readouterr().err


def test_a_kill_does_not(tmp_path):
    with pytest.raises(Terminated) as caught:
        keep(states(1, stop=Terminated(signal.SIGTERM)), tmp_path / "t.json", summary, "resume it", ends_early=True)
    assert caught.value.__notes__ == ["; what was measured is kept: resume it"]


@pytest.mark.parametrize("error", [ValueError("no such side"), KeyError("rounds")])
def test_a_file_that_cannot_be_judged_is_named_with_the_command_that_writes_such(tmp_path, error):
    def verdict_on(_record):
        raise error

    with pytest.raises(RecordError, match=r"race\.json cannot be judged .*: give a file as ntp race --out wrote it"):
        judged(verdict_on, SimpleNamespace(command=("ntp", "race", "threads=1")), tmp_path / "race.json")
    assert judged(lambda record: record, 3, None) == 3


def test_what_several_workers_said_at_last_is_shown_once(capsys):
    tell_last_lines([("a", "boom\n"), ("b", "boom"), ("c", ""), ("d", "bang")])
    expected = "the last lines of the worker of a:\nboom\nthe last lines of the worker of d:\nbang\n"
    assert capsys.readouterr().err == expected
