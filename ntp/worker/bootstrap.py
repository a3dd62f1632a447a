"""How a worker's process begins: which ntp it runs, and where it finds the modules of the user's repository.

This script imports nothing of ntp, since the ntp of a guard's base may be another one:
``python -P bootstrap.py SOURCE MODULE ARGUMENT...`` runs a module of that ntp. ``SOURCE`` is a
:class:`ntp.worker.sources.Source` as JSON; :mod:`ntp.worker.fork_server` loads this file and calls :func:`arrange`.

ntp is pinned to one folder, and the standard library comes before the folder that the process runs in: a user's
``ntp.py`` or ``statistics.py`` does no harm.
"""

import functools
import importlib.util
import json
import os
import runpy
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def arrange(source: Mapping[str, Any]) -> None:
    """Let this process import its source's ntp and the modules of one tree of a repository."""
    if source.get("tree"):
        tree = Tree(source["top"], source["tree"], dict(source["packages"]))
        sys.path[:] = tree.paths(sys.path)
        if "PYTHONPATH" in os.environ:  # for the processes that a model starts
            os.environ["PYTHONPATH"] = os.pathsep.join(tree.paths(os.environ["PYTHONPATH"].split(os.pathsep)))
        sys.meta_path.insert(0, tree)
        importlib.invalidate_caches()
    _pin("ntp", os.path.join(source["ntp"], "ntp"))


def _pin(name: str, folder: str) -> None:
    """Import a package from a folder, even where another of that name would be found first."""
    spec = _package_spec(name, os.path.join(folder, "__init__.py"))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)


def _package_spec(name: str, file: str) -> ModuleSpec:
    is_package = os.path.basename(file) == "__init__.py"
    locations = [os.path.dirname(file)] if is_package else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=locations)
    assert spec is not None
    return spec


@functools.cache
def _environment() -> tuple[str, ...]:
    """The folders of installed packages, which may lie within the user's repository, as ``.venv`` does."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(map(os.path.realpath, folders))


def is_in(path: str, folders: Iterable[str]) -> bool:
    """Whether a path lies within one of the folders, or is one. Symbolic links are not resolved."""
    return any(path == folder or path.startswith(os.path.join(folder, "")) for folder in folders)


def is_users(path: str, folder: str) -> bool:
    """Whether a path leads into the folder, and not to a package that is installed there."""
    real = os.path.realpath(path)
    return is_in(real, [os.path.realpath(folder)]) and not is_in(real, _environment())


class Tree:
    """A finder that takes the modules of a repository from one tree of it, wherever others would find them.

    A package is found in the user's work tree in many ways: by ``PYTHONPATH``, by the path file or the finder of an
    editable installation. Whatever the others find there is replaced by the same path of this tree; what this tree
    does not have cannot be imported.

    Args:
        top: the top of the repository, as the user has it.
        tree: the tree whose modules are wanted: ``top`` itself, or a worktree of one commit.
        packages: the file of each package in this tree, by its name, wherever else the package is installed; None where
            this tree does not have it.
    """

    def __init__(self, top: str, tree: str, packages: Mapping[str, str | None]) -> None:
        self._top = top
        self._tree = tree
        self._packages = packages

    def paths(self, entries: Iterable[str]) -> list[str]:
        """Replace those entries of a search path that lie in the repository by this tree's."""
        placed = (self.place(entry) if entry else entry for entry in entries)
        return [entry for entry in placed if entry is not None]

    def place(self, path: str) -> str | None:
        """The path in this tree that takes this one's place: itself, where it is not in the repository.

        None where the tree has no such path.
        """
        if is_in(path, [self._tree]) or not is_users(path, self._top):
            return path
        real, top = os.path.realpath(path), os.path.realpath(self._top)
        beside = [os.path.relpath(path, self._top)] if is_in(path, [self._top]) else []
        candidates = (os.path.join(self._tree, relative) for relative in (*beside, os.path.relpath(real, top)))
        return next(filter(os.path.exists, candidates), None)

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module, as :meth:`importlib.abc.MetaPathFinder.find_spec` does."""
        if path is None and name in self._packages:
            file = self._packages[name]
            if file is None:
                raise _not_found(name)
            return _package_spec(name, file)
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others if hasattr(finder, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        return spec and self._placed(spec)

    def _placed(self, spec: ModuleSpec) -> ModuleSpec:
        if spec.has_location and spec.origin is not None:
            place = self.place(spec.origin)
            if place is None:
                raise _not_found(spec.name)
            return spec if place == spec.origin else _package_spec(spec.name, place)
        if spec.loader is None and spec.submodule_search_locations is not None:
            return self._namespace(spec, list(spec.submodule_search_locations))
        return spec

    def _namespace(self, spec: ModuleSpec, locations: list[str]) -> ModuleSpec:
        """Place a package without a file of its own, which may lie in several folders."""
        places = self.paths(locations)
        if places == locations:
            return spec
        if not places:
            raise _not_found(spec.name)
        moved = ModuleSpec(spec.name, None, is_package=True)
        moved.submodule_search_locations = places
        return moved


def _not_found(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    _, source_, module_, *arguments_ = sys.argv
    sys.argv = [module_, *arguments_]
    arrange(json.loads(source_))
    runpy.run_module(module_, run_name="__main__", alter_sys=True)
