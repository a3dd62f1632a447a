"""Records what was tried to make the fastest exact step faster still, and makes the table of what each attempt gave.

In each process every attempt has a step in turn, in an order drawn for each round. The process is the unit of evidence:
its ratio is that of two medians, and the interval covers the processes.
"""

import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from attempted_steps import ATTEMPTS, REFERENCE
from comparisons import BF16, EXACT, THREADS
from recordings import ROOT, SEED, Provenance, provenance, tell, write

from ntp.case import Case, Frozen
from ntp.judge.statistics import t_quantile
from ntp.lines import shorten
from ntp.report.markup import code, prose, table
from ntp.report.units import UNKNOWN
from ntp.worker.launch import new_process
from ntp.worker.sources import Source

ATTEMPTED = {"fp32": Case.of({"threads": THREADS, **EXACT}), "bf16": Case.of({"threads": THREADS, **BF16})}
"""The steps that were to become faster."""

_SAME_LOSS = 1e-5
"""Losses closer than this, relatively, are those of an exact step."""

_FAILURE_CHARACTERS = 60


class AttemptSteps(Frozen):
    """An attempt's steps in one process."""

    step_time_ns: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    failure: str = ""


class Attempted(Frozen):
    """One process: the steps of each attempt."""

    case: str
    seed: int
    steps: dict[str, AttemptSteps]


class Attempts(Provenance):
    processes: tuple[Attempted, ...] = ()


def record_attempts(path: Path, number: int, rounds: int) -> None:
    """Record processes of each precision, alternating between them."""
    recording, started_s = Attempts(**provenance()), time.perf_counter()
    for i in range(number):
        for precision, case in ATTEMPTED.items():
            attempted = Attempted(case=case.id, seed=SEED + i, steps=_steps(case, SEED + i, rounds))
            wall_time_s = round(time.perf_counter() - started_s, 1)
            recording = recording.model_copy(
                update={"wall_time_s": wall_time_s, "processes": (*recording.processes, attempted)}
            )
            write(path, recording.model_dump_json())
            tell(f"{path.name}: {precision}, process {i + 1} of {number}")


def _steps(case: Case, seed: int, rounds: int) -> dict[str, AttemptSteps]:
    script = str(Path(__file__).with_name("attempted_steps.py"))
    command = (sys.executable, script, case.id, str(seed), str(rounds))
    with tempfile.TemporaryFile() as stderr:
        process = new_process(case.runtime, Source.of(ROOT), stderr, command)
        assert process.stdout is not None
        answer = process.stdout.read()
        if status := process.wait():
            stderr.seek(0)
            sys.exit(f"{script} ended with status {status}: {stderr.read().decode()[-2000:]}")
    return {name: AttemptSteps(**steps) for name, steps in json.loads(answer).items()}


def attempts_table(recording: Attempts) -> str:
    """Make the table of the attempts' times against the step as it is."""
    rows = []
    for name, attempt in ATTEMPTS.items():
        cells = (
            _cell([process.steps for process in recording.processes if process.case == case.id], name)
            for case in ATTEMPTED.values()
        )
        rows.append((attempt.what, *cells))
    return table(("attempt", *(f"{code(case.id)}: time" for case in ATTEMPTED.values())), rows)


def _cell(processes: list[dict[str, AttemptSteps]], name: str) -> str:
    if not processes or name not in processes[0]:
        return UNKNOWN
    if failure := processes[0][name].failure:
        return f"not possible: {prose(shorten(failure, _FAILURE_CHARACTERS))}"
    logs = [
        math.log(statistics.median(steps[name].step_time_ns) / statistics.median(steps[REFERENCE].step_time_ns))
        for steps in processes
    ]
    off = max(
        abs(loss / reference - 1)
        for steps in processes
        for loss, reference in zip(steps[name].losses, steps[REFERENCE].losses, strict=True)
    )
    return f"{_change(logs)}{'' if off < _SAME_LOSS else f'; losses differ by {off:.1g}'}"


def _change(logs: list[float]) -> str:
    """Return the mean of log ratios as a change, in the 95% interval of t over processes."""
    mean = statistics.fmean(logs)
    if len(logs) < 2:
        return f"{math.expm1(mean):+.1%}"
    reach = t_quantile(len(logs) - 1, 0.975) * statistics.stdev(logs) / math.sqrt(len(logs))
    value, low, high = (f"{math.expm1(log):+.1%}" for log in (mean, mean - reach, mean + reach))
    return f"{value} ({low} to {high})"
