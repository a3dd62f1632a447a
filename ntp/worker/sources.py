"""Where the modules of a worker come from: which ntp it runs, and which tree of the user's repository it imports.

Here a source is determined; :mod:`ntp.worker.bootstrap` puts it into effect.
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
"""The folder that holds the running package."""

WORKER = "ntp/worker/worker.py"
"""The file of an ntp that a worker runs."""
_CASE = "ntp/case.py"
"""Every ntp has had this one. Where the worker is, it has not always been."""
_NEVER = {*sys.stdlib_module_names, "ntp"}
"""Names that no package of a user can have: whoever has one has to import its file."""

_TOOL = {"ntp", "__main__", "__mp_main__"}
"""The worker's own modules, which both sides may have in common. multiprocessing names the main one a second time."""
_PROJECT_FILES = ("pyproject.toml", "setup.cfg", "setup.py")


class Source(Frozen):
    """Where the modules of a worker come from."""

    folder: Path
    """The worker runs here."""
    ntp: Path = OWN
    """The folder that holds the package ``ntp`` of the worker."""
    top: Path | None = None
    """The top of the repository, as the user has it. None: it is imported as it is."""
    tree: Path | None = None
    """The tree of the repository that is imported in place of ``top``, which may be ``top`` itself."""
    python: Path | None = None
    """The interpreter of the worker. None: the one that runs this."""
    packages: tuple[tuple[str, Path | None], ...] = ()
    """The file of each package in the tree, by its name; None for those that the tree does not have."""

    @property
    def has_worker(self) -> bool:
        """Whether its ntp can be started: that of an old commit may be too old."""
        return (self.ntp / WORKER).is_file()

    @classmethod
    def here(cls) -> Self:
        """The current folder as it is, and the running ntp."""
        return cls(folder=Path.cwd())

    @classmethod
    def of(cls, folder: Path) -> Self:
        """A folder as it is, with the ntp that it holds, if it holds one."""
        return cls(folder=folder.resolve(), ntp=own_ntp([folder.resolve()]) or OWN)


def own_files(source: Source, files: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Those of the modules' files that lie in a source's tree, relative to its top."""
    tree = str(source.tree)
    return tuple(sorted({os.path.relpath(file, tree) for _, file in files if bootstrap.is_in(file, [tree])}))


def foreign(source: Source, files: Iterable[tuple[str, str]]) -> str:
    """Name the first module that was imported from outside a source's tree; empty if there is none."""
    tree, top = str(source.tree), str(source.top)
    for name, file in files:
        if not bootstrap.is_in(file, [tree]) and name.partition(".")[0] not in _TOOL:
            where = f"{os.path.relpath(file, top)} of the work tree" if bootstrap.is_in(file, [top]) else file
            return f"{name} was imported from {where}"
    return ""


def own_ntp(folders: Iterable[Path]) -> Path | None:
    """The first of the folders that holds an ntp, of whatever age, and not another package of that name."""
    return next((folder for folder in folders if any((folder / file).is_file() for file in (WORKER, _CASE))), None)


def packages(
    tree: Path, files: Sequence[str], folder: Path, top: Path, top_files: Sequence[str]
) -> tuple[tuple[str, Path | None], ...]:
    """The repository's packages that an import would find elsewhere than in the folder of the worker.

    These are the ones that lie in the work tree, however they are found there, and those of its projects that are
    installed as copies, or from another clone.

    Args:
        tree: the tree whose packages are wanted.
        files: the files that git knows in it, relative to it.
        folder: the worker's folder in that tree: packages there are imported from there anyway.
        top: the top of the repository, as the user has it.
        top_files: the files that git knows there.
    """
    own, users = (_importable(root, paths) for root, paths in ((tree, files), (top, top_files)))
    projects = {name for root, paths in ((tree, files), (top, top_files)) for name in _project_names(root, paths)}
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
    """The files of a tree's packages and modules, by every name that they may have; the shallowest file for each name.

    A package that is in no other package may lie in a namespace: ``src/a/b/__init__.py`` is ``b``, ``a.b`` or
    ``src.a.b``, which depends on what is installed.
    """
    paths = sorted(map(PurePosixPath, files), key=lambda path: (-len(path.parts), path))
    packages = {path.parent for path in paths if path.name == "__init__.py"}
    by_name = {}
    for path in paths:
        module = path.parent if path.name == "__init__.py" else path.with_suffix("")
        if path.suffix != ".py" or module.parent in packages:
            continue
        parts = module.parts
        for start in range(len(parts)):
            by_name[".".join(parts[start:])] = tree / path
    return by_name


def _project_names(tree: Path, files: Iterable[str]) -> Iterator[str]:
    """The names under which the projects of a tree are installed."""
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
    """Its files, relative to where packages are installed."""
    origin: str | None
    """The folder that it was installed from; None where it is not known."""

    @classmethod
    def of(cls, project: str) -> Self:
        """Look a project up. One that is not installed has no files."""
        try:
            distribution = importlib.metadata.distribution(project)
        except importlib.metadata.PackageNotFoundError:
            return cls(frozenset(), None)
        url = urlsplit(json.loads(distribution.read_text("direct_url.json") or "{}").get("url", ""))
        return cls(frozenset(map(str, distribution.files or ())), unquote(url.path) if url.scheme == "file" else None)

    def has(self, name: str, location: str | None) -> bool:
        """Whether a module of that name comes from this project: from a copy of it, or from another clone."""
        path = name.replace(".", "/")
        if {f"{path}/__init__.py", f"{path}.py"} & self.files:
            return True
        return None not in {self.origin, location} and bootstrap.is_users(str(location), str(self.origin))


def _is_the_repositorys(name: str, top: Path, installed: Iterable[_Installed]) -> bool:
    """Whether this environment would import the repository's own file by that name, or a copy of it."""
    location = _location(name)
    if location is not None and bootstrap.is_users(location, str(top)):
        return True
    return any(project.has(name, location) for project in installed)


def _location(name: str) -> str | None:
    """Where a module would be imported from. None where there is none, and for a module within a package, which would
    have to be imported first.
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
