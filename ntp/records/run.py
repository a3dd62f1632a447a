"""Runs and their measurements: raw samples, and what is needed to interpret them. Summaries are derived.

A run is one JSON file in pytest-benchmark's own format, so that all tools for that format can read it. ntp's own data
is in its extension points: each measurement in its benchmark's ``extra_info["ntp"]``, and the rest of the run in a
top-level ``"ntp"``.
"""

import json
import reprlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from ntp.case import MAX_NUMBER, Amount, Case, Count, Frozen, Positive
from ntp.errors import RecordError, WorkerFailed, not_written, refusal
from ntp.files import replacing, try_to_write
from ntp.lines import as_utf8
from ntp.records.endings import Ending
from ntp.records.environment import Conditions, Environment
from ntp.records.observations import Observations
from ntp.records.peaks import MachinePeaks, Shape

SCHEMA_VERSION = 3


def _written(words: tuple[str, ...]) -> tuple[str, ...]:
    """Escape bytes that are not UTF-8, so that every reader can read the record. Nobody runs a command from it."""
    return tuple(map(as_utf8, words))


Command = Annotated[tuple[str, ...], AfterValidator(_written)]
"""The command line, as it is written into a record."""


class WarmUp(Frozen):
    """The steps before the first sample."""

    step_time_ns: tuple[Count, ...]
    wall_time_ns: Count
    """From the first step's start to the last one's end. More than the sum of the steps where a part is timed."""
    steady: bool
    """Whether the step time had settled before the cap was reached."""
    compiling_step_ns: tuple[Count, ...] = ()
    """The steps before these, in which torch.compile did its work."""


class Harness(Frozen):
    """How the time of a measurement was spent, in seconds of wall time unless stated otherwise."""

    start_s: Amount
    """To start the process, import torch and build the model."""
    warm_up_s: Amount
    timed_s: Amount
    """From the first timed step to the last, with the calibration kernel between them."""
    parent_cpu_s: Amount
    """CPU time that the worker's parent used while steps were timed."""


class CalibrationKernel(Frozen):
    """The calibration kernel: a matrix product, the same in every measurement, timed in the case's own process.

    What slows the machine down for a while slows it, too: the ratio of a step's time to its time can be compared with
    another day's.
    """

    shape: Shape
    bursts_ns: tuple[tuple[Count, ...], ...] = Field(min_length=1)
    """The samples of each burst: before the first timed step, between the blocks of steps, and after the last one."""

    @model_validator(mode="after")
    def _every_burst_has_samples(self) -> Self:
        if not all(self.bursts_ns):
            raise ValueError("every burst of the calibration kernel has a sample")
        return self

    @property
    def time_ns(self) -> float:
        """The median of all samples."""
        return max(1.0, statistics.median(sample for burst in self.bursts_ns for sample in burst))


class KernelBurst(Frozen):
    """Answer to ``calibration_kernel``: the samples of one burst."""

    shape: Shape
    time_ns: tuple[Count, ...] = Field(min_length=1)
    cpu_time_s: Amount


class Usage(Frozen):
    """What a process used while steps were timed. :func:`ntp.machine.memory.usage_so_far` reads it."""

    peak_rss_bytes: Count
    """The largest resident size meanwhile: interpreter, libraries, model and activations. Where the kernel does not let
    the mark be reset, the largest since the process started."""
    minor_page_faults: Count
    """The total of all steps."""
    major_page_faults: Count

    def __add__(self, other: "Usage") -> "Usage":
        """What two stretches of one process used together."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in Usage.model_fields}
        return Usage(**sums | {"peak_rss_bytes": max(self.peak_rss_bytes, other.peak_rss_bytes)})

    def since(self, before: "Usage") -> "Usage":
        """What was used between two readings of everything that the process has used so far. This is the later one."""
        changes = {name: getattr(self, name) - getattr(before, name) for name in Usage.model_fields}
        return Usage(**changes | {"peak_rss_bytes": self.peak_rss_bytes})


NOTHING_USED = Usage(**dict.fromkeys(Usage.model_fields, 0))


class MeasuredProcess(Usage):
    """One process of a case: its samples, what it used while they were taken, and what it ran beside."""

    started: str
    """When its first sample was taken: ISO 8601, UTC."""
    round: Positive = 1
    """The round in which it was measured."""
    step_time_ns: tuple[Count, ...] = Field(min_length=1)
    """The samples: the duration of each timed step (or of its part, where the case names one), in order."""
    step_cpu_ns: tuple[Count, ...] = ()
    """The CPU time of each step's main thread. Empty where a part of the step is timed."""
    warm_up: WarmUp
    harness: Harness
    conditions: Conditions = Conditions()
    calibration_kernel: CalibrationKernel | None = None
    """Null where torch refused the product."""
    endings: tuple[Ending, ...] = ()
    """How each block of timed steps left the process."""

    @property
    def median_ns(self) -> float:
        """The median of its samples, as a divisor of rates: at least 1 ns, where a clock reads zero."""
        return max(1.0, statistics.median(self.step_time_ns))

    @property
    def waiting_share(self) -> float | None:
        """The share of the timed steps in which their main thread was off its CPU: it waited for threads that sleep
        when they are done, for the disk, or for the CPU itself. None where its CPU time was not measured.
        """
        time_ns = sum(self.step_time_ns)
        return max(0.0, 1 - sum(self.step_cpu_ns) / time_ns) if self.step_cpu_ns and time_ns else None


class Measurement(Frozen):
    """The record of one case: the processes that were measured, each with its samples.

    The process is the unit of evidence: what two processes have in common, the steps of one cannot tell.
    """

    case: Case
    processes: tuple[MeasuredProcess, ...] = Field(min_length=1)
    """In the order in which they were measured."""
    parameters: Count
    """How many numbers the model learns."""
    parameter_dtypes: tuple[str, ...] = ()
    """torch's names of their types: torch.float32."""
    environment: Environment
    """That of the first process."""
    observations: Observations = Observations()

    def with_processes_of(self, other: "Measurement") -> "Measurement":
        """Add the processes of a later measurement of the same case, and its observations if there are any."""
        observations = self.observations if other.observations == Observations() else other.observations
        return self.model_copy(update={"processes": (*self.processes, *other.processes), "observations": observations})

    @property
    def medians_ns(self) -> tuple[float, ...]:
        """The median step time of each process."""
        return tuple(process.median_ns for process in self.processes)

    @property
    def step_time_ns(self) -> tuple[int, ...]:
        """The samples of all processes, in order."""
        return tuple(sample for process in self.processes for sample in process.step_time_ns)

    @property
    def samples_ns(self) -> tuple[int, ...]:
        """The samples as divisors of rates: at least 1 ns, where a clock of whole nanoseconds reads zero."""
        return tuple(max(1, sample) for sample in self.step_time_ns)

    @property
    def waiting_share(self) -> float | None:
        """That of the median process. None where it was not measured in each."""
        shares = [process.waiting_share for process in self.processes]
        known = [share for share in shares if share is not None]
        return statistics.median(known) if len(known) == len(shares) else None

    @property
    def usage(self) -> Usage:
        """What all processes used while steps were timed."""
        return sum(self.processes, NOTHING_USED)

    @property
    def minor_page_faults_per_step(self) -> float:
        """Those of the process that had the fewest: the others were still filling their heaps when timing began."""
        return min(process.minor_page_faults / len(process.step_time_ns) for process in self.processes)

    @property
    def endings(self) -> tuple[Ending, ...]:
        """How each block of each process left it."""
        return tuple(ending for process in self.processes for ending in process.endings)


class Failure(Frozen):
    """A case that could not be measured."""

    case_id: str
    message: str
    stderr_tail: str = ""
    kind: str = ""
    """As in :class:`ntp.errors.WorkerFailed`."""

    @classmethod
    def of(cls, case_id: str, error: WorkerFailed) -> Self:
        return cls(case_id=case_id, message=str(error), stderr_tail=error.stderr_tail, kind=error.kind)

    def error(self) -> WorkerFailed:
        return WorkerFailed(self.message, self.stderr_tail, self.kind)


class NoiseBetweenRuns(Frozen):
    """By how much whole runs of identical code differ on a machine, as far as it knew when a run was measured."""

    spread: Amount
    """The standard deviation of the logarithm of a run's times, all cases alike."""
    degrees: Amount
    """Degrees of freedom of the spread."""
    remembered: Count
    """How many runs of the machine it was learned from. 0: it is the default."""


class Run(Frozen):
    """The measurements of one sweep."""

    started: str
    """ISO 8601, UTC."""
    wall_time_s: Amount
    command: Command
    planned: Count
    """The number of cases of the sweep. If there are fewer measurements and failures, it was interrupted."""
    rounds: Count = 1
    """How many rounds were asked for: each measures every case in a process of its own."""
    order_seed: Count = 0
    """The seed of the order of the cases within the rounds."""
    measurements: tuple[Measurement, ...] = ()
    precision: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The half-width, as a fraction, that every interval within the run was to reach. Null if rounds alone were asked
    for."""
    budget_s: Amount | None = None
    """How long the sweep was allowed to take to reach it."""
    plain: Measurement | None = None
    """The largest case in a plain process, whose environment sets nothing, measured in the same rounds."""
    plain_failure: Failure | None = None
    """Why the plain process has no measurement. It is none of the planned cases, and not among their failures."""
    noise: NoiseBetweenRuns | None = None
    """What the machine knew, before this run, of how much runs differ. Null: nothing."""
    failures: tuple[Failure, ...] = ()
    peaks: MachinePeaks | None = None
    """This machine's roofline, for the thread counts of the measurements."""

    @property
    def missing(self) -> int:
        """The number of planned cases that were neither measured nor failed, because the sweep was interrupted."""
        return max(0, self.planned - len(self.measurements) - len(self.failures))

    def header(self) -> dict[str, Any]:
        """Return the file's top-level ``"ntp"``: everything except the measurements, which are in the benchmarks."""
        return {"schema_version": SCHEMA_VERSION, **self.model_dump(mode="json", exclude={"measurements"})}

    @classmethod
    def from_document(cls, document: object, name: str = "the run") -> Self:
        """Read the run in a pytest-benchmark document.

        Raises:
            RecordError: it is not a pytest-benchmark document, or was not written by this version of ntp.
        """
        benchmarks = document.get("benchmarks") if isinstance(document, Mapping) else None
        if not isinstance(document, Mapping) or not isinstance(benchmarks, Sequence):
            raise RecordError(f"{name} is not a benchmark run: it has no list of benchmarks; give a run.json of ntp")
        header = document.get("ntp")
        if not isinstance(header, Mapping) or "schema_version" not in header:
            raise RecordError(f"{name} was not written by ntp: only pytest-benchmark's own tools can read it")
        header = dict(header)
        version = header.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise _other_version(name, version, SCHEMA_VERSION)
        try:
            records = [bench["extra_info"]["ntp"] for bench in benchmarks if "ntp" in bench["extra_info"]]
            return cls.model_validate({**header, "measurements": records})
        except ValidationError as error:
            raise RecordError(f"{name} is damaged: {refusal(error)}; measure again") from error
        except (KeyError, TypeError) as error:
            raise RecordError(f"{name} is damaged: {error!r}; measure again") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a run file.

        Raises:
            RecordError: the file is missing, truncated, not written by ntp, or of another version.
        """
        try:
            document = _parsed(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RecordError(f"{path} cannot be read ({error.strerror}): give the path of a run.json") from error
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path} is not JSON, or is truncated ({error}): measure again") from error
        return cls.from_document(document, str(path))


def _other_version(name: object, version: object, readable: int) -> RecordError:
    """The error for a file of another version: an older ntp wrote it, or a newer one."""
    remedy = "measure again" if isinstance(version, int) and version < readable else "upgrade ntp"
    return RecordError(f"{name} has schema version {reprlib.repr(version)}, this ntp reads {readable}: {remedy}")


def _parsed(text: str) -> Any:
    """Parse JSON. An integer longer than any count becomes infinite, because Python refuses to read very long ones.

    Raises:
        ValueError: the text is not JSON.
    """
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _DIGITS else float(digits))


_DIGITS = len(str(-MAX_NUMBER))


class _Header(Frozen):
    """The part that files of all versions have in common."""

    model_config = ConfigDict(extra="ignore")

    schema_version: Count


Record = TypeVar("Record", bound=Frozen)


def read_versioned(path: Path, kind: type[Record], what: str, version: int, *, without: Sequence[str] = ()) -> Record:
    """Read a record that is a JSON file of its own, written by a command with ``--out``.

    Args:
        path: the file.
        kind: the type of the record.
        what: its name in messages, such as "guard record".
        version: the version that this ntp reads.
        without: keys of the file that are not part of the record.

    Raises:
        RecordError: the file is missing, damaged, not written by ntp, or of another version.
    """
    try:
        document = _parsed(path.read_text(encoding="utf-8"))
        file_version = _Header.model_validate(document).schema_version
        if file_version == version:
            return kind.model_validate({name: value for name, value in document.items() if name not in without})
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error.strerror}): give a file written with --out") from error
    except ValidationError as error:
        raise RecordError(f"{path} is not a {what}: {refusal(error)}; give a file written with --out") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not text ({error}): give a file written with --out") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not a {what}: Invalid JSON ({error}); give a file written with --out") from error
    raise _other_version(path, file_version, version)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the old text or the new text, even if this process is killed.

    Raises:
        RecordError: the file cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise not_written(path, error) from error


def check_writable(*paths: Path) -> None:
    """Check that files can be written, before their content is measured. Leaves nothing behind.

    Raises:
        RecordError: one of them cannot be written.
    """
    for path in paths:
        try:
            try_to_write(path)
        except OSError as error:
            raise not_written(path, error) from error
