"""A file that one process at a time writes, for as long as it measures what the file will hold."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ntp.errors import RecordError, not_written

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system says that has no locks. There, nobody is kept away."""


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Make the folder of a file, and keep other processes that ask here from writing the file in the meantime.

    The lock is the kernel's, on a hidden file beside it: it ends with the process, however that ends, and workers do
    not inherit it. What a killed process leaves behind is an empty lock, which keeps nobody away.

    Raises:
        RecordError: another process holds the file, or it cannot be written.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device has many writers
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
        # While it is still held: afterwards it may be another's.
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """The descriptor of a lock file that this process holds, with its process id in it."""
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
        os.close(descriptor)  # whoever held it has removed it, and nobody else would meet this one


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
