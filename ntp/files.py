"""Files that are written as a whole, and places that are tried before there is anything to write."""

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
    """A file that can be replaced, where its links lead."""

    path: Path
    mode: int | None
    """Its permissions. None of a file that is not there yet: a new one has what the umask leaves."""


def _regular(path: Path) -> _Regular | None:
    """The file, there or not; None of a device, a pipe and their like, which are written in place.

    Raises:
        OSError: it is a folder, or no file can be there.
    """
    try:
        found = path.stat().st_mode
    except FileNotFoundError:
        return _Regular(Path(os.path.realpath(path)), None)
    if stat.S_ISDIR(found):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return _Regular(Path(os.path.realpath(path)), stat.S_IMODE(found)) if stat.S_ISREG(found) else None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of another when the block has ended. If it fails, it is gone.

    A reader meets the old content or the new one, never a part, also when this process is killed. A link stays, and
    what it leads to is replaced. The folder is made if need be.

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
    file = temporary.open("xb")  # never what another has put there, nor through a link
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
    """Find out whether a file can be written there. Leaves it as it is, and nothing behind.

    Raises:
        OSError: it cannot.
    """
    regular = _regular(path)
    if regular is None:
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    folder = regular.path.parent
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(b"\0")
    finally:
        for each in missing:
            with suppress(OSError):  # another has made it, too, and needs it
                each.rmdir()
