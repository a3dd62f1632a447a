"""Temporary worktrees: each is removed when its guard ends, or, if that was killed, by the next guard.

Beside a worktree's registration in the repository lies a file that its guard holds locked while it lives. The kernel
lets go of the lock however the guard ends, and shows it to whoever shares the repository, other containers too. What
has no such file is not ours, and is left alone: the user's own worktrees, those on a disk that is unplugged as well.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ntp.errors import OptionError

_PREFIX = "ntp-guard-"
_LOCK = ".lock"


@contextmanager
def temporary_worktree(git_folder: Path) -> Iterator[Path]:
    """A path at which git may make a worktree. The worktree and its registration are removed after the block.

    Those of dead guards are removed first.

    Args:
        git_folder: git's own folder, which all worktrees of the repository share.

    Raises:
        OptionError: the folder cannot be written.
    """
    remove_dead(git_folder)
    # Git calls the registration as the last part of the path is called.
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    try:
        with _held(git_folder, folder):
            try:
                yield folder / folder.name
            finally:
                _remove(git_folder, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_dead(git_folder: Path) -> None:
    """Remove the worktrees of guards that have ended, as far as possible."""
    for path in git_folder.glob(f"{_PREFIX}*{_LOCK}"):
        with suppress(OSError), path.open("r+", encoding="utf-8", errors="surrogateescape") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused, while its guard lives
            folder = Path(file.read())
            if folder.name == path.name.removesuffix(_LOCK):  # else its guard was killed before it could say
                _remove(git_folder, folder)
            path.unlink()


@contextmanager
def _held(git_folder: Path, folder: Path) -> Iterator[None]:
    """Hold the lock of a worktree's folder."""
    path = git_folder / f"{folder.name}{_LOCK}"
    try:
        file = _locked(path)
    except OSError as error:
        raise OptionError(
            f"{git_folder} cannot be written ({error.strerror}), where git keeps its worktrees: ntp guard needs one"
        ) from error
    with file:
        file.write(str(folder))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str]:
    """A new file at the path, locked. Before it was locked, another guard may have removed it as a dead one's."""
    while True:
        file = path.open("w", encoding="utf-8", errors="surrogateescape")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _remove(git_folder: Path, folder: Path) -> None:
    """Remove a worktree's folder, then its registration, by which the rest can still be found meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)
    registrations = git_folder / "worktrees"
    shutil.rmtree(registrations / folder.name, ignore_errors=True)
    with suppress(OSError):  # others are left
        registrations.rmdir()
