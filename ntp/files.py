"""Write files atomically, and check that they can be written before there is anything to write."""

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple


class _Regular(NamedTuple):
    """A file that can be replaced, with its links followed."""

    path: Path
    mode: int | None
    """Its permissions; ``None`` for a new file, whose permissions the umask determines."""


def _regular(path: Path) -> _Regular | None:
    """Return the file, which may not exist yet; ``None`` for a device or a pipe, which are written in place.

    Raises:
        OSError: it is a folder, or no file can be there.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _Regular(Path(os.path.realpath(path)), None)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return _Regular(Path(os.path.realpath(path)), stat.S_IMODE(mode)) if stat.S_ISREG(mode) else None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends, or is removed if the block fails.

    A reader sees the old content or the new content, never a part, even if this process is killed. A link stays, and
    its target is replaced. The folder is created if necessary.

    Raises:
        OSError: the file cannot be written.
    """
    regular = _regular(path)
    if regular is None:
        with path.open("wb") as file:
            yield file
        return
    regular.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = regular.path.with_name(f".ntp-{secrets.token_hex(8)}")
    file = temporary.open("xb")  # never overwrites another process's file, nor follows a link
    try:
        with file:
            if regular.mode is not None:
                temporary.chmod(regular.mode)
            yield file
        temporary.replace(regular.path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def try_to_write(path: Path) -> None:
    """Check that a file can be written. An existing file is not changed, and a new one is not left behind.

    Raises:
        OSError: it cannot be written.
    """
    regular = _regular(path)
    if regular is None:
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    folder = regular.path.parent
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\0")
    finally:
        for parent in missing:
            with suppress(OSError):  # another process has put a file into it
                parent.rmdir()
