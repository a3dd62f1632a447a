"""Environments with another torch, with a pip and a Python that need no network and no time."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ntp.errors import NtpError, OptionError
from ntp.worker import environments
from ntp.worker.environments import NEEDED, check_python, environment, remove


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """What would have been run. ``ran.failing`` maps a word of a command to what it writes to stderr as it fails."""
    ran = SimpleNamespace(commands=[], failing={})

    def run(command, **_options):
        command = list(map(str, command))
        ran.commands.append(command)
        for word, said in ran.failing.items():
            if word in command:
                return subprocess.CompletedProcess(command, 1, "", said)
        if "venv" in command:
            folder = tmp_path / "ntp" / "environments" / command[-1].rpartition("/")[2]
            (folder / "bin").mkdir(parents=True)
            (folder / "bin" / "python").write_text("x" * 1000)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(environments.subprocess, "run", run)
    return ran


def silent(_message):
    pass


def test_it_is_made_once_with_what_a_worker_imports_at_the_versions_of_here(ran):
    told = []
    made = environment("2.14.1", (), told.append)
    venv, install = ran.commands
    assert venv == [sys.executable, "-m", "venv", str(made.folder)]
    assert install[0] == str(made.python)
    assert "torch==2.14.1" in install
    assert {requirement.partition("==")[0] for requirement in install[-len(NEEDED) :]} == set(NEEDED)
    assert all("==" in requirement for requirement in install[-len(NEEDED) :])
    assert told == ["making an environment with torch 2.14.1 (minutes, and perhaps gigabytes to download)"]
    assert environment("2.14.1", (), told.append) == made
    assert len(ran.commands) == 2
    assert list(environments.environments()) == [made]
    assert made.size_bytes() > 1000


def test_other_requirements_make_another_environment(ran):
    plain, more = (environment("2.14.1", requirements, silent) for requirements in ((), ("pytest", "no-such>=1")))
    assert plain.folder != more.folder
    version = pytest.__version__
    assert more.requirements == (f"pytest=={version}", "no-such>=1")
    assert ran.commands[-1][-2:] == list(more.requirements)
    assert {made.name for made in environments.environments()} == {plain.name, more.name}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("venv", "cannot make a virtual environment: ensurepip is not available"),
        ("pip", "cannot install torch 9.9: No matching distribution found for torch==9.9"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(ran, word, says):
    mark = "ERROR: " if word == "pip" else ""
    more = "ERROR: see the manual\n" if word == "pip" else ""
    ran.failing[word] = f"first\n{mark}{says.partition(': ')[2]}\n{more}"
    with pytest.raises(OptionError) as refused:
        environment("9.9", (), silent)
    assert str(refused.value) == says
    assert list(environments.environments()) == []
    del ran.failing[word]
    assert environment("9.9", (), silent).python.exists()


def test_one_that_was_interrupted_is_made_again(ran, monkeypatch):
    def interrupted(command, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environments.subprocess, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            environment("2.14.1", (), silent)
    made = environment("2.14.1", (), silent)
    (made.folder / "complete.json").unlink()
    assert list(environments.environments()) == []
    assert environment("2.14.1", (), silent) == made


def test_only_one_process_makes_it(ran):
    inner = []

    def meanwhile(_message):
        with pytest.raises(NtpError, match="is being written by another process") as refused:
            environment("2.14.1", (), silent)
        inner.append(refused)

    environment("2.14.1", (), meanwhile)
    assert len(inner) == 1


def test_they_are_removed_by_name_or_all(ran):
    one, two = (environment(torch, (), silent) for torch in ("2.13.0", "2.14.1"))
    with pytest.raises(OptionError, match=r"there is no environment 'other': the cache has torch-2\.13\.0-py"):
        remove("other")
    assert remove(one.name) == [one]
    assert list(environments.environments()) == [two]
    assert remove("all") == [two]
    assert remove("all") == []
    assert not one.folder.exists()
    assert not two.folder.exists()


def test_an_interpreter_says_what_it_lacks_and_how_to_install_it(monkeypatch):
    def answer(command, **_options):
        return subprocess.CompletedProcess(command, 0, json.dumps([[3, 12], ["torch", "cpuinfo"]]), "")

    monkeypatch.setattr(environments.subprocess, "run", answer)
    with pytest.raises(OptionError) as refused:
        check_python("old/bin/python")
    assert str(refused.value) == (
        "python=old/bin/python lacks torch, py-cpuinfo, which workers import: "
        "old/bin/python -m pip install torch py-cpuinfo"
    )


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("[[3, 9], []]", "python=p is Python 3.9: workers need 3.11 or newer"),
        ("nothing", "python=p cannot be run"),
        ("[1, 2]", "python=p cannot be run"),
        ("[[3, 12], [5]]", "python=p cannot be run"),
    ],
)
def test_what_is_no_interpreter_for_workers_is_refused_in_one_line(monkeypatch, out, says):
    monkeypatch.setattr(
        environments.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, out, "")
    )
    with pytest.raises(OptionError, match=r"^[^\n]*$") as refused:
        check_python("p")
    assert says in str(refused.value)


def test_this_interpreter_can_run_workers(tmp_path):
    check_python(sys.executable)
    with pytest.raises(OptionError, match="cannot be run"):
        check_python(tmp_path / "no-such-python")
