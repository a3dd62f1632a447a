"""What can go wrong, as types. Each message is one line: what was wrong, the value, and the remedy."""

import errno
import reprlib
from typing import TYPE_CHECKING, ClassVar, Self

from ntp.lines import MESSAGE_CHARACTERS, as_utf8, one_line, shorten

if TYPE_CHECKING:
    from pydantic import ValidationError


def refusal(error: "ValidationError") -> str:
    """What pydantic refuses first, in one line: the field, what is wrong with it, and the value, cut short."""
    first = error.errors()[0]
    given = first["input"]
    # Of what is no single value, the field's name says enough.
    value = f" (got {reprlib.repr(given)})" if isinstance(given, str | int | float | None) else ""
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{value}"


_RUN_OUT = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}


class NtpError(Exception):
    """Something the user can mend. The message is one line that names the value and the remedy."""

    section: ClassVar[str] = "reference.md"
    """Of the documentation, which says more: a page in docs/, and its anchor."""

    def __init__(self, message: str) -> None:
        # What a model says, or a path, may be a megabyte; what to do about it stands at the end.
        super().__init__(shorten(as_utf8(message), MESSAGE_CHARACTERS))

    @property
    def cause(self) -> "type[NtpError]":
        """What kind of error it is at bottom."""
        return type(self)

    @property
    def is_machines(self) -> bool:
        """Whether it is the machine that has run out of something, and nothing is wrong with what was asked for."""
        return isinstance(self.__cause__, OSError) and self.__cause__.errno in _RUN_OUT

    def explained(self) -> str:
        """The message on one line, with where the documentation says more."""
        return f"{one_line(str(self))} (docs/{self.cause.section})"


class OptionError(NtpError):
    """An option or a case that makes no sense, alone or on this machine."""

    section = "reference.md#cases"


class ModelError(NtpError):
    """A model spec that cannot be loaded, or a model that breaks the contract ``(B, T) ids -> (B, T, V) logits``."""

    section = "your-own-model.md"


class StepError(NtpError):
    """A way to compute the step that this model, this machine or this torch does not bear."""

    section = "your-own-model.md#what-each-lever-needs-from-the-model"


class TorchError(NtpError):
    """A torch that lacks what is needed: older or newer than those that ntp is tested with."""

    section = "reference.md#which-torch"


class Untrusted(NtpError):
    """A file that names code to be run, which the user has not named."""

    section = "reference.md#what-ntp-trusts"


class DataError(NtpError):
    """Token data that cannot be used: a missing, empty or short file, or ids outside the vocabulary."""

    section = "reference.md#data"


class CheckpointError(NtpError):
    """A checkpoint that is missing, damaged, or of another run."""

    section = "reference.md#files"


class RecordError(NtpError):
    """A run file that cannot be read: corrupt, truncated, foreign, or of a newer version."""

    section = "reference.md#files"


_REMEDIES = {
    errno.ENOSPC: "free the disk",
    errno.EDQUOT: "free the disk",
    errno.EMFILE: "raise the limit of open files, ulimit -n",
    errno.ENFILE: "raise the limit of open files",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "name a folder that can be written",
    errno.EBADF: "leave it open, or send it to a file",
    errno.EISDIR: "name a file",
}


def not_written(path: object, error: OSError) -> "RecordError":
    """The error of a file that cannot be written, with what helps."""
    return RecordError(f"{path} cannot be written ({error.strerror}): {remedy_of(error) or 'choose another path'}")


def remedy_of(error: OSError) -> str:
    """What helps against an error of the operating system; empty where nobody knows."""
    return _REMEDIES.get(error.errno or 0, "")


_NO_TEMPORARY_FOLDER = "No usable temporary directory"


class MachineError(NtpError):
    """What the machine refuses: room on a disk or in a stream, more open files, a folder that is gone."""

    section = "reference.md#when-the-machine-refuses"
    is_machines = True

    @classmethod
    def of(cls, error: OSError, what: str = "") -> Self:
        """The error of the operating system, with what it was about and what helps."""
        reason = error.strerror or str(error) or type(error).__name__
        if reason.startswith(_NO_TEMPORARY_FOLDER):  # and a list of those that were tried
            return cls(f"{what or 'a temporary file'}: {_NO_TEMPORARY_FOLDER.lower()}: set TMPDIR to one")
        subject = what or (repr(error.filename) if error.filename is not None else "")
        remedy = remedy_of(error)
        return cls(f"{': '.join(filter(None, (subject, reason)))}{'; ' * bool(remedy)}{remedy}")


class WorkerFailed(NtpError):
    """A worker that died, hung, answered rubbish or refused its case.

    ``stderr_tail`` holds the last lines the worker wrote to its standard error, for the detail below the message, and
    ``kind`` the name of the error that it refused the case with, if that is one of these.
    """

    section = "reference.md#when-a-worker-fails"

    def __init__(self, message: str, stderr_tail: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.stderr_tail = stderr_tail
        self.kind = kind

    @property
    def cause(self) -> type[NtpError]:
        """What the worker refused its case with; this class where it did not refuse it, but failed."""
        kinds = {kind.__name__: kind for kind in NtpError.__subclasses__()}
        return kinds.get(self.kind, WorkerFailed)
