"""Runs of identical code, all cases one after the other: how noisy runs are on this machine."""

import itertools
from collections.abc import Generator, Sequence
from pathlib import Path

from ntp.case import BATCH_SIZES, SEQ_LENS, Case
from ntp.errors import WorkerFailed
from ntp.machine.cache import cache_dir, load_kept, save_kept
from ntp.records.calibration import CalibratedCase, CalibratedRun, Calibration, fingerprints
from ntp.records.run import Measurement, check_writable
from ntp.runners.bench import Bench, now
from ntp.worker.driver import Sampling, measure
from ntp.worker.sources import Source

RUNS = 5
"""With fewer, the quantile of Student's distribution outgrows the noise; each further run gains little."""


def default_cases(threads: Sequence[int]) -> tuple[Case, ...]:
    """Return the training steps of a sweep without options."""
    sizes = itertools.product(threads, BATCH_SIZES, SEQ_LENS)
    return tuple(
        Case.of({"threads": count, "batch_size": batch_size, "seq_len": seq_len})
        for count, batch_size, seq_len in sizes
    )


def calibrate(
    cases: Sequence[Case],
    runs: int = RUNS,
    *,
    sampling: Sampling | None = None,
    folder: Path | None = None,
    bench: Bench,
) -> Generator[Calibration, None, None]:
    """Measure each case in ``runs`` fresh workers; keep each run as soon as it is there, and yield all so far.

    All cases are run once, then all of them again: a disturbance of a minute costs each of them a run, and none all.
    What was kept of a case before is replaced once there are as many new runs, or all that were asked for: whoever
    interrupts a calibration does not lose a better one.

    Args:
        cases: what is calibrated.
        runs: how many workers each case gets.
        sampling: how many steps are timed; a sweep's own unless given.
        folder: where to keep the runs, instead of :func:`ntp.machine.cache.cache_dir`.
        bench: starts the workers, and is told what is about to be measured, a line for each run.

    Raises:
        WorkerFailed: a worker died, hung or refused its case, or the machine changed meanwhile.
        RecordError: the runs cannot be kept.
    """
    folder = folder or cache_dir()
    check_writable(folder / "calibration.json")
    new: dict[Case, CalibratedCase] = {}
    surroundings: tuple[str, str] | None = None
    started_s = bench.clock_s()
    for done, (number, case) in enumerate((number, case) for number in range(1, runs + 1) for case in cases):
        bench.progress(_forecast(case, done, runs * len(cases), bench.clock_s() - started_s))
        with bench.start(case, Source.here()) as worker:
            measurement = measure(case, worker, (sampling or Sampling()).for_case(case))
        if surroundings not in (None, fingerprints(measurement)):
            raise WorkerFailed(f"{case.id}: the machine or its software has changed since the first run: start over")
        surroundings = fingerprints(measurement)
        new[case] = _with_run(new.get(case), measurement)
        kept = load_kept(Calibration, *surroundings, folder)
        if number == runs or len(new[case].runs) >= _runs_of(kept, case):
            save_kept(kept.updated([new[case]]), folder)
        yield Calibration(machine=surroundings[0], software=surroundings[1], cases=tuple(new.values()))


def _with_run(earlier: CalibratedCase | None, measurement: Measurement) -> CalibratedCase:
    if measurement.calibration_kernel is None:
        raise WorkerFailed(f"{measurement.case.id}: torch refused the calibration kernel, so no run can be normalised")
    run = CalibratedRun(step_time_ns=measurement.step_time_ns, calibration_kernel=measurement.calibration_kernel)
    if earlier is None:
        return CalibratedCase(case=measurement.case, started=now(), runs=(run,))
    return earlier.model_copy(update={"runs": (*earlier.runs, run)})


def _runs_of(kept: Calibration, case: Case) -> int:
    calibrated = kept.at(case)
    return len(calibrated.runs) if calibrated else 0


def _forecast(case: Case, done: int, planned: int, elapsed_s: float) -> str:
    left = f", about {elapsed_s / done * (planned - done):.0f} s left" if done else ""
    return f"run {done + 1} of {planned}: {case.id}{left}"
