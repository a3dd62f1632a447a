"""What OpenMP's wait policy does to pairs of several threads: their noise, and how +2% reads on each clock.

The CPU time of the main thread leaves out waiting only where idle threads sleep. Where they spin it contains the
waiting; where they sleep, the steps of small transformers take nearly twice as long as a user's own.
"""

import json
import math
import random
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean, median
from typing import Any

import slower
from neighbour import neighbour
from noise_tables import spread_and_power
from pools import SIDES
from recordings import ROOT, SEED, Provenance, provenance, seconds, tell, write
from spread import mean_of_cases

from ntp.case import Case
from ntp.judge.guard import CPU, METRICS, WALL
from ntp.records.pairs import Pair
from ntp.report.markup import code, table
from ntp.worker.alike_pairs import cpus_for_both, measure_alike
from ntp.worker.pairs import WorkerStarter
from ntp.worker.sources import Source

CASES = ("simple-b8-s64-t2", "simple-b32-s128-t2", "examples/transformer.py:small-b8-s64-t2")
POLICIES = ("unset", "passive")
IDENTICAL, SLOWER, BESIDE = "identical", "busy-2", "neighbour"
"""The kinds of pairs: of identical code, of a head that is 2% slower, of identical code beside a busy process."""


def record(path: Path, rounds: int) -> None:
    """Record pairs of each case and kind under each policy, in random order."""
    document = Provenance(**provenance()).model_dump(mode="json")
    recorded: list[dict[str, Any]] = []
    order, started_s = random.Random(SEED), time.perf_counter()
    with slower.clone(ROOT) as identical, slower.clone(ROOT) as changed, WorkerStarter() as starter:
        slower.commit(changed, SLOWER, slower.git(changed, "rev-parse", "HEAD"))
        heads = {IDENTICAL: identical, SLOWER: changed, BESIDE: identical}
        arms = [(case, policy, head) for case in CASES for policy in POLICIES for head in heads]
        for number in range(rounds):
            for case_id, policy, head in order.sample(arms, len(arms)):
                case = Case.parse(case_id)
                case = case.model_copy(update={"runtime": case.runtime.model_copy(update={"wait_policy": policy})})
                pair_started_s = time.perf_counter()
                with ExitStack() as stack:
                    stack.enter_context(neighbour(head == BESIDE))
                    workers = {
                        side: stack.enter_context(
                            starter(case, Source.of(heads[head] if side == "head" else identical))
                        )
                        for side in SIDES
                    }
                    pair = measure_alike(case, workers, order.getrandbits(32), cpus=cpus_for_both(case))
                pair_s = round(time.perf_counter() - pair_started_s, 3)
                entry = {"case": case_id, "policy": policy, "head": head, "pair_s": pair_s}
                recorded.append({**entry, "pair": pair.model_dump(mode="json")})
            document["wall_time_s"] = round(time.perf_counter() - started_s, 1)
            write(path, json.dumps({**document, "pairs": recorded}))
            tell(f"{path.name}: {number + 1} of {rounds} rounds")


def policies(document: dict[str, Any]) -> str:
    """Make the table of each policy's step time, noise, and readings."""
    rows = []
    for case in CASES:
        for policy in POLICIES:
            of = [entry for entry in document["pairs"] if (entry["case"], entry["policy"]) == (case, policy)]
            pairs = {
                head: [Pair.model_validate(entry["pair"]) for entry in of if entry["head"] == head]
                for head in (IDENTICAL, SLOWER, BESIDE)
            }
            if min(map(len, pairs.values())) > 1:
                pair_s = {head: fmean(entry["pair_s"] for entry in of if entry["head"] == head) for head in pairs}
                rows.append(_row(case, policy, pairs, pair_s))
    headers = ("case", "policy", "pairs", "step", *(f"{what}, {clock}" for clock in (CPU, WALL) for what in _WHAT))
    return table(headers, rows)


_WHAT = ("spread", "power", "power beside a neighbour", "+2% reads")


def _row(case: str, policy: str, pairs: dict[str, list[Pair]], pair_s: dict[str, float]) -> tuple[str, ...]:
    step_s = median(time_ns for pair in pairs[IDENTICAL] for time_ns in pair.samples("base")) / 1e9
    cells = []
    for clock in (CPU, WALL):
        mean, low, high = map(math.expm1, mean_of_cases([list(map(METRICS[clock], pairs[SLOWER]))]))
        cells += [
            *spread_and_power(pairs[IDENTICAL], clock, pair_s[IDENTICAL]),
            spread_and_power(pairs[BESIDE], clock, pair_s[BESIDE])[1],
            f"{mean:+.2%} ({low:+.2%} to {high:+.2%})",
        ]
    return (code(case), policy, str(len(pairs[IDENTICAL])), seconds(step_s), *cells)


ON_POLICIES = """\
Pairs of each case under each of OpenMP's wait policies came in random order. *Spread* is the standard deviation of a
pair's log-ratio of identical code, in its 95% interval; *power* is that in percent, times the square root of the
seconds that a pair takes: the less, the sooner a guard is done. The last column of each clock is how a head that spins
for 2% of every step reads, in its 95% interval. A neighbour is a busy process on the last CPU. (*passive*: idle threads
sleep at once; *unset*: they spin for a moment first.)"""
