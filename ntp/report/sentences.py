"""The sentences of a report, shared by its renderers."""

from collections.abc import Callable, Iterable, Iterator

from ntp.judge.warnings import Kind, MeasurementWarning
from ntp.records.peaks import MachinePeaks, matmul_advice
from ntp.records.run import Failure, Run
from ntp.report.tables import Fastest, HarnessTime, Tables
from ntp.report.units import duration, ratio, share, significant

NAMED = 3
"""A list of cases names at most this many, and counts the rest."""

Messages = list[tuple[str, str]]
"""Case ids, each with its message."""


def answer(run: Run, tables: Tables, name: Callable[[str], str]) -> Iterator[str]:
    """The sentences that a report begins with; ``name`` renders a case id."""
    for fastest in tables.fastest:
        doubts = [warning.kind for case_id, warning in tables.warnings if case_id == fastest.row.case.id]
        yield _fastest_line(fastest, doubts, name)
    if not tables.fastest:
        yield "No whole step was measured." if run.measurements else "Nothing was measured."
    gaps = []
    if run.failures:
        gaps.append(f"{len(run.failures)} failed")
    if run.missing:
        gaps.append(f"{run.missing} {'was' if run.missing == 1 else 'were'} never run (the sweep was interrupted)")
    if gaps:
        yield f"Incomplete: of {run.planned} case{'' if run.planned == 1 else 's'}, {' and '.join(gaps)}."


def _fastest_line(fastest: Fastest, doubts: list[Kind], name: Callable[[str], str]) -> str:
    row = fastest.row
    rate, time_ns = row.tokens_per_s, row.time_ns
    line = (
        f"Fastest: {name(row.case.id)} with {significant(rate.value)} tokens/s "
        f"({significant(rate.low)} to {significant(rate.high)}), {duration(time_ns.value)} a step"
    )
    if row.case.runtime.threads > 1 and row.speed_up is not None:
        line += f", {ratio(row.speed_up)} times as fast as with one thread ({share(row.efficiency)} efficiency)"
    if fastest.rivals:
        line += f". Indistinguishable from it: {_some(name(rival.case.id) for rival in fastest.rivals)}"
    if doubts:
        line += f". Warnings about it: {', '.join(doubts)}"
    return line + "."


def _some(names: Iterable[str]) -> str:
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more


def machine_lines(peaks: MachinePeaks | None) -> Iterator[str]:
    """What the roofline tells a user to do on this machine."""
    if peaks is None:
        return
    if advice := matmul_advice(peaks):
        yield f"On this machine, {advice[0].lower()}{advice[1:]}."
    yield from (f"Roofline: {warning}." for warning in peaks.warnings)


def time_line(time: HarnessTime) -> str:
    """How the wall time was spent, and how much the harness itself used."""
    line = (
        f"Of {time.wall_s:.1f} s, {time.start_s:.1f} s went into starting workers, {time.warm_up_s:.1f} s into warming "
        f"up, {time.timed_s:.1f} s into timed steps, {time.observed_s:.1f} s into observing what a step does, and "
        f"{time.rest_s:.1f} s into the rest: warm-up and timed steps are {share(time.share_of_steps)} of the total."
    )
    if time.timed_s:
        line += f" While steps were timed, the harness itself used {time.parent_cpu_share:.2%} of a CPU."
    return line


def failure_message(failure: Failure) -> str:
    """A failure's message without the case id that it begins with."""
    return failure.message.removeprefix(f"{failure.case_id}: ")


def grouped(tables: Tables) -> list[tuple[MeasurementWarning, Messages]]:
    """Warnings of the same kind and advice together: the first of them, and each case's message."""
    groups: dict[tuple[str, str], tuple[MeasurementWarning, Messages]] = {}
    for case_id, warning in tables.warnings:
        groups.setdefault((warning.kind, warning.advice), (warning, []))[1].append((case_id, warning.message))
    return list(groups.values())
