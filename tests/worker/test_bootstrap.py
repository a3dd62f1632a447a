"""Where a process imports from: real interpreters, whose path is laid out as installations lay it out."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.worker import bootstrap
from ntp.worker.bootstrap import Tree, is_in, is_users
from ntp.worker.sources import OWN, Source

NAMES = st.sampled_from(["a", "b", "ab"])


def write(folder, text, *names):
    """Write modules, by their paths without the suffix, all with the same text."""
    for name in names:
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def trees(tmp_path):
    """A repository in which every module of the work tree says ``top``, and a tree of it in which all say ``tree``."""
    top, tree = tmp_path / "top", tmp_path / "temporary" / "tree"
    for folder in (top, tree):
        write(folder, f"SAID = {folder.name!r}", "src/mine/__init__", "src/mine/part", "src/space/inner/__init__")
    write(top, "SAID = 'top'", "src/mine/late", "src/only_there")
    return top, tree


ARRANGE = """
import importlib.util, json
spec = importlib.util.spec_from_file_location("bootstrap", {file!r})
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)
bootstrap.arrange(json.loads({source!r}))
"""


def run(source, code, **variables):
    """What a program prints as JSON whose process takes on the source at the line ``# then``."""
    before, _, after = f"import json, sys\n{textwrap.dedent(code)}".partition("# then\n")
    arrange = ARRANGE.format(file=bootstrap.__file__, source=source.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-P", "-c", before + arrange + after],
        cwd=source.folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def source_of(top, tree, **options):
    return Source(**({"folder": tree, "top": top, "tree": tree} | options))


SAY = """
import mine, mine.part, space.inner
print(json.dumps([mine.SAID, mine.part.SAID, space.inner.SAID]))
"""

EDITABLE = """
# As setuptools writes it, for a package and for a namespace that lie elsewhere than they would.
import importlib.machinery, importlib.util, os
class Finder:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        at = {{"mine": {src!r} + "/mine"}}.get(name)
        if at:
            return importlib.util.spec_from_file_location(name, at + "/__init__.py")
        if name == "space":
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [{src!r} + "/space"]
            return spec
sys.meta_path.append(Finder)
# then
"""


class TestATreeIsSeenHoweverThePackagesAreFound:
    def test_by_the_python_path(self, trees):
        top, tree = trees
        assert run(source_of(top, tree), "# then\n" + SAY, PYTHONPATH=str(top / "src")) == ["tree"] * 3

    def test_by_a_relative_python_path(self, trees):
        top, tree = trees
        paths = "# then\nprint(json.dumps(sys.path))"
        assert run(source_of(top, tree, folder=top), "# then\n" + SAY, PYTHONPATH="src") == ["tree"] * 3
        assert str(top / "src") not in run(source_of(top, tree, folder=top), paths, PYTHONPATH="src")

    def test_by_the_path_file_of_an_editable_installation(self, trees):
        top, tree = trees
        added = f"sys.path.append({str(top / 'src')!r})\n# then\n"
        assert run(source_of(top, tree), added + SAY) == ["tree"] * 3

    def test_by_the_finder_of_an_editable_installation(self, trees):
        top, tree = trees
        assert run(source_of(top, tree), EDITABLE.format(src=str(top / "src")) + SAY) == ["tree"] * 3

    def test_by_a_symbolic_link_among_the_installed_packages(self, trees, tmp_path):
        top, tree = trees
        (tmp_path / "installed").mkdir()
        for name in ("mine", "space"):
            (tmp_path / "installed" / name).symlink_to(top / "src" / name)
        assert run(source_of(top, tree), "# then\n" + SAY, PYTHONPATH=str(tmp_path / "installed")) == ["tree"] * 3

    def test_by_a_path_that_the_model_itself_adds(self, trees):
        top, tree = trees
        added = f"# then\nsys.path.insert(0, {str(top / 'src')!r})\n"
        assert run(source_of(top, tree), added + SAY) == ["tree"] * 3

    def test_a_copy_that_is_installed_elsewhere(self, trees, tmp_path):
        top, tree = trees
        write(tmp_path / "installed", "SAID = 'copy'", "mine/__init__", "mine/part")
        source = source_of(top, tree, packages=(("mine", tree / "src/mine/__init__.py"),))
        code = "# then\nimport mine, mine.part\nprint(json.dumps([mine.SAID, mine.part.SAID]))"
        assert run(source, code, PYTHONPATH=str(tmp_path / "installed")) == ["tree"] * 2

    def test_the_work_tree_itself_as_a_side(self, trees):
        top, _ = trees
        assert run(source_of(top, top), "# then\n" + SAY, PYTHONPATH=str(top / "src")) == ["top"] * 3

    def test_a_process_that_a_model_starts_sees_it_too(self, trees):
        top, tree = trees
        code = """
        # then
        import subprocess
        said = subprocess.check_output([sys.executable, "-c", "import mine; print(mine.SAID)"], text=True)
        print(json.dumps(said.strip()))
        """
        assert run(source_of(top, tree), textwrap.dedent(code), PYTHONPATH=str(top / "src")) == "tree"


class TestWhatATreeDoesNotHave:
    MISSING = """
    # then
    missing = []
    for name in {names!r}:
        try:
            __import__(name)
        except ModuleNotFoundError as error:
            missing.append(error.name)
    print(json.dumps(missing))
    """

    def missing(self, source, *names, before="", **variables):
        return run(source, before + textwrap.dedent(self.MISSING.format(names=names)), **variables)

    def test_cannot_be_imported_from_the_work_tree(self, trees):
        top, tree = trees
        names = ("mine.late", "only_there", "mine.part")
        assert self.missing(source_of(top, tree), *names, PYTHONPATH=str(top / "src")) == ["mine.late", "only_there"]

    def test_nor_through_a_finder(self, trees):
        top, tree = trees
        (tree / "src/mine/__init__.py").unlink()
        before = EDITABLE.format(src=str(top / "src")).replace("# then\n", "")
        assert self.missing(source_of(top, tree), "mine", before=before) == ["mine"]

    def test_nor_from_a_copy(self, trees, tmp_path):
        top, tree = trees
        write(tmp_path / "installed", "SAID = 'copy'", "new")
        source = source_of(top, tree, packages=(("new", None),))
        assert self.missing(source, "new", PYTHONPATH=str(tmp_path / "installed")) == ["new"]


class TestTheEnvironmentsOwn:
    def test_packages_that_are_installed_within_the_repository_stay_where_they_are(self, tmp_path, monkeypatch):
        installed = tmp_path / ".venv/lib/site-packages"
        monkeypatch.setattr(bootstrap, "_environment", lambda: (str(installed),))
        write(installed, "", "torch")
        tree = Tree(str(tmp_path), str(tmp_path / "tree"), {})
        assert not is_users(str(installed / "torch.py"), str(tmp_path))
        assert tree.place(str(installed / "torch.py")) == str(installed / "torch.py")
        assert tree.paths([str(installed)]) == [str(installed)]

    def test_what_lies_elsewhere_stays_where_it_is(self, trees, tmp_path):
        top, tree = map(str, trees)
        for path in ("/usr/lib/python3", f"{top}-2/src", str(tmp_path), tree, f"{tree}/src"):
            assert Tree(top, tree, {}).place(path) == path

    @given(st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4))
    def test_a_path_is_in_a_folder_if_its_parts_begin_with_the_folders(self, path, folder):
        inside = path[: len(folder)] == folder
        assert is_in("/".join(["", *path]) or "/", ["/".join(["", *folder]) or "/"]) == inside


class TestTheUsersFilesStandInNobodysWay:
    SHADOWS = ("ntp", "statistics", "profile", "json", "torch", "pydantic", "dataclasses")

    def test_ntp_is_the_one_of_the_source_whatever_lies_in_the_folder(self, tmp_path):
        write(tmp_path, "raise RuntimeError('the wrong one')", *self.SHADOWS)
        code = "# then\nimport ntp, statistics, profile, pydantic, ntp.case\nprint(json.dumps(ntp.__file__))"
        assert run(Source(folder=tmp_path), code) == str(OWN / "ntp/__init__.py")

    def test_an_ntp_that_a_side_brings(self, tmp_path):
        write(tmp_path / "side", "", "ntp/__init__", "ntp/worker/worker")
        code = "# then\nimport ntp\nprint(json.dumps(ntp.__file__))"
        assert run(Source.of(tmp_path / "side"), code) == str(tmp_path / "side/ntp/__init__.py")
