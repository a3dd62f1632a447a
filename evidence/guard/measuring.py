"""The recordings: each runs for minutes to hours, and keeps what it has after every round."""

import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import slower
from pools import ARMS, CASES
from recordings import ROOT, SEED, Provenance, provenance, tell, write

from ntp.case import Case
from ntp.judge.guard import plan_of
from ntp.records.guard import GuardRecord
from ntp.records.pairs import Block, Pair, SideName
from ntp.runners.bench import forking
from ntp.runners.guard import SIDES, Sides, guard
from ntp.worker.alike_pairs import MIN_ROUNDS, STEPS_S, WARM_UP_STEPS, cpus_for_both, measure_alike
from ntp.worker.pairs import StartWorker, WorkerStarter, measure_pair
from ntp.worker.protocol import Ran
from ntp.worker.sources import Source

_BLOCK_S = 0.05
_NO_BUDGET_S = 7 * 86_400.0


def record_pairs(path: Path, rounds: int, base: str = "HEAD", head: str = "HEAD", directory: Path = ROOT) -> None:
    """Record pairs of every case, alternating between cases: a guard's own record, without a guard's rule to stop."""
    usual = plan_of(CASES, 0.01, 300)
    plan = usual.model_copy(update={"max_pairs": max(usual.max_pairs, rounds)})

    def fewest_pairs(record: GuardRecord) -> str | None:
        cases = (case for case in record.cases if not (case.failure or case.base_failure) and len(case.pairs) < rounds)
        fewest = min(cases, key=lambda case: len(case.pairs), default=None)
        return fewest and fewest.case_id

    sides = Sides(base, head, directory)
    latest = None
    with (
        forking() as bench,
        closing(guard(plan, sides, bench=bench, budget_s=_NO_BUDGET_S, seed=SEED, next_case=fewest_pairs)) as records,
    ):
        try:
            for latest in records:
                if len({len(case.pairs) for case in latest.cases}) == 1:
                    write(path, latest.model_dump_json())
                    done = sum(len(case.pairs) for case in latest.cases)
                    tell(f"{path.name}: {done} of {rounds * len(CASES)} pairs in {latest.wall_time_s:.0f} s")
        finally:
            if latest is not None:
                write(path, latest.model_dump_json())


def record_slowdowns(paths: Mapping[str, Path], pairs: int) -> None:
    with slower.clone(ROOT) as folder:
        base = slower.git(folder, "rev-parse", "HEAD")
        for name, path in paths.items():
            slower.commit(folder, name, base)
            record_pairs(path, pairs, base, name, folder)


def record_runs(path: Path, number: int) -> None:
    runs: list[dict[str, Any]] = []
    with slower.clone(ROOT) as folder:
        for done in range(1, number + 1):
            runs.append(_run(folder, SEED + done - 1))
            write(path, json.dumps(runs))
            tell(f"{path.name}: {done} of {number}, status {runs[-1]['status']} in {runs[-1]['wall_time_s']} s")


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


def _one_after_the_other(case: Case, start: StartWorker, folder: Path, seed: int) -> Pair:
    """Measure as many steps as a pair has, but all of one process before the other is started."""
    blocks: list[Block] = []
    rounds = 0
    for side in random.Random(seed).sample(SIDES, 2):
        with start(case, Source.of(folder)) as worker:
            worker.load()
            step_s = min(worker.warm_up(WARM_UP_STEPS).step_time_ns) / 1e9
            rounds = rounds or max(MIN_ROUNDS, math.ceil(STEPS_S / (2 * step_s)))
            blocks += [_block(side, worker.run(1)) for _ in range(rounds)]
    return Pair(case_id=case.id, seed=seed, blocks=tuple(blocks))


def _block(side: SideName, ran: Ran) -> Block:
    return Block(side=side, step_time_ns=ran.step_time_ns, step_cpu_ns=ran.step_cpu_ns)


def measure_arm(arm: str, case: Case, starter: StartWorker, folder: Path, seed: int) -> Pair:
    if arm == "one after the other":
        return _one_after_the_other(case, starter, folder, seed)
    source = Source.of(folder)
    with ExitStack() as stack:
        workers = {side: stack.enter_context(starter(case, source)) for side in random.Random(seed).sample(SIDES, 2)}
        if arm == "in blocks":
            return measure_pair(case.id, workers, seed, STEPS_S, _BLOCK_S)
        return measure_alike(case, workers, seed, cpus=cpus_for_both(case), at_once=arm != "in turn")


def record_ablation(path: Path, pairs: int) -> None:
    """Record pairs of each case in each arm, alternating between the arms in random order."""
    document = Provenance(**provenance()).model_dump(mode="json")
    pairs_by_arm: list[dict[str, Any]] = []
    order, started_s = random.Random(SEED), time.perf_counter()
    with slower.clone(ROOT) as folder, WorkerStarter() as starter:
        for number in range(pairs):
            for case in CASES:
                for arm in order.sample(ARMS, len(ARMS)):
                    pair_started_s = time.perf_counter()
                    pair = measure_arm(arm, Case.parse(case), starter, folder, order.getrandbits(32))
                    pair_s = round(time.perf_counter() - pair_started_s, 3)
                    entry = {"arm": arm, "case": case, "pair_s": pair_s}
                    pairs_by_arm.append({**entry, "pair": pair.model_dump(mode="json")})
            document["wall_time_s"] = round(time.perf_counter() - started_s, 1)
            write(path, json.dumps({**document, "pairs": pairs_by_arm}))
            tell(f"{path.name}: {number + 1} of {pairs} rounds")
