"""The recordings: each runs for minutes to hours, and keeps what it has after every round."""

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import slower
from recordings import ARMS, CASES, write

from ntp.case import Case, Runtime
from ntp.judge.guard import plan_of
from ntp.machine.system import read_machine
from ntp.records.guard import Block, GuardRecord, Pair, Plan
from ntp.runners.bench import forking
from ntp.runners.guard import SIDES, Sides, guard
from ntp.worker.driver import PipeWorker
from ntp.worker.pairs import WARM_UP_WINDOW, StartWorker, WorkerStarter, measure_pair, rounds_of
from ntp.worker.sources import Source

Tell = Callable[[str], None]

_NO_BUDGET_S = 7 * 86_400.0

_BUSY = """
import os
parent = os.getppid()
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""


@contextmanager
def neighbour(wanted: bool = True) -> Iterator[None]:
    """Another process that keeps the last CPU busy, as a neighbour on a shared machine does."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", _BUSY]) as busy:
        try:
            yield
        finally:
            busy.kill()


def record_pairs(path: Path, rounds: int, base: str, head: str, directory: Path, seed: int, tell: Tell) -> None:
    """Record so many pairs of every cell, the cells in turn: a guard's own record, without a guard's rule to stop."""
    usual = plan_of(CASES, 0.01, 300)
    plan = Plan(cases=CASES, metrics=usual.metrics, max_pairs=max(usual.max_pairs, rounds))

    def fewest_pairs(record: GuardRecord) -> str | None:
        running = [
            cell for cell in record.cases if not (cell.failure or cell.base_failure) and len(cell.pairs) < rounds
        ]
        return min(running, key=lambda cell: len(cell.pairs)).case_id if running else None

    sides = Sides(base, head, directory)
    latest = None
    with (
        forking() as bench,
        closing(guard(plan, sides, bench=bench, budget_s=_NO_BUDGET_S, seed=seed, next_case=fewest_pairs)) as records,
    ):
        try:
            for latest in records:
                if _round_done(latest):
                    write(path, latest.model_dump_json())
                    done = sum(len(cell.pairs) for cell in latest.cases)
                    tell(f"{path.name}: {done} of {rounds * len(CASES)} pairs in {latest.wall_time_s:.0f} s")
        finally:
            if latest is not None:
                write(path, latest.model_dump_json())


def _round_done(record: GuardRecord) -> bool:
    return len({len(cell.pairs) for cell in record.cases}) == 1


def record_slowdowns(
    path_of: Callable[[str], Path], names: Sequence[str], pairs: int, directory: Path, seed: int, tell: Tell
) -> None:
    """Record HEAD against each of the slowdowns of it, one after the other."""
    with slower.clone(directory) as folder:
        base = slower.git(folder, "rev-parse", "HEAD")
        for name in names:
            slower.commit(folder, name, base)
            record_pairs(path_of(name), pairs, base, name, folder, seed, tell)


def record_runs(path: Path, number: int, seed: int, directory: Path, tell: Tell) -> None:
    """Run whole guards of a clean clone against its own HEAD, as a user does."""
    runs: list[dict[str, Any]] = []
    with slower.clone(directory) as folder:
        for each in range(number):
            runs.append(_run(folder, seed + each))
            write(path, json.dumps(runs))
            tell(f"{path.name}: {each + 1} of {number}, status {runs[-1]['status']} in {runs[-1]['wall_time_s']} s")


def _run(folder: Path, seed: int) -> dict[str, Any]:
    kept = folder.parent / f"run-{seed}.json"
    command = ["ntp", "guard", "--base", "HEAD", "--order-seed", str(seed), "--out", str(kept)]
    started_s = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    record = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
    if record:
        record["command"] = command[:-2]  # where the file was is of no interest
    wall_time_s = round(time.perf_counter() - started_s, 3)
    return {"status": done.returncode, "wall_time_s": wall_time_s, "stderr": done.stderr[-500:], "record": record}


def _paired(case: Case, start: StartWorker, folder: Path, seed: int) -> Pair:
    with ExitStack() as stack:
        workers = {
            side: stack.enter_context(start(case, Source.of(folder))) for side in random.Random(seed).sample(SIDES, 2)
        }
        return measure_pair(case.id, workers, seed)


def _one_after_the_other(case: Case, start: StartWorker, folder: Path, seed: int) -> Pair:
    """As many steps as a pair has, but all of one process before the other is started."""
    blocks: list[Block] = []
    turns = steps = 0
    for side in random.Random(seed).sample(SIDES, 2):
        with start(case, Source.of(folder)) as worker:
            worker.load()
            warm = worker.warm_up(WARM_UP_WINDOW).step_time_ns
            if not turns:
                turns, steps = rounds_of(statistics.median(warm[len(warm) // 2 :]) / 1e9)
            blocks += [Block(side=side, step_time_ns=worker.run(steps).step_time_ns) for _ in range(turns)]
    return Pair(case_id=case.id, seed=seed, blocks=tuple(blocks))


def _new_interpreter(case: Case, source: Source) -> PipeWorker:
    return PipeWorker(case, source=source)


RUNTIMES: Mapping[str, dict[str, str]] = {
    "allocator=glibc": {"allocator": "glibc"},
    "wait_policy=active": {"wait_policy": "active"},
    "affinity=free": {"affinity": "free"},
}
"""Arms that set up the process otherwise."""


def measure_arm(arm: str, case: Case, starter: StartWorker, folder: Path, seed: int) -> Pair:
    """A pair of identical code in one of :data:`recordings.ARMS`."""
    if arm == "one after the other":
        return _one_after_the_other(case, starter, folder, seed)
    start = _new_interpreter if arm == "new interpreters" else starter
    runtime = Runtime(**{**case.runtime.model_dump(), **RUNTIMES.get(arm, {})})
    return _paired(Case(workload=case.workload, step=case.step, runtime=runtime), start, folder, seed)


def record_ablation(path: Path, cells: Sequence[str], pairs: int, seed: int, directory: Path, tell: Tell) -> None:
    """Record so many pairs of each cell in each arm, all arms in turn and in random order."""
    document: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": slower.git(directory, "rev-parse", "HEAD"),
        "machine": read_machine().model_dump(mode="json"),
        "pairs": [],
    }
    order = random.Random(seed)
    with slower.clone(directory) as folder, WorkerStarter() as starter:
        for number in range(pairs):
            for cell in cells:
                for arm in order.sample(ARMS, len(ARMS)):
                    pair = measure_arm(arm, Case.parse(cell), starter, folder, order.getrandbits(32))
                    document["pairs"].append({"arm": arm, "case": cell, "pair": pair.model_dump(mode="json")})
            write(path, json.dumps(document))
            tell(f"{path.name}: {number + 1} of {pairs} rounds")
