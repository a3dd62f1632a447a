"""The sentences of a report, shared by its renderers."""

from collections.abc import Callable, Iterable, Iterator
from math import isfinite, pi
from statistics import median

from ntp.judge.between_runs import RunNoise, another_run, noise_when_measured
from ntp.judge.warnings import Kind, MeasurementWarning
from ntp.records.peaks import MachinePeaks, matmul_advice
from ntp.records.run import Failure, MeasuredProcess, Run
from ntp.report.environment import environment_lines
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
        yield _fastest_line(fastest, doubts, noise_when_measured(run), name)
    if not tables.fastest:
        yield "No whole step was measured." if run.measurements else "Nothing was measured."
    yield from _gaps(run, tables)
    if run.precision is not None:
        yield from _not_reached(run.precision, run.budget_s, tables, name)


def _gaps(run: Run, tables: Tables) -> Iterator[str]:
    gaps = []
    if run.failures:
        gaps.append(f"{len(run.failures)} failed")
    if run.missing:
        gaps.append(f"{run.missing} {'was' if run.missing == 1 else 'were'} never run (the sweep was interrupted)")
    if gaps:
        yield f"Incomplete: of {_counted(run.planned, 'case')}, {' and '.join(gaps)}."
    counts = [len(row.measurement.processes) for row in tables.rows]
    short = [count for count in counts if count < run.rounds]
    if short:
        yield (
            f"Interrupted: {len(short)} of {_counted(len(counts), 'case')} "
            f"{'has' if len(short) == 1 else 'have'} only {_to(min(short), max(short))} of the {run.rounds} processes "
            "that were asked for."
        )


def _to(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _not_reached(precision: float, budget_s: float | None, tables: Tables, name: Callable[[str], str]) -> Iterator[str]:
    wide = sorted(
        (row for row in tables.rows if row.level.half_width > precision),
        key=lambda row: (-row.level.half_width, row.case.id),
    )
    if wide:
        within = "" if budget_s is None else f" in the {budget_s:.0f} s allowed (--ntp-budget)"
        cases = _some(f"{name(row.case.id)} {_plus_minus(row.level.half_width)}" for row in wide)
        yield f"The precision of {_plus_minus(precision)} was not reached{within}: {cases}."


def _plus_minus(half_width: float) -> str:
    return f"±{share(half_width)}" if isfinite(half_width) else "unknown, from a single process"


def _fastest_line(fastest: Fastest, doubts: list[Kind], noise: RunNoise, name: Callable[[str], str]) -> str:
    row, rate = fastest.row, fastest.row.tokens_per_s_interval
    case = name(row.case.id)
    line = f"Fastest: {case}"
    speed = f"{significant(row.tokens_per_s)} tokens/s"
    if rate is None:
        line += f" with {speed}, {duration(row.time_ns)} a step, in a single process: another may differ"
        line += " by more than cases do" if fastest.rivals else ""
    else:
        speed += f" ({significant(rate.low)} to {significant(rate.high)}), {duration(row.time_ns)} a step: "
        speed += f"{_plus_minus(row.level.half_width)} in this run; another run: "
        speed += _plus_minus(another_run(row.level, noise).half_width)
        rivals = _some((name(rival.case.id) for rival in fastest.rivals), " or ")
        line += f", or {rivals}: they cannot be told apart. {case}: {speed}" if rivals else f" with {speed}"
    if row.case.runtime.threads > 1 and row.speed_up is not None:
        between = row.speed_up.interval
        line += f". It is {ratio(row.speed_up.value)} "
        line += f"({ratio(between.low)} to {ratio(between.high)}) " if between else ""
        line += f"times as fast as with one thread ({share(row.efficiency)} efficiency)"
    if doubts:
        line += f". Warnings about it: {', '.join(doubts)}"
    return line + "."


def plain_lines(
    run: Run, tables: Tables, name: Callable[[str], str], quoted: Callable[[str], str] = str
) -> tuple[str, tuple[str, ...]]:
    """What the step takes in a plain process; and the lines that make it as fast as here, if it is slower.

    ``name`` renders a case id, ``quoted`` what a process said.
    """
    process = "a plain process (no environment set)"
    if run.plain_failure is not None:
        return f"The step was not measured in {process}: {quoted(failure_message(run.plain_failure))}.", ()
    plain = tables.plain
    if plain is None:
        return "", ()
    interval = plain.ratio.interval
    line = f"In {process} the step of {name(plain.row.case.id)} takes {ratio(plain.ratio.value)}"
    if interval is None:
        return f"{line} times as long; a single process cannot tell whether it does.", ()
    line += f" ({ratio(interval.low)} to {ratio(interval.high)}) times as long"
    if interval.low <= 1 <= interval.high:
        return f"{line}: they cannot be told apart.", ()
    if interval.high < 1:
        return f"{line}: the environment of ntp's workers makes it slower here.", ()
    process_record = plain.row.measurement.environment.process
    return f"{line}; these lines get the difference:", tuple(environment_lines(plain.row.case, process_record))


def noise_line(tables: Tables) -> str:
    """How much each level of repetition differs, and what narrows the intervals."""
    spreads, counts = tables.spreads, [len(process.step_time_ns) for process in _processes(tables)]
    if spreads.processes is None:
        return "One process of each case: the noise between processes is unknown (--ntp-rounds)." if counts else ""
    parts = [f"the processes of a case {'' if spreads.steps is not None else 'differ '}by {share(spreads.processes)}"]
    if spreads.steps is not None:
        parts.insert(0, f"the steps of a process differ by {share(spreads.steps)}")
    if spreads.rounds is not None:
        parts.append(f"whole rounds by {share(spreads.rounds)}")
    line = f"Noise: {_listed(parts)} (standard deviations)."
    if not spreads.processes:
        return line
    # The variance of the median of n normal values is pi / 2n times theirs.
    of_steps = (spreads.steps or 0.0) ** 2 * pi / 2 / median(counts)
    if spreads.rounds is not None and spreads.rounds > spreads.processes:
        cause = "The rounds dominate: the machine changed meanwhile, which only more rounds average (--ntp-rounds)."
    elif 2 * of_steps > spreads.processes**2:
        cause = "The steps dominate: longer processes (--ntp-sample-time) narrow the intervals, as do more rounds."
    else:
        cause = "The processes dominate: more rounds (--ntp-rounds) narrow the intervals, longer processes hardly do."
    return f"{line} {cause}"


def _processes(tables: Tables) -> list[MeasuredProcess]:
    return [process for row in tables.rows for process in row.measurement.processes]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _some(names: Iterable[str], joint: str = ", ") -> str:
    listed = list(dict.fromkeys(names))
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return joint.join(listed[:NAMED]) + more


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
        f"Of {time.wall_s:.1f} s, {time.start_s:.1f} s went into starting processes, {time.warm_up_s:.1f} s into "
        f"warming up, {time.timed_s:.1f} s into timed steps, {time.observed_s:.1f} s into observing what a step does, "
        f"and {time.rest_s:.1f} s into the rest: warm-up and timed steps are {share(time.share_of_steps)} of the total."
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
