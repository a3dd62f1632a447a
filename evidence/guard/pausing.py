"""What pausing the idle side of a pair costs, and what it is worth where threads spin while they wait."""

import json
import math
import random
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pools import SIDES
from recordings import ROOT, SEED, Provenance, provenance, seconds, tell, write
from spread import deviation

from ntp.case import Case
from ntp.judge.guard import METRICS
from ntp.records.pairs import Pair
from ntp.report.markup import code, table
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import ForkServer
from ntp.worker.pairs import measure_pair
from ntp.worker.sources import Source

PAIR_S, BLOCK_S = 1.0, 0.05
"""Seconds of steps in a pair, on both sides together, and in a block of one side."""

REQUESTS, BLOCKS, BLOCK_STEPS = 200, 40, 8

IDLE_S = 0.003
"""Seconds for which a worker is left idle before each request: it is stopped by then."""

ARMS = ("paused", "running")
"""The idle worker is paused, or left running."""


class LeftRunning(PipeWorker):
    """A worker whose threads go on spinning between requests."""

    def pause(self) -> None:
        pass


def record(path: Path, case: Case, pairs: int) -> None:
    """Record the costs of pausing a worker of the case, then pairs of identical code in both arms and lone workers."""
    order, started_s = random.Random(SEED), time.perf_counter()
    document = Provenance(**provenance()).model_dump(mode="json") | {"case": case.id}
    medians_ns: list[float] = []
    recorded: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    with ForkServer(case.runtime) as server:
        kinds = {"paused": PipeWorker, "running": LeftRunning}

        def start(arm: str) -> PipeWorker:
            return kinds[arm](case, source=Source.of(ROOT), launch=server.launch)

        drawing = case.model_copy(update={"workload": case.workload.model_copy(update={"part": "data"})})
        with start("paused") as worker, PipeWorker(drawing, source=Source.of(ROOT), launch=server.launch) as light:
            for prepared in (light, worker):
                prepared.load()
                prepared.warm_up()
                prepared.pause()
            document["costs"] = _costs(worker, light, order)
        for number in range(pairs):
            for arm in order.sample((*ARMS, "alone"), 3):
                if arm == "alone":
                    with start("paused") as worker:
                        medians_ns.append(_alone_ns(worker))
                    continue
                with ExitStack() as stack:
                    workers = {side: stack.enter_context(start(arm)) for side in SIDES}
                    pair = measure_pair(case.id, workers, order.getrandbits(32), PAIR_S, BLOCK_S)  # type: ignore[arg-type]
                recorded[arm].append(pair.model_dump(mode="json"))
            document["wall_time_s"] = round(time.perf_counter() - started_s, 1)
            write(path, json.dumps({**document, "alone_ns": medians_ns, "pairs": recorded}))
            tell(f"{path.name}: {number + 1} of {pairs} rounds")


def _alone_ns(worker: PipeWorker) -> float:
    """Return the median step of a worker beside which there is no other, in as many steps as a side of a pair has."""
    worker.load()
    warm = worker.warm_up().step_time_ns
    step_s = statistics.median(warm[len(warm) // 2 :]) / 1e9
    return statistics.median(worker.run(math.ceil(PAIR_S / 2 / step_s)).step_time_ns)


def _costs(worker: PipeWorker, light: PipeWorker, order: random.Random) -> dict[str, Any]:
    """Time requests and blocks of steps, each of which follows a pause or does not, in random order.

    The requests go to a worker whose step is next to nothing: it draws a batch of tokens.
    """
    pause_ns: list[int] = []
    answer_ns: dict[str, list[int]] = {arm: [] for arm in ARMS}
    steps_ns: dict[str, list[tuple[int, ...]]] = {arm: [] for arm in ARMS}

    def idle(idler: PipeWorker, arm: str) -> None:
        started_ns = time.perf_counter_ns()
        if arm == "paused":
            idler.pause()
            pause_ns.append(time.perf_counter_ns() - started_ns)
        time.sleep(IDLE_S)

    for _ in range(REQUESTS):
        for arm in order.sample(ARMS, 2):
            idle(light, arm)
            started_ns = time.perf_counter_ns()
            light.run(1)
            answer_ns[arm].append(time.perf_counter_ns() - started_ns)
    light.pause()
    for _ in range(BLOCKS):
        for arm in order.sample(ARMS, 2):
            idle(worker, arm)
            steps_ns[arm].append(worker.run(BLOCK_STEPS).step_time_ns)
    return {"pause_ns": pause_ns, "answer_ns": answer_ns, "steps_ns": steps_ns}


def costs(document: dict[str, Any]) -> str:
    """Make the table of what pausing costs."""
    taken = document["costs"]
    answers = {arm: statistics.median(taken["answer_ns"][arm]) for arm in ARMS}
    firsts = {arm: statistics.median(steps[0] for steps in taken["steps_ns"][arm]) for arm in ARMS}
    laters = {arm: statistics.median(ns for steps in taken["steps_ns"][arm] for ns in steps[1:]) for arm in ARMS}
    rows = [("pausing, as the parent sees it", seconds(statistics.median(taken["pause_ns"]) / 1e9), "-")]
    for what, values in (
        ("a request that draws a batch of tokens, and its answer", answers),
        ("the first step of a block", firsts),
        ("the later steps of a block", laters),
    ):
        rows.append((what, *(seconds(values[arm] / 1e9) for arm in ARMS)))
    return table(("median", "after a pause", "without one"), rows)


def worth(document: dict[str, Any]) -> str:
    """Make the table of what pausing is worth: the step times of pairs in both arms against those of lone workers."""
    alone_ns = statistics.median(document["alone_ns"])
    rows = [("alone", str(len(document["alone_ns"])), seconds(alone_ns / 1e9), "1.00", "-")]
    for arm in ARMS:
        pairs = [Pair.model_validate(pair) for pair in document["pairs"][arm]]
        level_ns = statistics.median(statistics.median(pair.samples(side)) for pair in pairs for side in SIDES)
        sd = deviation([METRICS["rounds"](pair) for pair in pairs])
        spread = f"{sd.value:.2%} ({sd.low:.2%} to {sd.high:.2%})"
        name = f"in pairs, the idle side {'paused' if arm == 'paused' else 'left running'}"
        rows.append((name, str(len(pairs)), seconds(level_ns / 1e9), f"{level_ns / alone_ns:.2f}", spread))
    headers = (code(document["case"]), "processes or pairs", "step", "against alone", "standard deviation of a pair")
    return table(headers, rows)


ON_PAUSING = """\
The requests and blocks of the first table, with a pause before them and without, came in random order. The second
compares median steps with those of lone workers, which ran in turn with the pairs; the standard deviation is that of
the log-ratio of a pair of identical code, in its 95% interval."""
