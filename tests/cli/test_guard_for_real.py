"""``ntp guard`` with real workers in a real repository."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from ntp.records.guard import GuardRecord

MODEL = """
import torch

class Model(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids):
        return self.table(ids){change}

def make(vocab_size):
    return Model(vocab_size)
"""
OPTIONS = ("--base", "HEAD", "--cases", "model.py:make-b2-s4-t1-v50", "--out", "out/guard.json")
NTP_GUARD = (sys.executable, "-m", "ntp", "guard")


class Repository:
    """A user's own, whose base holds a model and whose work tree holds a change."""

    def __init__(self, path: Path, call: Callable[..., Any]) -> None:
        self.path = path
        self._call = call
        self.git("init", "--quiet", "--initial-branch", "trunk")
        self.git("config", "user.name", "Somebody")
        self.git("config", "user.email", "somebody@example.org")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def commit(self, **files: str) -> None:
        self.write(**files)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "a commit")

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def guard(self, *arguments: str) -> Any:
        """Guard it from within this process, with workers that are forked from one that is loaded already."""
        with contextlib.chdir(self.path):
            return self._call("guard", *OPTIONS, *arguments)

    def replay(self, file: str) -> Any:
        return self._call("guard", "--replay", self.path / file)

    def guard_apart(self, *arguments: str, folder: str = ".", **variables: str) -> SimpleNamespace:
        """Guard it from a process of its own, in which the variables are set."""
        done = subprocess.run(
            [*NTP_GUARD, *OPTIONS, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.path / folder,
            env=os.environ | variables,
        )
        return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)

    def is_clean(self) -> bool:
        """Whether no worktree is left, and the user's own files are as they were."""
        return self.git("worktree", "list").count("\n") == 1 and self.git("stash", "list") == ""


@pytest.fixture
def repository(tmp_path, monkeypatch, call, forks):
    for name in [name for name in os.environ if name.startswith("GIT")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    path = tmp_path / "repository"
    path.mkdir()
    return Repository(path, call)


def test_a_change_in_a_users_repository_is_found_by_its_counts(repository):
    repository.commit(model=MODEL.format(change=""))
    repository.write(model=MODEL.format(change=".clone()"))
    status = repository.git("status", "--porcelain")
    result = repository.guard("--budget", "1s")
    assert result.status == 1, result.err
    assert "aten::clone" in result.out
    assert "with uncommitted changes" in result.out
    assert repository.is_clean()
    assert repository.git("status", "--porcelain") == f"{status}?? out/\n"
    allowed = repository.guard("--budget", "1s", "--allow", "*_bytes,aten::*")
    assert allowed.status == 3, allowed.out


def test_unchanged_code_is_measured_in_pairs(repository):
    repository.commit(model=MODEL.format(change=""))
    result = repository.guard("--budget", "8s", "--threshold", "90%", "--head", "HEAD")
    kept = GuardRecord.load(repository.path / "out/guard.json")
    assert kept.cases[0].pairs or kept.wall_time_s >= kept.budget_s, "counting alone may spend it on a busy machine"
    assert kept.cases[0].base == kept.cases[0].head
    assert result.status == (0 if len(kept.cases[0].pairs) >= kept.plan.min_pairs else 3), result.out
    replay = repository.replay("out/guard.json")
    assert (replay.out, replay.status) == (result.out, result.status)


@pytest.fixture
def src_layout(repository):
    """A package in ``src``, whose head repeats a part, and a file outside of it that imports the package."""
    (repository.path / "pyproject.toml").write_text('[project]\nname = "my-project"\n')
    (repository.path / ".gitignore").write_text("out/\n")
    model = {"src/mine/__init__": "", "bench/bm": "from mine.model import make"}
    repository.commit(**model, **{"src/mine/model": MODEL.format(change="")})
    repository.commit(**{"src/mine/model": MODEL.format(change=".clone()"), "unrelated": ""})
    return repository


def assert_regression_of_its_own_code(repository, result, loaded):
    assert result.status == 1, result.out + result.err
    assert "aten::clone" in result.out
    kept = GuardRecord.load(next(repository.path.rglob("guard.json")))
    assert (kept.base.loaded, kept.head.loaded) == (loaded, loaded)
    assert kept.changed == ("src/mine/model.py", "unrelated.py")
    assert "were loaded" not in result.out


SRC_CASES = "mine.model:make-b2-s4-t1-v50,bm.py:make-b2-s4-t1-v50"


@pytest.mark.long
def test_each_side_imports_its_own_code_where_the_python_path_leads_into_the_work_tree(src_layout):
    path = str(src_layout.path / "src")
    options = ("--base", "HEAD~1", "--budget", "1s", "--cases", SRC_CASES)
    result = src_layout.guard_apart(*options, folder="bench", PYTHONPATH=path)
    loaded = ("bench/bm.py", "src/mine/__init__.py", "src/mine/model.py")
    assert_regression_of_its_own_code(src_layout, result, loaded)


@pytest.mark.long
def test_each_side_imports_its_own_code_where_a_copy_of_the_package_is_installed(src_layout, tmp_path):
    copy, details = tmp_path / "installed", tmp_path / "installed/my_project-1.dist-info"
    shutil.copytree(src_layout.path / "src", copy)
    details.mkdir()
    (details / "METADATA").write_text("Metadata-Version: 2.1\nName: my-project\nVersion: 1\n")
    (details / "RECORD").write_text("mine/__init__.py,,\nmine/model.py,,\n")
    options = ("--base", "HEAD~1", "--budget", "1s", "--cases", SRC_CASES.partition(",")[0])
    result = src_layout.guard_apart(*options, PYTHONPATH=str(copy))
    assert_regression_of_its_own_code(src_layout, result, ("src/mine/__init__.py", "src/mine/model.py"))


ABSOLUTE = """
import importlib.util
spec = importlib.util.spec_from_file_location("mine", {path!r})
module = importlib.util.module_from_spec(spec)
import sys
sys.modules["mine"] = module
spec.loader.exec_module(module)
make = module.make
"""


@pytest.mark.long
def test_one_side_twice_is_not_comparable(repository):
    repository.commit(mine=MODEL.format(change=""), model=ABSOLUTE.format(path=str(repository.path / "mine.py")))
    repository.write(mine=MODEL.format(change=".clone()"))
    result = repository.guard("--budget", "1s")
    assert result.status == 4, result.out + result.err
    assert "base: mine was imported from mine.py of the work tree" in " ".join(result.out.split())


@pytest.mark.long
def test_what_git_does_not_know_is_named_then_shared_or_made_on_each_side(repository):
    (repository.path / ".gitignore").write_text("generated.py\nout/\n")
    repository.commit(model="import generated\n" + MODEL.format(change=""))
    repository.write(generated="")
    options = ("--budget", "1s")
    result = repository.guard(*options)
    assert result.status == 4
    assert "lacks files of the work tree that git does not track: generated.py; share them with --link" in " ".join(
        result.out.split()
    )
    assert repository.guard(*options, "--link", "generated.py").status == 3
    made = repository.guard(*options, "--setup", "echo making; touch generated.py")
    assert made.status == 3, made.out
    kept = GuardRecord.load(repository.path / "out/guard.json")
    assert [(side.preparation.status, side.preparation.output) for side in (kept.base, kept.head)] == [
        (0, "making\n")
    ] * 2
    assert repository.is_clean()


@pytest.mark.parametrize(
    ("side", "fails_where", "status"), [("base", "! test -e new.py", 4), ("head", "test -e new.py", 5)]
)
def test_a_setup_that_fails_is_one_clear_line(repository, side, fails_where, status):
    repository.commit(model=MODEL.format(change=""))
    repository.write(new="")
    result = repository.guard("--budget", "1s", "--setup", f"if {fails_where}; then echo no luck; exit 7; fi")
    assert result.status == status, result.out
    assert f"{side}: --setup ended with exit status 7" in " ".join(result.out.split())
    assert "no luck" in result.err
    assert repository.is_clean()


@pytest.mark.parametrize(
    ("base", "head", "status", "says"),
    [
        ({"other": ""}, {"model": MODEL.format(change="")}, 4, "model.py"),
        ({"model": "import no_such_module"}, {"model": MODEL.format(change="")}, 4, "no_such_module"),
        ({"model": MODEL.format(change="")}, {"model": "1 / 0"}, 5, "division by zero"),
    ],
)
def test_a_side_that_cannot_run_never_passes(repository, base, head, status, says):
    repository.commit(**base)
    repository.write(**head)
    result = repository.guard("--budget", "30s")
    assert result.status == status, result.out
    assert says in result.out
    assert repository.is_clean()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_leaves_no_worktree_and_no_process(repository, number, status):
    repository.commit(model=MODEL.format(change=""))
    command = [*NTP_GUARD, *OPTIONS, "--budget", "100s"]
    process = subprocess.Popen(command, cwd=repository.path, stderr=subprocess.PIPE, text=True)
    kept = repository.path / "out/guard.json"
    while not kept.exists():
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "what was measured is kept" in errors
    assert errors.count("\n") == 1
    assert repository.is_clean()
    assert GuardRecord.load(kept).cases[0].base is not None


LOADER = r"""
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import os, time\nwhile os.getppid() == %d: time.sleep(0.01)" % os.getpid()])
"""
"""Starts what a data loader starts: a process in its own's group, that ends when it finds its parent gone."""


def is_stopped(process):
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
        return process.status() == psutil.STATUS_STOPPED
    return False


def test_a_guard_that_is_killed_leaves_no_process_though_one_side_is_paused(repository):
    repository.commit(model=LOADER + MODEL.format(change=""))
    command = [*NTP_GUARD, *OPTIONS, "--cases", "model.py:make-b2-s4-t2-v50-active", "--budget", "100s"]
    with subprocess.Popen(command, cwd=repository.path, stderr=subprocess.DEVNULL) as process:
        started = psutil.Process(process.pid)
        left = []
        # The server, and a worker and its loader on each side, of which one is paused.
        while len(left) < 5 or sum(map(is_stopped, left)) < 2:
            assert process.poll() is None
            time.sleep(0.005)
            left = started.children(recursive=True)
        process.kill()
    _, alive = psutil.wait_procs(left, timeout=10)
    assert not alive
