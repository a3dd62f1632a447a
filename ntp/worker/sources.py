"""Where the modules of a worker come from: whose ntp it runs, and which tree of the user's repository it sees.

:mod:`ntp.worker.bootstrap` puts a source into effect; here is found out what it has to say.
"""

import configparser
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit

import ntp
from ntp.case import Frozen
from ntp.worker import bootstrap

OWN = Path(ntp.__file__).resolve().parent.parent
"""The folder that holds the package that runs this."""

WORKER = "ntp/worker/worker.py"
"""The file of an ntp that a worker runs."""
_CASE = "ntp/case.py"
"""Every ntp has had this one. Where the worker is, it has not always been."""
_NEVER = {*sys.stdlib_module_names, "ntp"}
"""No names of a user's packages: whoever has such a one has to import its file."""

_TOOL = {"ntp", "__main__"}
"""Modules of the worker itself, which both sides may have in common."""
_PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


class Source(Frozen):
    """Where the modules of a worker come from."""

    folder: Path
    """The worker runs here."""
    ntp: Path = OWN
    """The folder that holds the package ``ntp`` of the worker."""
    top: Path | None = None
    """Of the repository, as the user has it. None: it is imported as it is."""
    tree: Path | None = None
    """The tree of the repository that is imported in place of ``top``, which may be ``top`` itself."""
    packages: tuple[tuple[str, Path | None], ...] = ()
    """Files of the tree by the names of the packages that they are; none for those that the tree does not have."""

    @property
    def has_worker(self) -> bool:
        """Whether its ntp can be started. One of the repository's history may be too old."""
        return (self.ntp / WORKER).is_file()

    @classmethod
    def here(cls) -> Self:
        """The current folder as it is, and the ntp that runs this."""
        return cls(folder=Path.cwd())

    @classmethod
    def of(cls, folder: Path) -> Self:
        """A folder as it is, with the ntp that it brings, if it brings one."""
        return cls(folder=folder.resolve(), ntp=own_ntp([folder.resolve()]) or OWN)


def own_files(source: Source, files: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Those of the files, by the names of their modules, that lie in a source's tree, seen from its top."""
    tree = str(source.tree)
    return tuple(sorted({os.path.relpath(file, tree) for _, file in files if bootstrap.is_in(file, [tree])}))


def foreign(source: Source, files: Iterable[tuple[str, str]]) -> str:
    """The first module that comes from elsewhere than a source's tree, and where from; empty if there is none."""
    tree, top = str(source.tree), str(source.top)
    for name, file in files:
        if not bootstrap.is_in(file, [tree]) and name.partition(".")[0] not in _TOOL:
            where = f"{os.path.relpath(file, top)} of the work tree" if bootstrap.is_in(file, [top]) else file
            return f"{name} was imported from {where}"
    return ""


def own_ntp(folders: Iterable[Path]) -> Path | None:
    """The first of the folders that has an ntp of its own, of whatever age, not a package of the same name."""
    return next((folder for folder in folders if any((folder / file).is_file() for file in (WORKER, _CASE))), None)


def packages(
    tree: Path, files: Sequence[str], folder: Path, top: Path, top_files: Sequence[str]
) -> tuple[tuple[str, Path | None], ...]:
    """The repository's packages that an import would find elsewhere than in the folder of the worker.

    These are the ones that lie in the work tree, however they are found there, and those of its projects that are
    installed as copies, or from another clone.

    Args:
        tree: whose packages are wanted.
        files: that git knows in it, relative to it.
        folder: the worker's, in that tree: what lies there is imported from there anyway.
        top: of the repository, as the user has it.
        top_files: that git knows there.
    """
    own, users = (_importable(at, known) for at, known in ((tree, files), (top, top_files)))
    projects = {name for at, known in ((tree, files), (top, top_files)) for name in _project_names(at, known)}
    installed = [_Installed.of(project) for project in sorted(projects)]
    names = (name for name in sorted(own.keys() | users.keys()) if name.partition(".")[0] not in _NEVER)
    return tuple(
        (name, own.get(name))
        for name in names
        if not _is_beside(folder, name) and _is_the_repositorys(name, top, installed)
    )


def _is_beside(folder: Path, name: str) -> bool:
    at = folder.joinpath(*name.split("."))
    return (at / "__init__.py").is_file() or at.with_name(f"{at.name}.py").is_file()


def _importable(tree: Path, files: Iterable[str]) -> dict[str, Path]:
    """The files of a tree's packages and modules, by all names that these may have; the shallowest of each.

    A package that is in no other package may be in a namespace: ``src/a/b/__init__.py`` is ``b``, ``a.b`` or
    ``src.a.b``, which depends on what is installed.
    """
    paths = sorted(map(PurePosixPath, files), key=lambda path: (-len(path.parts), path))
    packages = {path.parent for path in paths if path.name == "__init__.py"}
    found = {}
    for path in paths:
        module = path.parent if path.name == "__init__.py" else path.with_suffix("")
        if path.suffix != ".py" or module.parent in packages:
            continue
        parts = module.parts
        for start in range(len(parts)):
            found[".".join(parts[start:])] = tree / path
    return found


def _project_names(tree: Path, files: Iterable[str]) -> Iterator[str]:
    """What the projects of a tree are called where they are installed."""
    for path in map(PurePosixPath, files):
        if path.name in _PROJECT_FILES:
            try:
                name = _project_name(path.name, (tree / path).read_text(encoding="utf-8"))
            except (OSError, ValueError, configparser.Error):  # none that could be installed
                continue
            if name:
                yield name


def _project_name(file: str, text: str) -> str | None:
    if file == "pyproject.toml":
        document = tomllib.loads(text)
        named = document.get("project") or document.get("tool", {}).get("poetry") or {}
        return str(named["name"]) if "name" in named else None
    if file == "setup.cfg":
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(text)
        return parser.get("metadata", "name", fallback=None)
    match = re.search(r"""\bname\s*=\s*["']([\w.-]+)["']""", text)
    return match[1] if match else None


class _Installed(NamedTuple):
    """A project of the repository as this environment has it."""

    files: frozenset[str]
    """Relative to where packages are installed."""
    origin: str | None
    """The folder that it was installed from, where that is known."""

    @classmethod
    def of(cls, project: str) -> Self:
        """What is known of a project; nothing of one that is not installed."""
        try:
            distribution = importlib.metadata.distribution(project)
        except importlib.metadata.PackageNotFoundError:
            return cls(frozenset(), None)
        url = urlsplit(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
        return cls(frozenset(map(str, distribution.files or ())), unquote(url.path) if url.scheme == "file" else None)

    def has(self, name: str, location: str | None) -> bool:
        """Whether it is this project that a module of that name comes from: a copy of it, or another clone."""
        path = name.replace(".", "/")
        if {f"{path}/__init__.py", f"{path}.py"} & self.files:
            return True
        return None not in {self.origin, location} and bootstrap.is_users(str(location), str(self.origin))


def _is_the_repositorys(name: str, top: Path, installed: Iterable[_Installed]) -> bool:
    """Whether what this environment would import by that name is the repository's: its file, or a copy of it."""
    location = _location(name)
    if location is not None and bootstrap.is_users(location, str(top)):
        return True
    return any(project.has(name, location) for project in installed)


def _location(name: str) -> str | None:
    """Where a module would be imported from. None where there is none; nor of one within a package: that would have to
    be imported first.
    """
    if "." in name:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    return next(iter(spec.submodule_search_locations or ()), spec.origin)
