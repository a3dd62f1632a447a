"""Which packages of a repository an import would find elsewhere than in the tree that is wanted."""

import importlib
import json

import pytest

from ntp.worker.sources import Source, foreign, own_files, own_ntp, packages


class Repository:
    """A work tree and a side's tree, which begin alike, and an environment that something is installed in."""

    def __init__(self, path, monkeypatch):
        self.top, self.tree, self.installed = path / "top", path / "tree", path / "installed"
        for folder in (self.top, self.tree, self.installed):
            folder.mkdir()
        self.write("pyproject.toml", '[project]\nname = "My-Project"\n')
        self.write("src/mine/__init__.py")
        self.write("src/mine/part.py")
        self.write("tests/__init__.py")
        monkeypatch.syspath_prepend(str(self.installed))

    def write(self, name, text="", *, to=None):
        for folder in [to] if to else [self.top, self.tree]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    def install(self, *files, project="my_project", url=None):
        """A project as pip installs it."""
        record = "".join(f"{name},,\n" for name in files)
        details = {"METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1\n", "RECORD": record}
        if url:
            details["direct_url.json"] = json.dumps({"url": url, "dir_info": {"editable": True}})
        for name, text in {
            **dict.fromkeys(files, ""),
            **{f"{project}-1.dist-info/{k}": v for k, v in details.items()},
        }.items():
            self.write(name, text, to=self.installed)
        importlib.invalidate_caches()

    def packages(self, folder=""):
        def files_of(tree):
            return [str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()]

        by_name = packages(self.tree, files_of(self.tree), self.tree / folder, self.top, files_of(self.top))
        return {name: path and str(path.relative_to(self.tree)) for name, path in by_name}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return Repository(tmp_path, monkeypatch)


MINE = {"mine": "src/mine/__init__.py"}


def test_a_repository_of_which_nothing_is_installed(repository):
    assert repository.packages() == {}


def test_what_is_found_in_the_work_tree(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository.top / "src"))
    assert repository.packages() == MINE


def test_a_copy_of_its_project(repository):
    repository.install("mine/__init__.py", "mine/part.py")
    assert repository.packages() == MINE


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("pyproject.toml", '[tool.poetry]\nname = "my.project"\n'),
        ("setup.cfg", "[metadata]\nname = my_project\n"),
        ("setup.py", "setup(\n    name='my-project')\n"),
        ("packages/x/pyproject.toml", '[project]\nname = "my-project"\n'),
    ],
)
def test_wherever_a_project_says_its_name(repository, file, text):
    for folder in (repository.top, repository.tree):
        (folder / "pyproject.toml").unlink()
    repository.write(file, text)
    repository.install("mine/__init__.py")
    assert repository.packages() == MINE


@pytest.mark.parametrize("text", ["[project", "", "[project]\nversion = '1'", "\x00"])
def test_a_project_file_that_says_nothing(repository, text):
    repository.write("pyproject.toml", text)
    repository.install("mine/__init__.py")
    assert repository.packages() == {}


def test_another_clone_of_its_project(repository, tmp_path, monkeypatch):
    repository.write("src/mine/__init__.py", to=tmp_path / "clone")
    repository.install(project="my_project", url=f"file://{tmp_path}/clone")
    monkeypatch.syspath_prepend(str(tmp_path / "clone/src"))
    assert repository.packages() == MINE


def test_a_package_of_the_same_name_that_is_anothers(repository):
    repository.install("mine/__init__.py", project="somebody_elses")
    repository.install("other/__init__.py")
    assert repository.packages() == {}, "the repository may hold a copy of it for its own purposes"


def test_a_single_module_and_a_package_in_a_namespace(repository):
    repository.write("src/single.py")
    repository.write("src/space/inner/__init__.py")
    repository.install("single.py", "space/inner/__init__.py")
    assert repository.packages() == {"single": "src/single.py", "space.inner": "src/space/inner/__init__.py"}


def test_what_lies_in_the_folder_is_imported_from_there_anyway(repository):
    repository.write("sub/mine/__init__.py")
    repository.install("mine/__init__.py")
    assert repository.packages("sub") == {}


def test_a_package_that_only_the_work_tree_has_and_one_that_has_moved(repository):
    repository.install("mine/__init__.py", "new/__init__.py")
    repository.write("new/__init__.py", to=repository.top)
    (repository.tree / "src/mine").rename(repository.tree / "mine")
    (repository.tree / "sub").mkdir()
    assert repository.packages("sub") == {"mine": "mine/__init__.py", "new": None}


def test_neither_the_standard_librarys_names_nor_ntp_are_ever_taken(repository):
    for name in ("json", "ntp"):
        repository.write(f"src/{name}/__init__.py")
    repository.install("json/__init__.py", "ntp/__init__.py")
    assert repository.packages() == {}


class TestWhatWasImported:
    SOURCE = Source(folder="/tree/sub", top="/top", tree="/tree")

    def test_files_of_the_tree_from_its_top(self):
        files = (("b", "/tree/src/b.py"), ("a", "/tree/a.py"), ("again", "/tree/a.py"), ("c", "/top/c.py"))
        assert own_files(self.SOURCE, files) == ("a.py", "src/b.py")

    @pytest.mark.parametrize(
        ("name", "file", "says"),
        [
            ("mine", "/tree/mine.py", ""),
            ("mine.part", "/top/src/mine/part.py", "mine.part was imported from src/mine/part.py of the work tree"),
            ("mine", "/usr/lib/mine.py", "mine was imported from /usr/lib/mine.py"),
            ("ntp.case", "/top/tools/ntp/case.py", ""),
            ("__main__", "/top/tools/ntp/worker/worker.py", ""),
            ("__mp_main__", "/top/tools/ntp/worker/fork_server.py", ""),
        ],
    )
    def test_a_module_from_elsewhere(self, name, file, says):
        assert foreign(self.SOURCE, [("fine", "/tree/fine.py"), (name, file)]) == says


@pytest.mark.parametrize(("file", "has_worker"), [("ntp/worker/worker.py", True), ("ntp/case.py", False)])
def test_a_package_called_ntp_is_an_ntp_by_its_worker_and_an_old_one_by_its_case(tmp_path, file, has_worker):
    (tmp_path / "a/ntp").mkdir(parents=True)
    (tmp_path / "b" / file).parent.mkdir(parents=True)
    (tmp_path / "b" / file).touch()
    assert own_ntp([tmp_path / "a", tmp_path / "b"]) == tmp_path / "b"
    assert own_ntp([tmp_path / "a"]) is None
    assert Source.of(tmp_path / "b").has_worker == has_worker
    assert Source.of(tmp_path / "a").has_worker, "the ntp that runs this"
