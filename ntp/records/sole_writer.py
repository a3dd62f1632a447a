"""A lock on a result file, for as long as a process measures what it will write."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ntp.errors import RecordError, not_written

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""The errors of a file system without locks, where nobody is locked out."""


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Create the folder of a file, and lock the file against other processes that call this function.

    The kernel locks a hidden file beside it. The lock ends with the process, however that ends, and workers do not
    inherit it. A killed process leaves an unlocked file behind, which locks nobody out.

    Raises:
        RecordError: another process has locked the file, or it cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device may have many writers
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        descriptor = _locked(lock)
    except BlockingIOError:
        raise RecordError(
            f"{path} is being written by another process{_holder(lock)}: wait until it has ended, or choose another "
            "place for the results"
        ) from None
    except OSError as error:
        raise not_written(path, error) from error
    try:
        yield
    finally:
        # Before the lock is released: afterwards the file may be another process's.
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """Lock a file that contains this process's id, and return its descriptor."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _hold(descriptor)
            if _is_at(descriptor, lock):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the previous holder has removed it, so others would lock a new file


def _hold(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(lock: Path) -> str:
    with suppress(OSError, ValueError):
        return f" ({int(lock.read_text())})"
    return ""
