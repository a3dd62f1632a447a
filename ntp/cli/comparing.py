"""What the commands that compare in pairs have in common: how they keep what they measure, judge it, and tell it."""

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ntp.cli.console import tell, tell_more
from ntp.errors import OptionError, RecordError
from ntp.interrupts import Terminated
from ntp.lines import one_line

if TYPE_CHECKING:
    from ntp.case import Case
    from ntp.records.pairs import Comparison

Kept = TypeVar("Kept", bound="Comparison")
Verdict = TypeVar("Verdict")


def check_out(out: Path) -> None:
    """Refuse a file that cannot be written, or that is the summary of the job."""
    from ntp.records.run import check_writable

    check_writable(out)
    summary_file = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary_file and os.path.realpath(out) == os.path.realpath(summary_file):
        raise OptionError(f"--out {out} is also the file of GITHUB_STEP_SUMMARY: choose another")


def check_has_sides(case: "Case") -> None:
    """Refuse a model whose file is the same for every commit."""
    if Path(case.workload.model).is_absolute():
        raise OptionError(
            f"{case.workload.model} is the same file for every commit: give its path inside the repository"
        )


def keep(
    records: Generator[Kept, None, None],
    out: Path,
    summary: Callable[[Kept], Mapping[str, object]],
    afterwards: str,
    *,
    ends_early: bool = False,
) -> Kept | None:
    """Write each state of a record in place of the one before it. Returns the last; None if there was none.

    Args:
        records: the states.
        out: the file.
        summary: the verdict on a record, as plain values.
        afterwards: what can be done with the file, which is told if a signal ends the measurement.
        ends_early: whether Ctrl-C ends it with what there is, in place of failing.
    """
    from ntp.records.run import write_whole

    record = None
    try:
        with closing(records):
            for record in records:
                write_whole(out, record.text(summary(record)))
    except KeyboardInterrupt as stop:
        if record is None:
            raise
        if not ends_early or isinstance(stop, Terminated):
            stop.add_note(f"; what was measured is kept: {afterwards}")
            raise
        tell(f"interrupted: this is the best so far; {afterwards}")
    return record


def judged(verdict_on: Callable[[Kept], Verdict], record: Kept, file: Path | None) -> Verdict:
    """Return the verdict on a record, which may be that of a file from elsewhere."""
    try:
        return verdict_on(record)
    except (ValueError, KeyError) as error:
        what = f"{file} cannot be judged ({error})"
        raise RecordError(f"{what}: give a file as {' '.join(record.command[:2])} --out wrote it") from error


def tell_job(markdown: str) -> None:
    """Add to the summary of a job, if there is one. If that fails, the verdict and its exit status stay as they are."""
    if not (path := os.environ.get("GITHUB_STEP_SUMMARY")):
        return
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{markdown}\n")
    except OSError as error:
        reason = one_line(f"{path} cannot be written ({error.strerror})")
        tell(f"the verdict is not in the job's summary: {reason}; fix or unset GITHUB_STEP_SUMMARY")


def tell_last_lines(of_workers: Iterable[tuple[str, str]]) -> None:
    """Show what failed workers said at last, each by its name. What several said is shown once."""
    first_with: dict[str, str] = {}
    for name, tail in of_workers:
        first_with.setdefault(tail.rstrip(), name)
    for tail, name in first_with.items():
        if tail:
            tell_more(f"the last lines of the worker of {name}:\n{tail}")
