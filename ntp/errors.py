"""What can go wrong, as types. Each message is one line: what was wrong, the value, and the remedy."""


class NtpError(Exception):
    """Something the user can mend. The message is one line that names the value and the remedy."""


class OptionError(NtpError):
    """An option or a case that makes no sense, alone or on this machine."""


class ModelError(NtpError):
    """A model spec that cannot be loaded, or a model that breaks the contract ``(B, T) ids -> (B, T, V) logits``."""


class StepError(NtpError):
    """A way to compute the step that this model, this machine or this torch does not bear."""


class DataError(NtpError):
    """Token data that cannot be used: a missing, empty or short file, or ids outside the vocabulary."""


class CheckpointError(NtpError):
    """A checkpoint that is missing, damaged, or of another run."""


class RecordError(NtpError):
    """A run file that cannot be read: corrupt, truncated, foreign, or of a newer version."""


class WorkerFailed(NtpError):
    """A worker that died, hung, answered rubbish or refused its case.

    ``stderr_tail`` holds the last lines the worker wrote to its standard error, for the detail below the message.
    """

    def __init__(self, message: str, stderr_tail: str = "") -> None:
        super().__init__(message)
        self.stderr_tail = stderr_tail
