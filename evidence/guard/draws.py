"""What the tables need and chance has a part in, or a minute of computing."""

from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from typing import Any

import other_tools
import suites
from pools import CONDITIONS, Pool, Recorded
from spread import SUMMARIES

COMPARED = (*CONDITIONS, "busy-2")
"""The pools on which the ways to sum up a pair, and lengths of pairs, are compared."""

WIDE_WALL_THRESHOLD, LONG_BUDGET_S = 0.12, 600.0
"""Guards beside a neighbour are drawn with this ``--wall-threshold`` and ``--budget``, too."""

LENGTHS = (1, 2, 3)
"""Lengths of a pair, in recorded pairs."""

NORMAL = {"as few": True, "ever new": False}
"""Simulated pairs: drawn again and again from as few as were recorded, or each of them new."""


def draw(recorded: Recorded, number: int) -> dict[str, Any]:
    """Draw this many suites of every pool; comparisons take a part. Fewer suites are the first of more."""
    pools = recorded.pools
    with ProcessPoolExecutor() as processes:
        of_pools = dict(zip(pools, processes.map(_of_pool, pools.values(), repeat(number)), strict=True))
    return {kind: {name: drawn[kind] for name, drawn in of_pools.items() if kind in drawn} for kind in KINDS}


KINDS = ("digests", "resampled", "in order", "wide", "beside", "before", "normal", "metrics", "longer")


def _of_pool(pool: Pool, number: int) -> dict[str, Any]:
    """Draw every kind that there is of a pool."""
    half, quarter, fifth = (-(-number // share) for share in (2, 4, 5))
    drawn = {
        "digests": pool.digest,
        "resampled": suites.drawn(pool, number),
        "beside": other_tools.drawn(pool, 0, number),
        "normal": {kind: suites.drawn_normal(pool, half, again) for kind, again in NORMAL.items()},
    }
    if pool.name in CONDITIONS:
        drawn |= {
            "in order": suites.drawn(pool, number, in_order=True),
            "before": other_tools.drawn(pool, 1, number),
        }
    if pool.name == "neighbour":
        drawn["wide"] = suites.drawn(pool, number, wall_threshold=WIDE_WALL_THRESHOLD, budget_s=LONG_BUDGET_S)
    if pool.name in COMPARED:
        drawn |= {
            "metrics": suites.drawn_by_summary(pool, SUMMARIES, quarter),
            "longer": {str(times): suites.drawn_longer(pool, times, fifth) for times in LENGTHS},
        }
    return drawn
