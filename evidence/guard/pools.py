"""The recordings in memory: pairs of two sides, whole guards, and the arms of an ablation.

A folder holds compressed JSON files, whose names say what they are:

    identical-quiet.json.gz      many pairs of a commit and itself, with nothing else running
    identical-later.json.gz      the same, hours later
    identical-neighbour.json.gz  the same beside a busy process
    slower-NAME.json.gz          many pairs of a commit and a slower one
    runs-quiet.json.gz           whole guards of identical code, as a user runs them; or runs-neighbour.json.gz
    ablation.json.gz             pairs of identical code, measured in other ways
    pausing-CASE.json.gz         what it costs to pause a worker, and pairs whose idle side is left running
    policies.json.gz             pairs under each of OpenMP's wait policies
    instructions.json.gz         the instructions of a small step, of identical code and of four changes
    peer.json.gz                 comparisons by benchmatrix, really run
    drawn.json.gz                what ``tables`` drew at random from all these
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from recordings import REPORTS, read

from ntp.judge.counts import Change, changes
from ntp.records.pairs import Counts, Pair, SideName
from ntp.runners.guard import default_cases

FOLDER = REPORTS / "guard"

CASES = tuple(case.id for case in default_cases("simple", (1, 2)))
"""A small step and a large one, on one thread and on two: the cases of every recording, and a guard's own."""

CONDITIONS = {
    "quiet": "nothing else running",
    "later": "nothing else running, hours later",
    "neighbour": "a busy process beside it",
}
"""Identical code was recorded under these conditions."""

ARMS = ("as it is", "in turn", "in blocks", "one after the other")
"""Arms of the ablation: pairs as a guard measures them, and pairs with one thing changed."""

OTHERS = ("policies", "instructions", "peer")
"""Recordings of one file each."""

SIDES: tuple[SideName, SideName] = ("base", "head")

SPINNING = "simple-b8-s64-t2-active"
"""A case whose threads spin while they wait."""


@dataclass(frozen=True, eq=False)
class Pool:
    name: str
    pairs: dict[str, tuple[Pair, ...]]
    """By case, in the order in which they were taken. The cases alternated."""
    pair_s: dict[str, float]
    """What a pair of each case cost on average, in seconds, its share of the counting included."""
    changes: tuple[Change, ...]
    """What the head does more or less often, in any case."""
    facts: dict[str, Any]
    """Everything else in the file: when, where, on which commits."""
    digest: str
    """A digest of the file, to tell what was drawn from it from what was drawn from another."""

    @property
    def rounds(self) -> int:
        """The number of pairs that every case has."""
        return min(len(pairs) for pairs in self.pairs.values())


class Arm(NamedTuple):
    """The pairs of one case in one arm, and what each cost on average, in seconds."""

    pairs: tuple[Pair, ...]
    pair_s: float


class Recorded(NamedTuple):
    pools: dict[str, Pool]
    """Identical code by the condition, slower code by the name of what slows it."""
    runs: dict[str, list[dict[str, Any]]]
    """Whole guards by condition: ``status``, ``wall_time_s`` and the ``record`` that they wrote."""
    ablation: dict[str, dict[str, Arm]]
    """By arm and case."""
    ablation_facts: dict[str, Any]
    """Everything else in the ablation's file, as :attr:`Pool.facts`."""
    pausing: dict[str, dict[str, Any]]
    """What was recorded of pausing, by file."""
    policies: dict[str, Any]
    """Pairs under each wait policy. This and what follows is empty where it was not recorded."""
    instructions: dict[str, Any]
    peer: dict[str, Any]

    @property
    def slower(self) -> dict[str, Pool]:
        return {name: pool for name, pool in self.pools.items() if name not in CONDITIONS}


def path_of(kind: str, name: str, folder: Path = FOLDER) -> Path:
    return folder / f"{kind}-{name}.json.gz"


def load(folder: Path = FOLDER) -> Recorded:
    identical = [path for name in CONDITIONS if (path := path_of("identical", name, folder)).exists()]
    pools = {}
    for path in (*identical, *sorted(folder.glob("slower-*.json.gz"), key=_natural)):
        name = path.name.split("-", 1)[1].removesuffix(".json.gz")
        pool = pool_of(name, json.loads(read(path)), hashlib.sha256(path.read_bytes()).hexdigest())
        if pool.rounds > 1:  # one that was interrupted at once tells nothing
            pools[name] = pool
    runs = {name: json.loads(read(path)) for name in CONDITIONS if (path := path_of("runs", name, folder)).exists()}
    ablation, *others = (_document(folder / f"{kind}.json.gz") for kind in ("ablation", *OTHERS))
    pausing = {path.name: json.loads(read(path)) for path in sorted(folder.glob("pausing-*.json.gz"))}
    return Recorded(pools, runs, _arms(ablation.pop("pairs")) if ablation else {}, ablation, pausing, *others)


def _document(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(read(path)) if path.exists() else {}
    return document


def _arms(entries: Iterable[dict[str, Any]]) -> dict[str, dict[str, Arm]]:
    of_arms: dict[str, dict[str, list[dict[str, Any]]]] = {arm: {} for arm in ARMS}
    for entry in entries:
        of_arms[entry["arm"]].setdefault(entry["case"], []).append(entry)
    return {
        arm: {
            case: Arm(
                tuple(Pair.model_validate(one["pair"]) for one in of_case), fmean(one["pair_s"] for one in of_case)
            )
            for case, of_case in sorted(by_case.items(), key=lambda item: CASES.index(item[0]))
        }
        for arm, by_case in of_arms.items()
        if by_case
    }


def _natural(path: Path) -> list[tuple[float, str]]:
    """Sort by numbers as numbers, so that 10 comes after 2."""
    parts = path.name.removesuffix(".json.gz").split("-")
    return [(float(part) if part.replace(".", "").isdigit() else 0.0, part) for part in parts]


def pool_of(name: str, document: dict[str, Any], digest: str = "") -> Pool:
    cases = document["cases"]
    return Pool(
        name=name,
        pairs={case["case_id"]: tuple(map(Pair.model_validate, case["pairs"])) for case in cases},
        pair_s={case["case_id"]: case["wall_time_s"] / max(1, len(case["pairs"])) for case in cases},
        changes=tuple(dict.fromkeys(change for case in cases for change in _changes(case))),
        facts={key: value for key, value in document.items() if key != "cases"},
        digest=digest,
    )


def _changes(case: dict[str, Any]) -> Iterable[Change]:
    sides = [case.get(side) for side in ("base", "head")]
    return changes(*map(Counts.model_validate, sides)) if all(sides) else ()


def in_order(pool: Pool) -> list[tuple[float, str, int]]:
    """Return about when each pair ended, in seconds from the start, with its case and its number within the case.

    No file says when a pair was taken, but the cases alternated, and the pairs of a case cost much the same.
    """
    ended, elapsed_s = [], 0.0
    for row in zip_longest(*([(case, i) for i in range(len(pairs))] for case, pairs in pool.pairs.items())):
        for case, i in filter(None, row):
            elapsed_s += pool.pair_s[case]
            ended.append((elapsed_s, case, i))
    return ended
