"""One case under all observers, each in a pass of its own."""

import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from ntp.case import Case
from ntp.errors import RecordError, WorkerFailed
from ntp.observe.py_spy import FLAME_FILES, record_flame
from ntp.records.flame import Flame
from ntp.records.observations import Observations
from ntp.records.peaks import MachinePeaks, gemm_shapes
from ntp.records.run import Failure, Measurement, Run, check_writable
from ntp.runners.bench import Bench, now
from ntp.runners.roofline import measure_peaks
from ntp.worker.driver import Observing, Sampling, measure, observe
from ntp.worker.protocol import Worker, stopped_on_error
from ntp.worker.sources import Source

TRACE = "trace.json"
FILES = (TRACE, *FLAME_FILES)
"""Files that are written beside the run."""
SAMPLING = Sampling(time_s=4.0, min_samples=10)
OBSERVING = Observing(phase_pairs=20, operator_steps=5)
FLAME_S = 3.0
"""Seconds of each of the two flame recordings."""

_BLOCK_S = 0.5
"""Steps asked for at a time while a flame is recorded: it ends at most that long after the recording."""

RecordFlame = Callable[[int, float, Path], Flame]
Peaks = Callable[[Case], MachinePeaks]


def machine_peaks(case: Case) -> MachinePeaks:
    """Measure the roofline for the case's threads, at the shapes of its own products."""
    return measure_peaks([case.runtime.threads], gemm_shapes(case.workload))


def profile(
    case: Case,
    out_dir: Path,
    *,
    sampling: Sampling | None = None,
    observing: Observing = OBSERVING,
    flame: RecordFlame = record_flame,
    peaks: Peaks = machine_peaks,
    bench: Bench,
) -> Iterator[Run]:
    """Measure a case, let every observer look at it, and yield the run after each stage, more complete each time.

    A stage that fails is told in the run, as a failure or in the observations; what was finished before stays, and what
    does not depend on it goes on. ``trace.json`` and the flames are written to ``out_dir`` on the way.

    Raises:
        RecordError: ``out_dir`` cannot be written. Found before anything is started.
    """
    _check_writable(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / TRACE).unlink(missing_ok=True)  # an earlier profile's must not pass for this one's
    run = Run(started=now(), wall_time_s=0, command=bench.command, planned=1)
    started_s = bench.clock_s()

    def run_with(**changes: object) -> Run:
        elapsed_s = round(bench.clock_s() - started_s, 3)
        return Run.model_validate({**dict(run), **changes, "wall_time_s": elapsed_s})

    try:
        with bench.start(case, Source.here()) as worker:
            bench.progress("starting a worker, warming it up and timing its steps")
            measurement = measure(case, worker, sampling or SAMPLING)
            yield (run := run_with(measurements=(measurement,)))
            bench.progress("observing phases, memory, operations and operators")
            measurement = measurement.model_copy(update={"observations": _observed(worker, observing, out_dir)})
            yield (run := run_with(measurements=(measurement,)))
            bench.progress("recording a flame graph")
            measurement = _with_flame(measurement, worker, worker.pid, out_dir, flame)
            yield (run := run_with(measurements=(measurement,)))
    except WorkerFailed as error:
        failure = Failure.of(case.id, error)
        run = run_with(failures=(*run.failures, failure))
        yield run
        if not run.measurements:
            return
    bench.progress("measuring this machine's roofline, unless it is in the cache")
    try:
        run = run_with(peaks=peaks(case))
    except WorkerFailed as error:
        failure = Failure.of("roofline", error)
        run = run_with(failures=(*run.failures, failure))
    yield run


def _check_writable(out_dir: Path) -> None:
    check_writable(*(out_dir / name for name in FILES))
    free_bytes = shutil.disk_usage(next(filter(Path.exists, (out_dir, *out_dir.absolute().parents)))).free
    if free_bytes < _NEEDED_BYTES:
        raise RecordError(
            f"{out_dir} has {free_bytes >> 20} MiB free, a profile needs {_NEEDED_BYTES >> 20}: free the disk"
        )


_NEEDED_BYTES = 32 << 20


def _observed(worker: Worker, observing: Observing, out_dir: Path) -> Observations:
    """Run the observers. The trace gets its name when it is complete: on a full disk torch leaves a part of one."""
    try:
        with TemporaryDirectory(dir=out_dir, prefix=".ntp-") as folder:
            trace = Path(folder).resolve() / TRACE
            observations = observe(worker, observing, str(trace))
            if _is_whole(trace):
                trace.replace(out_dir / TRACE)
            elif observations.operators:  # otherwise the failure of the pass says why there is no trace either
                failure = f"{TRACE}: it could not be written: free the disk or choose another folder"
                observations = observations.model_copy(update={"failures": (*observations.failures, failure)})
    except OSError as error:
        raise RecordError(
            f"{out_dir} cannot be written ({error.strerror}): choose another folder with --out"
        ) from error
    return observations


def _is_whole(trace: Path) -> bool:
    """Whether the file is there, up to the brace that closes it."""
    try:
        with trace.open("rb") as file:
            file.seek(max(0, trace.stat().st_size - 16))
            return file.read().rstrip().endswith(b"}")
    except OSError:
        return False


def _with_flame(measurement: Measurement, worker: Worker, pid: int, out_dir: Path, record: RecordFlame) -> Measurement:
    """Record a flame graph, and keep the worker busy meanwhile."""
    step_s = statistics.median(measurement.step_time_ns) / 1e9
    block = max(1, math.ceil(_BLOCK_S / step_s))
    with ThreadPoolExecutor(1) as pool, stopped_on_error(worker):
        recording: Future[Flame] = pool.submit(record, pid, FLAME_S, out_dir)
        while not recording.done():
            worker.run(block, expected_s=_BLOCK_S)
    observations = measurement.observations.model_copy(update={"flame": recording.result()})
    return measurement.model_copy(update={"observations": observations})
