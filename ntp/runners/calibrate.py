"""The runs that this machine remembers: each complete sweep adds one, and a calibration is several of them in a row."""

import itertools
import secrets
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from ntp.case import BATCH_SIZES, SEQ_LENS, Case
from ntp.errors import NtpError, WorkerFailed
from ntp.lines import one_line
from ntp.machine.cache import cache_dir, load_kept, save_kept
from ntp.records.calibration import MIN_ROUNDS, Calibration, code_of, fingerprints
from ntp.records.run import Run, check_writable
from ntp.runners.bench import Bench, Progress, forking, silent
from ntp.runners.sweep import Plan, RoundsSweep

RUNS = 5
"""So few add to what is known beforehand, and do not replace it; each is a sweep, of a minute or more."""


NewBench = Callable[[Progress], AbstractContextManager[Bench]]


def forking_all(progress: Progress) -> AbstractContextManager[Bench]:
    """Provide a bench as a sweep has it: all workers of a runtime are forks of one process."""
    return forking(progress, forks=None)


def default_cases(threads: Sequence[int]) -> tuple[Case, ...]:
    """Return the training steps of a sweep without options."""
    sizes = itertools.product(threads, BATCH_SIZES, SEQ_LENS)
    return tuple(
        Case.of({"threads": count, "batch_size": batch_size, "seq_len": seq_len})
        for count, batch_size, seq_len in sizes
    )


def remember(run: Run, code: str = "", folder: Path | None = None) -> Calibration | None:
    """Add a run to those that this machine remembers, and return all of them. None: a run like this is not remembered.

    Args:
        run: a sweep. It is remembered if it was not interrupted, and had rounds enough to show its own spread.
        code: what it measured, if the caller knows better than :func:`ntp.records.calibration.code_of`.
        folder: where to keep it, instead of :func:`ntp.machine.cache.cache_dir`.

    Raises:
        RecordError: it cannot be kept.
        MachineError: the user has no home directory.
    """
    surroundings = {fingerprints(measurement) for measurement in run.measurements}
    if run.missing or run.rounds < MIN_ROUNDS or len(surroundings) != 1:
        return None
    kept = load_kept(Calibration, *surroundings.pop(), folder).with_run(run, code or code_of(run))
    save_kept(kept, folder)
    return kept


def try_to_remember(run: Run) -> str:
    """Remember a sweep, and return in a line why that failed: no sweep fails for it. Empty if it did not."""
    try:
        remember(run)
    except NtpError as error:
        return f"this run cannot be remembered: {one_line(error.explained())}"
    return ""


def calibrate(
    cases: Sequence[Case],
    runs: int = RUNS,
    *,
    plan: Plan | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
    new_bench: NewBench = forking_all,
) -> Generator[Calibration, None, None]:
    """Sweep the cases ``runs`` times; remember each sweep as soon as it is there, and yield all since the first.

    Each sweep gets a bench of its own. What the forks of one process have in common, such as where the libraries lie
    in memory, differs between runs, and is part of their noise.

    Args:
        cases: what is calibrated.
        runs: how many sweeps.
        plan: how each is measured; as a sweep without options unless given. Nothing is observed.
        folder: where to keep the runs, instead of :func:`ntp.machine.cache.cache_dir`.
        progress: is told what is about to be measured.
        new_bench: starts the workers of a sweep.

    Raises:
        WorkerFailed: a worker died, hung or refused its case, or the machine changed meanwhile.
        RecordError: the runs cannot be kept.
    """
    check_writable((folder or cache_dir()) / "calibration.json")
    first: Run | None = None
    took_s: list[float] = []
    for number in range(1, runs + 1):
        said = f"run {number} of {runs}{_left(took_s, runs - number)}"
        with new_bench(lambda message, said=said: progress(f"{said}, {message}")) as bench:  # type: ignore[misc]
            started_s = bench.clock_s()
            run = _sweep(cases, plan or Plan(), bench)
            took_s.append(bench.clock_s() - started_s)
        first = first or run
        surroundings = {fingerprints(measurement) for run in (first, run) for measurement in run.measurements}
        kept = remember(run, code_of(first), folder) if len(surroundings) == 1 else None
        if kept is None:
            raise WorkerFailed("the machine or its software has changed since the first run: start over")
        yield kept.only(cases, since=first.started)


def _left(took_s: Sequence[float], more: int) -> str:
    """Say how long the sweeps after this one will take, if there are any: as long as those so far."""
    if not took_s or not more:
        return ""
    expected_s = sum(took_s) / len(took_s) * more
    return f" ({more} more {'takes' if more == 1 else 'take'} about {expected_s:.0f} s)"


def _sweep(cases: Sequence[Case], plan: Plan, bench: Bench) -> Run:
    """Run one sweep. The first case that fails ends it."""
    plan = plan.model_copy(update={"order_seed": secrets.randbelow(2**31), "observing": None, "with_plain": False})
    started = datetime.now(UTC).isoformat(timespec="microseconds")
    rounds = RoundsSweep(cases, plan, bench)
    for _ in rounds.run(until=lambda: bool(rounds.failures)):
        pass
    for error in rounds.failures.values():
        raise error
    return Run(
        started=started,
        wall_time_s=0,
        command=bench.command,
        planned=len(rounds.cases),
        rounds=plan.rounds,
        order_seed=plan.order_seed,
        measurements=tuple(rounds.measurements[case] for case in rounds.cases),
    )
