"""``ntp report`` and ``ntp compare``, on runs made by hand."""

import subprocess
import sys

import pytest

from ntp.cli import exit_status
from ntp.report.text import FORMATS


def test_report_makes_the_same_again(make_measurement, make_run, store, call):
    run = make_run(make_measurement())
    for name, render in FORMATS.items():
        assert call("report", store(run), "--format", name) == (0, render(run), "")


def test_report_refuses_in_one_line(tmp_path, call):
    result = call("report", tmp_path / "none.json")
    assert (result.status, result.err.count("\n")) == (exit_status.USAGE, 1)


@pytest.fixture
def stored(make_measurement, make_run, tmp_path, store):
    """``stored(name, *case_ids)``: the path of a run of these cases, which is called so."""

    def named(name, *case_ids):
        return store(make_run(*map(make_measurement, case_ids))).rename(tmp_path / f"{name}.json")

    return named


def test_compare_shows_runs(stored, call):
    one, two, other = (
        stored(name, case_id)
        for name, case_id in (("a", "simple-b8-s64-t1"), ("b", "simple-b8-s64-t2"), ("c", "simple-b32-s64-t1"))
    )
    same = call("compare", one, one)
    assert same.status == 0
    assert same.out.startswith("In 1 of 1 case no difference can be told: a single process has no interval.\n")
    assert call("compare", one, two, one, "--format", "csv").out.count("\n") == 4
    assert call("compare", one, two).out.startswith("threads: 1 -> 2.\n")
    nothing = call("compare", one, other)
    assert nothing.status == exit_status.NOT_COMPARABLE
    assert "no case in common" in nothing.out


def test_compare_shows_a_run_within_itself(stored, call):
    path = stored("run", "simple-b8-s64-t1", "simple-b8-s64-t2")
    assert call("compare", path, "--by", "threads").out.startswith(
        "threads: 1 -> 2.\nIn 1 of 1 case no difference can be told"
    )


@pytest.mark.parametrize(
    ("runs", "options", "said"),
    [
        (1, (), "one run alone"),
        (1, ("--by", "colour"), "no such field"),
        (2, ("--by", "threads"), "got 2 runs"),
        (3, ("--gate",), "got 3 runs"),
        (2, ("--gate", "--format", "csv"), "terminal, markdown or html"),
    ],
)
def test_compare_refuses_what_makes_no_sense(stored, call, runs, options, said):
    result = call("compare", *[stored("run", "simple-b8-s64-t1")] * runs, *options)
    assert (result.status, result.out) == (exit_status.USAGE, "")
    assert said in result.err
    assert result.err.count("\n") == 1


def test_runs_are_compared_without_torch_or_scipy(stored):
    path = stored("run", "simple-b8-s64-t1", "simple-b8-s64-t2")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ntp.cli.app import main\n"
        "main(['compare', sys.argv[1], '--by', 'threads'])\n"
        "sys.exit('scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0
