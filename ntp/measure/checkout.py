"""Two sides of one repository, each as a folder: a commit in a temporary worktree, or the work tree as it is.

Nothing of the user's is touched: no index, no stash, no file. The worktree is gone when its ``with`` block ends, also
by Ctrl-C.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ntp.errors import OptionError
from ntp.measure.guard_records import WORK_TREE, Side

_SET_FOR_HOOKS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
"""Git sets these for a hook that calls us. A new worktree would be written into the user's index by them."""


@contextmanager
def checkout(ref: str, directory: Path | None = None) -> Iterator[tuple[Side, Path]]:
    """The side that ``ref`` names, and the folder in it that corresponds to ``directory`` (default: the current one).

    Raises:
        OptionError: there is no git or no repository, the ref names no commit, or the folder does not exist in it.
    """
    here = (directory or Path.cwd()).resolve()
    top = Path(_git(here, "rev-parse", "--show-toplevel", refusal=f"{here} is in no git repository: run it in one"))
    if ref == WORK_TREE:
        commit = _git(here, "rev-parse", "--verify", "HEAD^{commit}", refusal="the repository has no commit yet")
        dirty = bool(_git(here, "status", "--porcelain", "--untracked-files=no"))
        yield Side(ref=ref, commit=commit, dirty=dirty, brings_ntp=_brings_ntp(here)), here
        return
    commit = _git(
        here,
        "rev-parse",
        "--verify",
        "--end-of-options",
        f"{ref}^{{commit}}",
        refusal=f"{ref!r} names no commit of this repository: give a branch, a tag or a hash (is it fetched?)",
    )
    with tempfile.TemporaryDirectory(prefix="ntp-") as temporary:
        tree = Path(temporary) / commit[:12]
        try:
            _git(top, "worktree", "add", "--detach", "--force", str(tree), commit)
            folder = tree / here.relative_to(top.resolve())
            if not folder.is_dir():
                raise OptionError(f"{ref} has no folder {here.relative_to(top.resolve())}: run it from one that it has")
            yield Side(ref=ref, commit=commit, brings_ntp=_brings_ntp(folder)), folder
        finally:
            _run(top, "worktree", "remove", "--force", "--force", str(tree))  # twice: locked too, as while it is added


def _brings_ntp(folder: Path) -> bool:
    return (folder / "ntp/__init__.py").is_file()


def _git(directory: Path, *arguments: str, refusal: str | None = None) -> str:
    try:
        done = _run(directory, *arguments)
    except FileNotFoundError:
        raise OptionError("git is not installed: it holds the two sides that are to be compared") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise OptionError(refusal or f"git {arguments[0]} failed: {reason}")
    return done.stdout.strip()


def _run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in the repository that ``directory`` is in, without the user's hooks, and without renewing the index."""
    return subprocess.run(
        ["git", "--no-optional-locks", "-c", f"core.hooksPath={os.devnull}", "-C", directory, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name not in _SET_FOR_HOOKS},
    )
