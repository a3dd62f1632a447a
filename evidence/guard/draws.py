"""What the tables need and chance has a part in, or a minute of computing."""

from typing import Any

import other_tools
import suites
from pools import CONDITIONS, Recorded
from spread import SUMMARIES

COMPARED = (*CONDITIONS, "busy-2")
"""The pools on which the ways to sum up a pair, and lengths of pairs, are compared."""

LENGTHS = (1, 2, 3)
"""Lengths of a pair, in recorded pairs."""

NORMAL = {"as few": True, "ever new": False}
"""Simulated pairs: drawn again and again from as few as were recorded, or each of them new."""


def draw(recorded: Recorded, number: int) -> dict[str, Any]:
    """Draw this many suites of every pool; comparisons take a part. Fewer suites are the first of more."""
    pools = recorded.pools
    identical = {name: pools[name] for name in CONDITIONS if name in pools}
    compared = {name: pools[name] for name in COMPARED if name in pools}
    half, quarter, fifth = (-(-number // share) for share in (2, 4, 5))
    return {
        "digests": {name: pool.digest for name, pool in pools.items()},
        "resampled": {name: suites.drawn(pool, number) for name, pool in pools.items()},
        "in order": {name: suites.drawn(pool, number, in_order=True) for name, pool in identical.items()},
        "beside": {name: other_tools.drawn(pool, 0, number) for name, pool in pools.items()},
        "before": {name: other_tools.drawn(pool, 1, number) for name, pool in identical.items()},
        "normal": {
            name: {kind: suites.drawn_normal(pool, half, again) for kind, again in NORMAL.items()}
            for name, pool in pools.items()
        },
        "metrics": {name: suites.drawn_by_summary(pool, SUMMARIES, quarter) for name, pool in compared.items()},
        "longer": {
            name: {str(times): suites.drawn_longer(pool, times, fifth) for times in LENGTHS}
            for name, pool in compared.items()
        },
    }
