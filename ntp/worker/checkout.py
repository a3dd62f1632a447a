"""The two sides of a comparison as folders: a commit in a temporary worktree, or the work tree as it is.

Neither the user's index, stash nor files are touched. The worktree is removed when its ``with`` block ends, also on
Ctrl-C; when the guard is killed, the next one removes it (:mod:`ntp.worker.worktrees`).
"""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ntp.errors import OptionError
from ntp.records.pairs import WORK_TREE, Side
from ntp.worker.sources import OWN, Source, own_ntp, packages
from ntp.worker.worktrees import temporary_worktree

_SET_FOR_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Git sets these for a hook that calls us. With them, a new worktree would be written into the user's index."""

_PYTHON_FILES = ("*.py",)
_PROJECT_FILES = ("pyproject.toml", "*/pyproject.toml", "setup.cfg", "*/setup.cfg")

_LISTED = 3
"""How many paths a message names."""


@contextmanager
def checkout(ref: str, directory: Path | None = None, links: Sequence[Path] = ()) -> Iterator[tuple[Side, Source]]:
    """The side that ``ref`` names, and where its modules come from.

    Args:
        ref: a commit, or :data:`~ntp.records.guard.WORK_TREE`.
        directory: the folder in the repository that the side's folder corresponds to; None: the current one.
        links: paths of the work tree, relative to ``directory``, that the worktree of a commit shares with it.

    Raises:
        OptionError: there is no git or no repository, the ref names no commit, the folder does not exist in it, or a
            path cannot be shared.
    """
    here = (directory or Path.cwd()).resolve()
    top = _top(here)
    if ref == WORK_TREE:
        commit = git(here, "rev-parse", "--verify", "HEAD^{commit}", unless=(_NO_COMMIT, _EMPTY_REPOSITORY))
        dirty = bool(git(here, "status", "--porcelain", "--untracked-files=no"))
        source = _source(top, top, here)
        yield Side(ref=ref, commit=commit, dirty=dirty, brings_ntp=_brings_ntp(source)), source
        return
    refusal = f"{ref!r} names no commit of this repository: give a branch, a tag or a hash (is it fetched?)"
    arguments = ("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    commit = git(here, *arguments, unless=(_NO_COMMIT, refusal))
    with temporary_worktree(top / git(top, "rev-parse", "--git-common-dir")) as tree:
        git(top, "worktree", "add", "--detach", "--force", str(tree), commit)
        _fill_submodules(top, tree)
        _share(links, ref, here, top, tree)
        folder = tree / here.relative_to(top)
        if not folder.is_dir():
            raise OptionError(f"{ref} has no folder {here.relative_to(top)}: run ntp from one that it has")
        source = _source(top, tree, folder)
        yield Side(ref=ref, commit=commit, brings_ntp=_brings_ntp(source)), source


def _brings_ntp(source: Source) -> bool:
    return source.tree is not None and source.ntp.is_relative_to(source.tree)


def _source(top: Path, tree: Path, folder: Path) -> Source:
    files = {root: _files(root, *_PYTHON_FILES, *_PROJECT_FILES) for root in {top, tree}}
    return Source(
        folder=folder,
        ntp=own_ntp((folder, tree)) or OWN,
        top=top,
        tree=tree,
        packages=packages(tree, files[tree], folder, top, files[top]),
    )


def changed_files(base: Side, head: Side, directory: Path | None = None) -> tuple[str, ...]:
    """The Python files in which two sides differ, relative to the top of the repository."""
    top = _top((directory or Path.cwd()).resolve())
    commits = [side.commit for side in (base, head) if side.ref != WORK_TREE]
    if not commits:
        return ()
    changed = _names(git(top, "diff", "--name-only", "--no-renames", "-z", *commits, "--", *_PYTHON_FILES))
    new = _untracked(top, *_PYTHON_FILES) if len(commits) == 1 else []
    return tuple(sorted({*changed, *new}))


def lacking(source: Source, error: str) -> str:
    """Why a side may have failed: files that only the work tree has. A sentence, or nothing.

    A checkout has the files that git tracks, and nothing that was built, generated or downloaded beside them.

    Args:
        source: the side's.
        error: the message it failed with. Missing paths that it mentions are named; if there are none, the first few.
    """
    if source.top is None or source.tree is None or source.tree == source.top or not source.has_worker:
        return ""
    lacks = [path for path in _beside_git(source.top) if not _is_filled(source.tree / path)]
    words = set(re.findall(r"\w+", error))
    named = [path for path in lacks if words & {Path(path).name.partition(".")[0]}]
    if not lacks:
        return ""
    listed = ", ".join((named or lacks)[:_LISTED]) + (" ..." if len(named or lacks) > _LISTED else "")
    perhaps = "" if named else "perhaps because "
    return (
        f"{perhaps}the checkout lacks files of the work tree that git does not track: {listed}; "
        "share them with --link PATH, or create them on each side with --setup COMMAND"
    )


def _beside_git(top: Path) -> list[str]:
    """Paths of the work tree that a checkout of its commit would lack, except caches and environments."""
    ignored = _names(git(top, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"))
    paths = dict.fromkeys(path.rstrip("/") for path in (*ignored, *_untracked(top, "--directory")))
    submodules = [path for path, _ in _submodules(top) if any((top / path).glob("*"))]
    return [*(path for path in paths if not _is_cache(top / path)), *submodules]


def _is_filled(path: Path) -> bool:
    """Whether the path exists, and is no empty folder as that of a submodule that was not checked out."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _is_cache(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.name in {"__pycache__", "node_modules"} or path.suffix == ".egg-info"
    return hidden or (path / "pyvenv.cfg").exists()


def _fill_submodules(top: Path, tree: Path) -> None:
    """Check out the submodules that the work tree has from there: git itself would ask their servers."""
    for path, commit in _submodules(tree):
        local = top / path
        if not any(local.glob("*")) or _run(local, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
            continue
        git(top, "clone", "--quiet", "--no-checkout", "--shared", str(local), str(tree / path))
        git(tree / path, "checkout", "--quiet", "--detach", commit)
        _fill_submodules(local, tree / path)


def _submodules(tree: Path) -> Iterator[tuple[str, str]]:
    """Path and commit of each submodule in the index of a tree."""
    for entry in _names(git(tree, "ls-files", "-z", "--stage")):
        details, _, path = entry.partition("\t")
        mode, commit, _ = details.split(" ")
        if mode == "160000":
            yield path, commit


def _share(links: Sequence[Path], ref: str, here: Path, top: Path, tree: Path) -> None:
    for link in links:
        target = Path(os.path.normpath(here / link))
        if not target.exists():
            raise OptionError(f"--link {link}: the work tree has no such path: give one that it has")
        if not target.is_relative_to(top) or target == top:
            raise OptionError(f"--link {link}: it lies outside the repository, where both sides see it anyway")
        place = tree / target.relative_to(top)
        if os.path.lexists(place):
            raise OptionError(f"--link {link}: {ref} has a {link} of its own: share only what the checkout lacks")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)


def _files(tree: Path, *patterns: str) -> list[str]:
    """The files that git tracks or would add, relative to the top of a tree, in submodules too."""
    tracked = git(tree, "ls-files", "-z", "--recurse-submodules", "--", *patterns)
    return [*_names(tracked), *_untracked(tree, "--", *patterns)]


def _untracked(top: Path, *arguments: str) -> list[str]:
    return _names(git(top, "ls-files", "-z", "--others", "--exclude-standard", *arguments))


def _names(text: str) -> list[str]:
    return [name for name in text.split("\0") if name]


_NO_REPOSITORY = "not a git repository"
_NO_COMMIT = "Needed a single revision|unknown revision|bad revision|ambiguous argument"
_EMPTY_REPOSITORY = "the repository has no commit yet: commit something to compare with"


def _top(here: Path) -> Path:
    refusal = f"{here} is in no git repository: run ntp in one"
    return Path(git(here, "rev-parse", "--show-toplevel", unless=(_NO_REPOSITORY, refusal))).resolve()


def git(directory: Path, *arguments: str, unless: tuple[str, str] = ("(?!)", "")) -> str:
    """Run git in the repository that ``directory`` is in, and return what it prints.

    Args:
        directory: where it is run.
        arguments: git's command and options.
        unless: a pattern of git's messages, and the message that replaces them. All others are passed on as they are:
            git knows the remedy.

    Raises:
        OptionError: git is not installed, or failed.
    """
    try:
        done = _run(directory, *arguments)
    except FileNotFoundError:
        raise OptionError("git is not installed: ntp guard needs it to check out the two sides") from None
    if done.returncode:
        # What comes before is its progress.
        said = re.search(r"^(fatal|error): .*", done.stderr, re.MULTILINE | re.DOTALL)
        words = " ".join((said[0] if said else done.stderr).split()) or f"exit status {done.returncode}"
        pattern, refusal = unless
        raise OptionError(refusal if re.search(pattern, words) else f"git {arguments[0]} failed: {words}")
    return done.stdout.strip("\n")


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in the repository that ``directory`` is in, without the user's hooks, and without renewing the index."""
    environment = {name: value for name, value in os.environ.items() if name not in _SET_FOR_HOOKS}
    return subprocess.run(
        ["git", "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", "-C", directory, *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",  # names of files are bytes
        check=False,
        start_new_session=True,  # Ctrl-C, and a terminal that closes, are for this process, which then cleans up
        env=environment | {"LC_ALL": "C"},
    )
