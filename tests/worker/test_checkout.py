"""Two sides of a real repository: which folders they are, and that nothing of the user's is touched."""

import os
import re
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from ntp.errors import OptionError
from ntp.records.pairs import WORK_TREE
from ntp.worker.checkout import changed_files
from ntp.worker.checkout import checkout as side_and_source
from ntp.worker.sources import OWN

pytestmark = pytest.mark.usefixtures("surroundings")


@contextmanager
def checkout(*arguments, **options):
    """A side and its folder."""
    with side_and_source(*arguments, **options) as (side, source):
        yield side, source.folder


@pytest.fixture
def busy(repository):
    """A repository in the middle of work: a stash, a staged, an unstaged and an untracked file, another worktree."""
    repository.write("model.py", "stashed")
    repository.git("stash")
    repository.write("model.py", "staged")
    repository.git("add", "model.py")
    repository.write("sub/part.py", "unstaged")
    repository.write("untracked.py", "untracked")
    repository.git("worktree", "add", "--quiet", "--detach", str(repository.path.parent / "another"), "HEAD")
    return repository


def test_the_base_in_a_worktree_beside_the_work_tree_as_it_is(busy):
    with (
        checkout(busy.first, busy.path) as (base, base_folder),
        checkout(WORK_TREE, busy.path) as (head, head_folder),
    ):
        assert (base.ref, base.commit, base.dirty) == (busy.first, busy.first, False)
        assert (head.ref, head.commit, head.dirty) == ("worktree", busy.second, True)
        assert head_folder == busy.path
        assert (base_folder / "model.py").read_text() == "first"
        assert (base_folder / "sub/part.py").read_text() == "first"
        assert not (base_folder / "untracked.py").exists()
        assert (head_folder / "model.py").read_text() == "staged"
        assert busy.path not in base_folder.parents


@pytest.mark.parametrize("ref", ["HEAD~1", "trunk~1", "old", "annotated"])
def test_every_way_to_name_a_commit(repository, ref):
    repository.git("tag", "old", repository.first)
    repository.git("tag", "--annotate", "--message", "old", "annotated", repository.first)
    with checkout(ref, repository.path) as (side, _):
        assert (side.ref, side.commit) == (ref, repository.first)


def test_a_branch_that_is_checked_out(repository):
    with checkout("trunk", repository.path) as (side, folder):
        assert side.commit == repository.second
        assert folder != repository.path
    assert repository.git("branch", "--show-current") == "trunk"


def test_dirty_is_a_tracked_file_that_differs(repository):
    def dirty():
        with checkout(WORK_TREE, repository.path / "sub") as (side, _):
            return side.dirty

    assert not dirty()
    repository.write("untracked.py", "untracked")
    assert not dirty()
    repository.write("model.py", "changed")
    assert dirty(), "outside of the folder too: it can be imported from there"
    repository.git("add", "model.py")
    assert dirty()
    repository.git("commit", "--quiet", "--message", "third")
    assert not dirty()


def test_a_folder_corresponds_to_the_same_one_of_the_other_side(repository, monkeypatch):
    monkeypatch.chdir(repository.path / "sub")
    with checkout("HEAD~1") as (_, base), checkout(WORK_TREE) as (_, head):
        assert (base.name, (base / "part.py").read_text(), (base.parent / "model.py").is_file()) == (
            "sub",
            "first",
            True,
        )
        assert head == repository.path / "sub"


def test_a_folder_behind_a_symbolic_link(repository, tmp_path):
    (tmp_path / "link").symlink_to(repository.path / "sub")
    with checkout("HEAD~1", tmp_path / "link") as (_, folder):
        assert (folder / "part.py").read_text() == "first"


def test_a_repository_whose_path_is_not_utf_8(repository, tmp_path):
    there = tmp_path / os.fsdecode(b"\xff")
    repository.path.rename(there)
    with checkout("HEAD~1", there / "sub") as (side, folder):
        assert side.commit == repository.first
        assert (folder / "part.py").read_text() == "first"


def test_two_worktrees_of_one_commit(repository):
    with checkout("HEAD", repository.path) as (_, base), checkout("HEAD", repository.path) as (_, head):
        assert base != head
        assert (base / "model.py").read_text() == (head / "model.py").read_text() == "second"
    assert not base.exists()
    assert not head.exists()


def refusal(*arguments):
    """The one line that says why there is no such side."""
    with pytest.raises(OptionError) as refused, checkout(*arguments):
        pytest.fail("entered")
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "ref", ["missing", "", "--all", "-h", "--help", "--output=x", "HEAD:model.py", "HEAD^{tree}", "^", "0" * 40, "a b"]
)
def test_what_names_no_commit_is_refused(busy, ref):
    before = busy.state()
    assert refusal(ref, busy.path).startswith(f"{ref!r} names no commit of this repository: give a branch")
    assert busy.state() == before


def test_what_excludes_a_commit_is_refused(repository, tmp_path):
    assert refusal("^HEAD", repository.path).startswith("git worktree failed: ")
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("ref", ["HEAD", WORK_TREE])
def test_a_folder_in_no_repository(tmp_path, ref):
    assert refusal(ref, tmp_path) == f"{tmp_path} is in no git repository: run ntp in one"


def test_a_repository_without_a_commit(tmp_path):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert refusal(WORK_TREE, tmp_path).startswith("the repository has no commit yet: commit something")
    assert refusal("HEAD", tmp_path).startswith("'HEAD' names no commit")


@pytest.mark.parametrize("ref", ["HEAD", WORK_TREE])
def test_no_git(repository, monkeypatch, ref):
    monkeypatch.setenv("PATH", "")
    assert refusal(ref, repository.path).startswith("git is not installed")


def test_a_folder_that_the_ref_does_not_have(repository, tmp_path):
    before = repository.state()
    assert refusal("HEAD~1", repository.path / "new") == "HEAD~1 has no folder new: run ntp from one that it has"
    assert repository.state() == before
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("raised", [None, RuntimeError, KeyboardInterrupt, SystemExit])
def test_the_worktree_is_gone_after_the_block(busy, tmp_path, raised):
    before = busy.state()
    entered = None
    try:
        with checkout("HEAD~1", busy.path / "sub") as (_, entered):
            assert busy.git("worktree", "list").count("\n") == 2
            (entered / "written_by_a_worker.txt").write_text("x")
            if raised:
                raise raised
    except (RuntimeError, KeyboardInterrupt, SystemExit) as error:
        assert type(error) is raised  # noqa: PT017
    assert entered is not None
    assert busy.state() == before
    assert list((tmp_path / "temporary").iterdir()) == []
    assert list((busy.path / ".git/worktrees").iterdir()) == [busy.path / ".git/worktrees/another"]


def test_a_worktree_that_was_removed_by_hand_is_forgotten(repository):
    before = repository.state()
    with checkout("HEAD~1", repository.path) as (_, folder):
        shutil.rmtree(folder)
    assert repository.state() == before


def test_a_worktree_of_the_users_that_is_out_of_reach_is_not_forgotten(busy):
    (busy.path.parent / "another").rename(busy.path.parent / "unplugged")
    before = busy.git("worktree", "list", "--porcelain")
    assert "prunable" in before
    with checkout("HEAD~1", busy.path):
        pass
    assert busy.git("worktree", "list", "--porcelain") == before


def test_looking_whether_it_is_dirty_does_not_renew_the_index(repository):
    os.utime(repository.path / "model.py", (1, 1))
    index = (repository.path / ".git/index").read_bytes()
    with checkout(WORK_TREE, repository.path) as (side, _):
        assert not side.dirty
    assert (repository.path / ".git/index").read_bytes() == index


def test_a_hook_may_call_it(busy, monkeypatch):
    before = busy.state()
    with monkeypatch.context() as patch:
        patch.setenv("GIT_DIR", str(busy.path / ".git"))
        patch.setenv("GIT_INDEX_FILE", str(busy.path / ".git/index"))
        with checkout("HEAD~1", busy.path / "sub") as (_, folder), checkout(WORK_TREE, busy.path / "sub") as (head, _):
            assert (folder / "part.py").read_text() == "first"
            assert head.dirty
    assert busy.state() == before


def test_the_users_hooks_are_not_run(repository):
    hook = repository.path / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {repository.path}/hooked\nexit 1\n")
    hook.chmod(0o755)
    with checkout("HEAD~1", repository.path) as (_, folder):
        assert (folder / "model.py").read_text() == "first"
    assert not (repository.path / "hooked").exists()


def test_what_git_cannot_do_is_said_in_a_line(repository, tmp_path):
    blob = repository.git("rev-parse", "HEAD~1:model.py")
    lost = repository.path / ".git/objects" / blob[:2] / blob[2:]
    lost.chmod(0o644)
    lost.unlink()
    assert re.match(r"git worktree failed: \S", refusal("HEAD~1", repository.path))
    assert list((tmp_path / "temporary").iterdir()) == []
    assert repository.git("worktree", "list").count("\n") == 0


def test_whether_a_side_has_an_ntp_of_its_own(repository):
    repository.write("ntp/worker/worker.py", "")
    repository.commit("third")
    (repository.path / "ntp/worker/worker.py").unlink()
    with side_and_source("HEAD", repository.path / "sub") as (side, source):
        assert side.brings_ntp
        assert source.ntp == source.tree, "it lies at the top, wherever the guard is called"
    with checkout(WORK_TREE, repository.path) as (side, _):
        assert not side.brings_ntp


def test_a_package_of_the_users_that_is_called_ntp_is_none(repository):
    repository.write("ntp/__init__.py", "")
    repository.commit("third")
    with side_and_source("HEAD", repository.path) as (side, source):
        assert not side.brings_ntp
        assert source.ntp == OWN


@pytest.mark.parametrize("ref", ["HEAD", WORK_TREE])
def test_what_git_says_is_passed_on_with_its_remedy(repository, monkeypatch, ref):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    said = refusal(ref, repository.path)
    assert said.startswith("git rev-parse failed: fatal: detected dubious ownership in repository at ")
    assert f"git config --global --add safe.directory {repository.path}" in said


def test_a_folder_of_gits_own_is_no_place_to_compare_in(repository):
    assert refusal("HEAD", repository.path / ".git") == (
        "git rev-parse failed: fatal: this operation must be run in a work tree"
    )


class TestChangedFiles:
    def changed(self, repository, base, head):
        with checkout(base, repository.path) as (base_side, _), checkout(head, repository.path) as (head_side, _):
            return changed_files(base_side, head_side, repository.path)

    def test_between_two_commits(self, repository):
        repository.write("notes.txt", "third")
        repository.git("mv", "sub/part.py", "sub/moved.py")
        repository.commit("third")
        assert self.changed(repository, "HEAD", "HEAD") == ()
        assert self.changed(repository, "HEAD~2", "HEAD~1") == ("model.py", "new/part.py")
        assert self.changed(repository, "HEAD~1", "HEAD") == ("sub/moved.py", "sub/part.py")

    def test_of_the_work_tree_new_files_too_but_none_that_git_ignores(self, repository):
        repository.write(".gitignore", "ignored.py")
        for name in ("untracked.py", "ignored.py", "model.py", 'n\xf6tes "x".py'):
            repository.write(name, "third")
        assert self.changed(repository, "HEAD", WORK_TREE) == ("model.py", 'n\xf6tes "x".py', "untracked.py")
        assert self.changed(repository, WORK_TREE, WORK_TREE) == ()
