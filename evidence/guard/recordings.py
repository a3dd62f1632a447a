"""What was recorded, as files and in memory: pairs of two sides, whole guards, and the arms of an ablation.

Everything is kept as compressed JSON, under names that say what it is:

    identical-quiet.json.gz      many pairs of a commit and itself, nothing else running
    identical-neighbour.json.gz  the same, a busy process beside it
    slower-NAME.json.gz          many pairs of a commit and a slower one
    runs-quiet.json.gz           whole guards of identical code, as a user runs them; or runs-neighbour.json.gz
    ablation.json.gz             pairs of identical code, measured in other ways
    drawn.json.gz                what ``tables`` drew at random from all these
"""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from ntp.judge.counts import Change, changes
from ntp.records.guard import Counts, Pair

FOLDER = Path(__file__).parents[2] / "reports/guard"

CASES = ("simple-b8-s64-t1", "simple-b8-s64-t2", "simple-b32-s128-t1", "simple-b32-s128-t2")
"""A small step and a large one, on one thread and on two: the cases of every recording."""

CONDITIONS = ("quiet", "neighbour")
"""Under which identical code was recorded: nothing else running, or a busy process on the last CPU."""


ARMS = (
    "as it is",
    "allocator=glibc",
    "wait_policy=active",
    "affinity=free",
    "one after the other",
    "new interpreters",
)
"""Of the ablation: pairs as a guard measures them, and with one thing changed each."""


@dataclass(frozen=True, eq=False)
class Pool:
    """All pairs of one recording."""

    name: str
    pairs: dict[str, tuple[Pair, ...]]
    """By cell, in the order in which they were taken. The cells took turns."""
    pair_s: dict[str, float]
    """What a pair of each cell cost on average, in seconds, its share of the counting included."""
    changes: tuple[Change, ...]
    """What the head does more often, or less, in any cell."""
    facts: dict[str, Any]
    """All else that the file says: when, where, on which commits."""
    digest: str
    """Of the file, so that what was drawn from it can be told from what was drawn from another."""

    @property
    def rounds(self) -> int:
        """Pairs that every cell has."""
        return min(len(pairs) for pairs in self.pairs.values())


class Recorded(NamedTuple):
    """All that a folder holds. What was not recorded is not there."""

    pools: dict[str, Pool]
    """Of identical code by the condition, of slower code by the name of what slows it."""
    runs: dict[str, list[dict[str, Any]]]
    """Whole guards by condition: ``status``, ``wall_time_s`` and the ``record`` that they wrote."""
    ablation: dict[str, dict[str, tuple[Pair, ...]]]
    """Pairs by arm and cell."""
    ablation_facts: dict[str, Any]
    """All else that the ablation's file says, as :attr:`Pool.facts`."""

    @property
    def slower(self) -> dict[str, Pool]:
        """The pools of slower code."""
        return {name: pool for name, pool in self.pools.items() if name not in CONDITIONS}


def path_of(kind: str, name: str, folder: Path = FOLDER) -> Path:
    """Where a recording is kept."""
    return folder / f"{kind}-{name}.json.gz"


def write(path: Path, text: str) -> None:
    """Write a compressed file whole or not at all. The same text gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-part")
    part.write_bytes(gzip.compress(text.encode(), mtime=0))
    os.replace(part, path)


def read(path: Path) -> Any:
    """The document in a compressed file."""
    return json.loads(gzip.decompress(path.read_bytes()))


def load(folder: Path = FOLDER) -> Recorded:
    """Read all that the folder holds."""
    pools = {}
    for path in _found(folder, "identical-*", CONDITIONS) + _found(folder, "slower-*"):
        name = path.name.split("-", 1)[1].removesuffix(".json.gz")
        pool = pool_of(name, read(path), hashlib.sha256(path.read_bytes()).hexdigest())
        if pool.rounds > 1:  # one that was interrupted at once tells nothing
            pools[name] = pool
    runs = {name: read(path) for name in CONDITIONS if (path := path_of("runs", name, folder)).exists()}
    path = folder / "ablation.json.gz"
    ablation = read(path) if path.exists() else {}
    return Recorded(pools, runs, _arms(ablation.pop("pairs")) if ablation else {}, ablation)


def _arms(entries: Iterable[dict[str, Any]]) -> dict[str, dict[str, tuple[Pair, ...]]]:
    arms: dict[str, dict[str, tuple[Pair, ...]]] = {arm: {} for arm in ARMS}
    for entry in entries:
        arm, cell = arms[entry["arm"]], entry["case"]
        arm[cell] = (*arm.get(cell, ()), Pair.model_validate(entry["pair"]))
    return arms


def _found(folder: Path, pattern: str, order: Sequence[str] = ()) -> list[Path]:
    paths = sorted(folder.glob(f"{pattern}.json.gz"), key=lambda path: [_number(part) for part in path.stem.split("-")])
    ranks = {f"identical-{name}.json.gz": rank for rank, name in enumerate(order)}
    return sorted(paths, key=lambda path: ranks.get(path.name, len(ranks)))


def _number(part: str) -> tuple[int, str]:
    """So that 10 comes after 2."""
    return (int("".join(filter(str.isdigit, part)) or 0), part)


def pool_of(name: str, document: dict[str, Any], digest: str = "") -> Pool:
    """A pool from a guard's record, as JSON has it."""
    cells = document["cases"]
    found = dict.fromkeys(change for cell in cells for change in _changes(cell))
    return Pool(
        name=name,
        pairs={cell["case_id"]: tuple(map(Pair.model_validate, cell["pairs"])) for cell in cells},
        pair_s={cell["case_id"]: cell["wall_time_s"] / max(1, len(cell["pairs"])) for cell in cells},
        changes=tuple(found),
        facts={key: value for key, value in document.items() if key != "cases"},
        digest=digest,
    )


def _changes(cell: dict[str, Any]) -> Iterable[Change]:
    sides = [cell.get(side) for side in ("base", "head")]
    if not all(sides):
        return ()
    return changes(*map(Counts.model_validate, sides))


def in_order(pool: Pool) -> list[tuple[float, str, int]]:
    """For every pair about when it ended, in seconds from the start, its cell and its number within it.

    No file says when each pair was taken, but the cells took turns, and the pairs of a cell cost much the same.
    """
    ended, elapsed_s = [], 0.0
    for row in zip_longest(*([(cell, i) for i in range(len(pairs))] for cell, pairs in pool.pairs.items())):
        for cell, i in filter(None, row):
            elapsed_s += pool.pair_s[cell]
            ended.append((elapsed_s, cell, i))
    return ended
