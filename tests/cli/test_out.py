"""Where a command is to write, and what it is to read: what cannot be is found before anything is measured."""

import subprocess
import sys
from pathlib import Path

import pytest

from ntp.machine.cpus import available_cpus

COMMANDS = {
    "guard": ("guard", "--base", "HEAD"),
    "tune": ("tune",),
    "profile": ("profile",),
    "train": ("train", "--steps", "1"),
}
SMALL = ("--batch-size", "1", "--seq-len", "2")


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch, tmp_path):
    def measured(*_, **__):
        raise AssertionError("it was measured")

    for name in ("guard.guard", "tune.tune", "profile.profile", "calibrate.calibrate"):
        monkeypatch.setattr(f"ntp.runners.{name}", measured)
    monkeypatch.setattr("ntp.core.step.Training.step", measured)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(call):
    """Runs a command that is refused as wrong usage; returns the one line that it says."""

    def run(*arguments):
        status, out, err = call(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        return err

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["in the way", "through a file", "in proc", "too long"])
def test_a_place_that_cannot_be_written_costs_no_measurement(refused, tmp_path, command, place):
    folder = command in {"profile", "train"}
    (tmp_path / "file").write_text("old")
    in_the_way = tmp_path / "out" / {"profile": "memory.svg", "train": "checkpoint.pt"}.get(command, "")
    in_the_way.mkdir(parents=True)
    out = {
        "in the way": "out",
        "through a file": "file" if folder else "file/out.json",
        "in proc": "/proc/nowhere/out",
        "too long": "x" * 300,
    }[place]
    option = "--checkpoint" if command == "train" else "--out"
    before = sorted(tmp_path.rglob("*"))
    message = refused(*COMMANDS[command], *(SMALL if command != "guard" else ()), option, out)
    assert out in message
    assert "cannot be written" in message
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "old"


def test_the_folder_of_a_run_that_is_refused_later_is_not_made(refused, tmp_path):
    refused("train", "--checkpoint", "new", "--model", "nowhere:make")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["search.md", "link.json"])
def test_a_search_is_not_kept_where_its_report_goes(refused, tmp_path, out):
    (tmp_path / "link.json").symlink_to("link.md")
    assert f"--out {out} is the file of the report" in refused("tune", *SMALL, "--out", out)


def test_a_search_does_not_replace_a_text_that_is_no_report_of_its_own(refused, tmp_path):
    (tmp_path / "README.md").write_text("the user's")
    assert "README.md would be replaced" in refused("tune", *SMALL, "--out", "README.json")
    assert (tmp_path / "README.md").read_text() == "the user's"


def test_a_search_whose_report_cannot_be_written(refused, tmp_path):
    (tmp_path / "search.md").mkdir()
    assert "search.md cannot be written" in refused("tune", *SMALL, "--out", "search.json")


def test_a_guards_record_is_not_its_summary(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert "is also the file of GITHUB_STEP_SUMMARY" in refused("guard", "--base", "HEAD", "--out", "summary.md")


@pytest.mark.parametrize("text", [",", "", " , ,"])
@pytest.mark.parametrize(
    "command",
    [
        ("guard", "--base", "HEAD", "--cases"),
        ("guard", "--base", "HEAD", "--allow"),
        ("doctor", "--calibrate", "--cases"),
        ("compare", "--gate", "RUN", "RUN", "--allow"),
    ],
)
def test_a_list_that_is_given_and_names_nothing_is_refused(refused, run_file, command, text):
    message = refused(*(run_file if part == "RUN" else part for part in command), text)
    assert f"'{command[-1]}': expected names separated by commas (got {text!r})" in message


@pytest.fixture
def run_file(store, make_run, make_measurement):
    return store(make_run(make_measurement()))


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "threads"),
        ("profile", "threads"),
        ("profile", "interop-threads"),
        ("tune", "threads"),
        ("guard", "threads"),
        ("guard", "interop-threads"),
    ],
)
def test_more_threads_than_there_are_cpus_are_refused(refused, command, option):
    many = 1000
    given = (f"--{option}", many)
    if command == "guard":
        given = ("--cases", f"simple-b1-s2-t{many}" if option == "threads" else f"simple-b1-s2-t1-interop{many}")
    message = refused(*COMMANDS[command], *given)
    assert f"{option}: {many} asked for, but this process may use {available_cpus().max_threads}" in message


@pytest.mark.parametrize(
    "command",
    [("report", "RUN"), ("report", "RUN", "--format", "html"), ("compare", "RUN", "RUN"), ("guard", "--replay", "RUN")],
)
def test_output_that_would_be_added_to_what_is_read_is_refused(run_file, command):
    before = run_file.read_text()
    words = [str(run_file) if part == "RUN" else part for part in command]
    with Path(run_file).open("a") as end:
        done = subprocess.run(
            [sys.executable, "-m", "ntp", *words], stdout=end, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert "is read and written at once" in done.stderr
    assert run_file.read_text() == before
