"""Repositories, and workers that are forks, for the tests of several modules."""

import os
import subprocess
import textwrap
import zlib

import pytest

from ntp.case import Case, Workload
from ntp.worker import launch
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import ForkServer
from ntp.worker.sources import Source

CASE = Case(workload=Workload(batch_size=2, seq_len=4))


class Repository:
    """A repository with two commits: ``first`` has model.py and sub/, ``second`` changes it and adds new/."""

    def __init__(self, path):
        self.path = path
        self.git("init", "--quiet", "--initial-branch", "trunk")
        self.write("model.py", "first")
        self.write("sub/part.py", "first")
        self.first = self.commit("first")
        self.write("model.py", "second")
        self.write("new/part.py", "second")
        self.second = self.commit("second")

    def git(self, *arguments):
        return subprocess.run(
            ["git", "-C", self.path, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    def write(self, name, text):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def commit(self, message):
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def state(self):
        """All that is the user's: files and what they hold, the index, refs, stashes, worktrees."""
        files = {path.relative_to(self.path): path.read_bytes() for path in self.path.rglob("*") if path.is_file()}
        return (
            {path: content for path, content in files.items() if path.parts[0] != ".git" or path.name == "index"},
            self.git("worktree", "list", "--porcelain"),
            self.git("--no-optional-locks", "status", "--porcelain"),
            self.git("for-each-ref"),
            self.git("stash", "list"),
        )


@pytest.fixture
def surroundings(monkeypatch, tmp_path):
    """Git as if freshly installed, and temporary folders where a test can look for them."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "somebody@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def repository(surroundings, tmp_path):
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")


@pytest.fixture
def bare(monkeypatch):
    """A server that forks workers, with nothing loaded."""
    monkeypatch.setattr(launch, "PRELOADED", ())
    with ForkServer(CASE.runtime) as server:
        yield server


@pytest.fixture
def folder_with(tmp_path):
    """``folder_with(body)``: a folder with an ntp whose worker is ``body``. The same one whenever it is asked for."""

    def write(body):
        folder = tmp_path / f"{zlib.crc32(body.encode()):08x}"
        package = folder / "ntp" / "worker"
        if not folder.exists():
            package.mkdir(parents=True)
            for init in (folder / "ntp" / "__init__.py", package / "__init__.py"):
                init.touch()
            (package / "worker.py").write_text("import json, os, signal, sys, time\n" + textwrap.dedent(body))
        return folder

    return write


@pytest.fixture
def forked(bare, folder_with):
    """``forked(body)``: a fork of the bare server in a folder whose worker is ``body``."""

    def start(body, server=bare, **options):
        return PipeWorker(CASE, source=Source.of(folder_with(body)), launch=server.launch, **options)

    return start
