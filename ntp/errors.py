"""The errors, as types. Each message is one line that says what is wrong, the value, and the remedy."""

import errno
import reprlib
from typing import TYPE_CHECKING, ClassVar, Self

from ntp.lines import MESSAGE_CHARACTERS, as_utf8, one_line, shorten

if TYPE_CHECKING:
    from pydantic import ValidationError


def refusal(error: "ValidationError") -> str:
    """Describe the first error that pydantic found in one line: the field, what is wrong, and the value, shortened."""
    first = error.errors()[0]
    given = first["input"]
    # If the input is not a single value, the field's name says enough.
    value = f" (got {reprlib.repr(given)})" if isinstance(given, str | int | float | None) else ""
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{value}"


_RUN_OUT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}


class NtpError(Exception):
    """An error that the user can fix. The message is one line that names the value and the remedy."""

    section: ClassVar[str] = "reference.md"
    """Where the documentation says more: a page in docs/, and its anchor."""

    def __init__(self, message: str) -> None:
        # A model's message, or a path, may be a megabyte long; the remedy is at the end.
        super().__init__(shorten(as_utf8(message), MESSAGE_CHARACTERS))

    @property
    def cause(self) -> "type[NtpError]":
        """The kind of the underlying error."""
        return type(self)

    @property
    def is_machines(self) -> bool:
        """Whether the machine has run out of something, while nothing is wrong with the request."""
        return isinstance(self.__cause__, OSError) and self.__cause__.errno in _RUN_OUT

    def explained(self) -> str:
        """Return the message on one line, with the section of the documentation that says more."""
        return f"{one_line(str(self))} (docs/{self.cause.section})"


class OptionError(NtpError):
    """An option or a case that makes no sense, alone or on this machine."""

    section = "reference.md#cases"


class ModelError(NtpError):
    """A model spec that cannot be loaded, or a model that breaks the contract ``(B, T) ids -> (B, T, V) logits``."""

    section = "your-own-model.md"


class StepError(NtpError):
    """A step config that this model, this machine or this torch does not support."""

    section = "your-own-model.md#what-each-lever-needs-from-the-model"


class TorchError(NtpError):
    """A torch that lacks a function that ntp needs: it is older or newer than the tested versions."""

    section = "reference.md#which-torch"


class Untrusted(NtpError):
    """A file that names code to run, which the user has not named."""

    section = "reference.md#what-ntp-trusts"


class DataError(NtpError):
    """Token data that cannot be used: a missing, empty or short file, or ids outside the vocabulary."""

    section = "reference.md#data"


class CheckpointError(NtpError):
    """A checkpoint that is missing, damaged, or belongs to another run."""

    section = "reference.md#files"


class RecordError(NtpError):
    """A run file that cannot be read: corrupt, truncated, written by another tool, or of a newer version."""

    section = "reference.md#files"


_REMEDIES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "raise the limit on open files",
    errno.EROFS: "choose a writable folder",
    errno.EACCES: "choose a writable folder",
    errno.EBADF: "keep it open, or redirect it to a file",
    errno.EISDIR: "name a file",
}


def not_written(path: object, error: OSError) -> "RecordError":
    """Return the error for a file that cannot be written, with the remedy."""
    return RecordError(f"{path} cannot be written ({error.strerror}): {remedy_of(error) or 'choose another path'}")


def remedy_of(error: OSError) -> str:
    """Return the remedy for an error of the operating system; empty if none is known."""
    return _REMEDIES.get(error.errno or 0, "")


_NO_TEMPORARY_FOLDER = "No usable temporary directory"


class MachineError(NtpError):
    """A refusal by the machine: no space on a disk, a closed stream, too many open files, a folder that is gone."""

    section = "reference.md#when-the-machine-refuses"
    is_machines = True

    @classmethod
    def of(cls, error: OSError, what: str = "") -> Self:
        """Wrap an error of the operating system, with its subject and the remedy."""
        reason = error.strerror or str(error) or type(error).__name__
        if reason.startswith(_NO_TEMPORARY_FOLDER):  # followed by a list of those that were tried
            return cls(f"{what or 'a temporary file'}: {_NO_TEMPORARY_FOLDER.lower()}: set TMPDIR to a writable folder")
        subject = what or (repr(error.filename) if error.filename is not None else "")
        remedy = remedy_of(error)
        return cls(f"{': '.join(filter(None, (subject, reason)))}{'; ' * bool(remedy)}{remedy}")


class WorkerFailed(NtpError):
    """A worker that died, hung, sent a malformed answer or refused its case.

    ``stderr_tail`` holds the last lines that the worker wrote to its standard error, which are shown below the message.
    ``kind`` is the name of the :class:`NtpError` with which the worker refused the case, if it did.
    """

    section = "reference.md#when-a-worker-fails"

    def __init__(self, message: str, stderr_tail: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.stderr_tail = stderr_tail
        self.kind = kind

    @property
    def cause(self) -> type[NtpError]:
        """The error with which the worker refused its case, or this class if the worker failed."""
        kinds = {kind.__name__: kind for kind in NtpError.__subclasses__()}
        return kinds.get(self.kind, WorkerFailed)
