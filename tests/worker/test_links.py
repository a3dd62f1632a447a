"""What only the work tree has: how a checkout comes to share it, and what is said where it does not."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ntp.errors import OptionError
from ntp.records.pairs import WORK_TREE
from ntp.worker.checkout import checkout, lacking


class TestWhatACheckoutLacks:
    @pytest.fixture(autouse=True)
    def ignored(self, repository):
        repository.write(".gitignore", "_version.py\n*.so\ndata/\n.venv/\n__pycache__/\n")
        repository.write("pkg/__init__.py", "")
        repository.commit("third")
        for name in ("pkg/_version.py", "pkg/_C.cpython-311.so", "data/tokens.bin", ".venv/x", "__pycache__/y"):
            repository.write(name, "built")

    def said(self, repository, error, ref="HEAD"):
        with checkout(ref, repository.path) as (_, source):
            return lacking(source, error)

    @pytest.mark.parametrize(
        ("error", "named"),
        [
            ("ModuleNotFoundError: No module named 'pkg._version'", "pkg/_version.py"),
            ("ImportError: cannot import name '_C' from 'pkg'", "pkg/_C.cpython-311.so"),
            ("FileNotFoundError: [Errno 2] No such file or directory: 'data/tokens.bin'", "data"),
        ],
    )
    def test_that_the_error_names(self, repository, error, named):
        assert self.said(repository, error) == (
            f"the checkout lacks files of the work tree that git does not track: {named}; "
            "share them with --link PATH, or create them on each side with --setup COMMAND"
        )

    def test_where_the_error_names_none_of_it(self, repository):
        said = self.said(repository, "RuntimeError: no luck")
        assert said.startswith("perhaps because the checkout lacks files of the work tree that git does not track: ")
        assert "data" in said
        assert ".venv" not in said

    def test_the_work_tree_lacks_nothing(self, repository):
        assert self.said(repository, "No module named 'pkg._version'", WORK_TREE) == ""

    def test_a_checkout_that_has_all(self, repository):
        repository.git("clean", "--quiet", "-dfX")
        assert self.said(repository, "No module named 'x'") == ""

    def test_what_is_shared_is_there(self, repository):
        links = [Path("data"), Path("pkg/_version.py")]
        with checkout("HEAD", repository.path, links) as (_, source):
            assert (source.folder / "data/tokens.bin").read_text() == "built"
            assert (source.folder / "pkg/_version.py").read_text() == "built"
        assert (repository.path / "data/tokens.bin").read_text() == "built", "removing the worktree follows no link"

    def test_paths_are_seen_from_the_current_folder(self, repository):
        with checkout("HEAD", repository.path / "sub", [Path("../data")]) as (_, source):
            assert (source.tree / "data/tokens.bin").is_file()

    @pytest.mark.parametrize(
        ("link", "says"),
        [
            ("missing", "--link missing: the work tree has no such path"),
            ("model.py", "--link model.py: HEAD has a model.py of its own"),
            ("..", "--link ..: it lies outside the repository"),
            (".", "--link .: it lies outside the repository"),
        ],
    )
    def test_what_cannot_be_shared_is_refused(self, repository, tmp_path, link, says):
        with pytest.raises(OptionError) as refused, checkout("HEAD", repository.path, [Path(link)]):
            pytest.fail("entered")
        assert str(refused.value).startswith(says)
        assert list((tmp_path / "temporary").iterdir()) == []


class TestSubmodules:
    @pytest.fixture
    def outer(self, repository, tmp_path):
        """A repository whose ``vendor/inner`` is the other one, at its first commit, and then at its second."""
        (tmp_path / "outer").mkdir()
        outer = type(repository)(tmp_path / "outer")
        allowed = ("-c", "protocol.file.allow=always")
        outer.git(*allowed, "submodule", "--quiet", "add", str(repository.path), "vendor/inner")
        for commit in (repository.first, repository.second):
            inner = ["-C", str(outer.path / "vendor/inner")]
            subprocess.run(["git", *inner, "checkout", "--quiet", commit], check=True)
            outer.commit("a submodule")
        repository.path.rename(tmp_path / "moved")  # whoever asks its server has no answer
        return outer

    def test_each_side_has_its_own_commit_from_what_is_here(self, outer):
        before = outer.state()
        with checkout("HEAD~1", outer.path) as (_, base), checkout("HEAD", outer.path) as (_, head):
            assert (base.tree / "vendor/inner/model.py").read_text() == "first"
            assert (head.tree / "vendor/inner/model.py").read_text() == "second"
        assert outer.state() == before

    def test_one_that_is_not_here_stays_empty(self, outer):
        outer.git("submodule", "--quiet", "deinit", "--force", "vendor/inner")
        with checkout("HEAD", outer.path) as (_, source):
            assert list((source.tree / "vendor/inner").iterdir()) == []

    def test_a_commit_that_is_not_here_is_named(self, outer):
        with checkout("HEAD", outer.path) as (_, source):
            shutil.rmtree(source.tree / "vendor/inner")
            (source.tree / "vendor/inner").mkdir()
            assert "vendor/inner" in lacking(source, "No module named 'inner'")
