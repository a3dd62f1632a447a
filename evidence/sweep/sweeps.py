"""The recorded sweeps as arrays: a row for each case, a column for each round.

C: cases, R: rounds.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from recording import RecordedSweep

from ntp.records.run import MeasuredProcess, Measurement

Values = np.ndarray[Any, np.dtype[np.float64]]

Summary = Callable[[Sequence[int]], float]
"""What a process's steps are summed up by, in nanoseconds."""


class Sweep(NamedTuple):
    """One sweep of identical code."""

    condition: str
    ids: tuple[str, ...]
    threads: Values
    """(C,)"""
    logs: Values
    """(C, R): the logarithm of what sums up the steps of a process."""
    kernels: Values
    """(C, R): the logarithm of the calibration kernel's median time in the same process."""
    steps: tuple[tuple[Values, ...], ...]
    """The durations of all steps in nanoseconds, by case and round."""

    def groups(self) -> list[list[int]]:
        """Return the indices of the cases of each thread count."""
        every = range(len(self.ids))
        return [[i for i in every if self.threads[i] == threads] for threads in np.unique(self.threads)]

    def speedups(self) -> list[tuple[int, int]]:
        """Return the pairs of cases that differ only in the number of threads: fewer, more."""
        names = [name.replace(f"-t{int(threads)}", "", 1) for name, threads in zip(self.ids, self.threads, strict=True)]
        every = range(len(names))
        return [(i, j) for i in every for j in every if names[i] == names[j] and self.threads[i] < self.threads[j]]


def arrays(
    recorded: RecordedSweep, summary: Summary = statistics.median, rounds: int | None = None, share: float = 1.0
) -> Sweep:
    """Return a sweep, or what it would be with only its first rounds, or the first share of each process's steps."""
    measurements = recorded.run.measurements
    processes = [_in_order(measurement)[:rounds] for measurement in measurements]
    steps = tuple(tuple(_first(process.step_time_ns, share) for process in of_case) for of_case in processes)
    return Sweep(
        recorded.condition,
        tuple(measurement.case.id for measurement in measurements),
        np.array([measurement.case.runtime.threads for measurement in measurements], float),
        np.log([[summary(times.tolist()) for times in of_case] for of_case in steps]),
        np.log([[_kernel_ns(process) for process in of_case] for of_case in processes]),
        steps,
    )


def complete(recorded: Sequence[RecordedSweep]) -> list[RecordedSweep]:
    """Return the sweeps in which every case of the first one has a process, with its kernel, in every round."""
    ids = [measurement.case.id for measurement in recorded[0].run.measurements] if recorded else []
    return [sweep for sweep in recorded if _is_complete(sweep, ids)]


def _is_complete(sweep: RecordedSweep, ids: Sequence[str]) -> bool:
    measurements, rounds = sweep.run.measurements, list(range(1, sweep.run.rounds + 1))
    return [measurement.case.id for measurement in measurements] == ids and all(
        [process.round for process in _in_order(measurement)] == rounds
        and all(process.calibration_kernel for process in measurement.processes)
        for measurement in measurements
    )


def _in_order(measurement: Measurement) -> list[MeasuredProcess]:
    return sorted(measurement.processes, key=lambda process: process.round)


def _first(times: Sequence[int], share: float) -> Values:
    return np.array(times[: max(1, round(share * len(times)))], float)


def _kernel_ns(process: MeasuredProcess) -> float:
    assert process.calibration_kernel is not None
    return process.calibration_kernel.time_ns
