"""Worktrees of guards that live, of guards that were killed, and of nobody's."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from ntp.errors import OptionError
from ntp.worker.worktrees import remove_dead, temporary_worktree


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Git as if freshly installed, and temporary folders where a test can look for them."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def git(tmp_path):
    """``git(*arguments)`` in a repository of one commit."""

    def run(*arguments):
        command = ["git", "-C", tmp_path / "repository", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "repository").mkdir()
    run("init", "--quiet")
    run("-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--allow-empty", "--message=first")
    return run


@pytest.fixture
def git_folder(tmp_path, git):
    return tmp_path / "repository/.git"


@pytest.fixture
def killed(git, git_folder):
    """``killed()`` makes a worktree as a guard does that is then killed, and gives its path."""

    def guard(add="git worktree add --quiet --detach"):
        body = """
        import os, signal, subprocess, sys
        from pathlib import Path
        from ntp.worker.worktrees import temporary_worktree
        with temporary_worktree(Path(sys.argv[1])) as tree:
            if sys.argv[2]:
                subprocess.run([*sys.argv[2].split(), str(tree)], cwd=Path(sys.argv[1]).parent, check=True)
            print(tree, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        command = [sys.executable, "-c", textwrap.dedent(body), git_folder, add]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()

    return guard


def traces(git_folder, tmp_path):
    """What there is of worktrees, in the repository and among the temporary folders."""
    kept = [*git_folder.glob("worktrees/*"), *git_folder.glob("ntp-*"), *(tmp_path / "temporary").iterdir()]
    return sorted(path.name for path in kept)


def test_a_worktree_is_gone_after_its_block(git, git_folder, tmp_path):
    with temporary_worktree(git_folder) as tree:
        git("worktree", "add", "--detach", tree)
        assert traces(git_folder, tmp_path) == [tree.name, tree.name, f"{tree.name}.lock"]
    assert traces(git_folder, tmp_path) == []
    assert git("worktree", "list").count("\n") == 0


@pytest.mark.parametrize("add", ["git worktree add --quiet --detach", "git worktree add --quiet --detach --lock", ""])
def test_that_of_a_guard_that_was_killed_goes_with_the_next(killed, git, git_folder, tmp_path, add):
    tree = killed(add)
    assert f"{os.path.basename(tree)}.lock" in traces(git_folder, tmp_path)
    with temporary_worktree(git_folder) as other:
        git("worktree", "add", "--detach", other)
        assert traces(git_folder, tmp_path) == [other.name, other.name, f"{other.name}.lock"]
    assert traces(git_folder, tmp_path) == []


def test_that_of_a_guard_that_lives_stays(killed, git, git_folder):
    with temporary_worktree(git_folder) as ours, temporary_worktree(git_folder) as second:
        git("worktree", "add", "--detach", ours)
        killed()
        killed()  # a process of its own, as another guard is, which has removed the one before
        remove_dead(git_folder)
        listed = git("worktree", "list")
        assert str(ours) in listed
        assert listed.count("\n") == 1
        assert ours.is_dir()
        assert {path.stem for path in git_folder.glob("*.lock")} == {ours.name, second.name}


def test_one_whose_folder_is_gone_is_forgotten_all_the_same(killed, git, git_folder, tmp_path):
    shutil.rmtree(killed())
    shutil.rmtree(tmp_path / "temporary")
    remove_dead(git_folder)
    assert list(git_folder.glob("worktrees/*")) == list(git_folder.glob("*.lock")) == []


def test_the_users_own_are_left_alone(git, git_folder, tmp_path):
    mine = [tmp_path / name for name in ("ntp-mine", "ntp-guard-mine", "unplugged", "locked")]
    for path in mine:
        git("worktree", "add", "--detach", path)
    git("worktree", "lock", mine[-1])
    mine[2].rename(tmp_path / "elsewhere")
    before = git("worktree", "list", "--porcelain")
    remove_dead(git_folder)
    with temporary_worktree(git_folder) as tree:
        git("worktree", "add", "--detach", tree)
    assert git("worktree", "list", "--porcelain") == before
    assert all(path.is_dir() for path in mine if path.name != "unplugged")


def test_a_lock_that_names_another_folder_removes_none(git_folder, tmp_path):
    (tmp_path / "precious").mkdir()
    (git_folder / "ntp-guard-x.lock").write_text(str(tmp_path / "precious"))
    remove_dead(git_folder)
    assert (tmp_path / "precious").is_dir()
    assert not (git_folder / "ntp-guard-x.lock").exists()


def test_a_repository_that_cannot_be_written_is_refused_in_a_line(tmp_path):
    refusal = pytest.raises(
        OptionError, match=r"/none cannot be written \(No such file or directory\), where git keeps"
    )
    with refusal, temporary_worktree(tmp_path / "none"):
        pass
    assert list((tmp_path / "temporary").iterdir()) == []
