"""All that the tables need and that chance, or a minute of reckoning, has a part in."""

from typing import Any

import other_tools
import suites
from recordings import CONDITIONS, Recorded
from spread import SUMMARIES

COMPARED = (*CONDITIONS, "busy-2")
"""The pools by which the statistics of a pair are compared."""

_COMPARED_SHARE = 4
"""One in so many of the suites is enough for that: there are ten statistics."""

LENGTHS = (1, 2, 3)
"""Of a pair, in those that were recorded."""

_LENGTHS_SHARE = 5
"""One in so many of the suites is enough to compare them."""

NORMAL = {"as few": True, "ever new": False}
"""Simulated pairs: drawn again and again from as few as were recorded, or each of them new."""

_NORMAL_SHARE = 2
"""One in so many of the suites is enough for the comparison."""


def draw(recorded: Recorded, number: int) -> dict[str, Any]:
    """So many suites of every pool. Of fewer suites, the same ones from the first on."""
    pools = recorded.pools
    identical = {name: pools[name] for name in CONDITIONS if name in pools}
    compared = {name: pools[name] for name in COMPARED if name in pools}
    return {
        "digests": {name: pool.digest for name, pool in pools.items()},
        "resampled": {name: suites.drawn(pool, number) for name, pool in pools.items()},
        "in order": {name: suites.drawn_in_order(pool, number) for name, pool in identical.items()},
        "beside": {name: other_tools.drawn(pool, 0, number) for name, pool in pools.items()},
        "before": {name: other_tools.drawn(pool, 1, number) for name, pool in identical.items()},
        "normal": {
            name: {
                kind: suites.drawn_normal(pool, -(-number // _NORMAL_SHARE), again) for kind, again in NORMAL.items()
            }
            for name, pool in pools.items()
        },
        "statistics": {
            name: suites.drawn_by_statistic(pool, SUMMARIES, -(-number // _COMPARED_SHARE))
            for name, pool in compared.items()
        },
        "longer": {
            name: {str(times): suites.drawn_longer(pool, times, -(-number // _LENGTHS_SHARE)) for times in LENGTHS}
            for name, pool in compared.items()
        },
    }


def first(drawn: Any, number: int) -> Any:
    """What :func:`draw` gives for fewer suites, cut out of what it gave for more."""
    return {
        "digests": drawn["digests"],
        **{key: _cut(drawn[key], number) for key in ("resampled", "in order", "beside", "before")},
        "normal": _cut(drawn["normal"], -(-number // _NORMAL_SHARE)),
        "statistics": _cut(drawn["statistics"], -(-number // _COMPARED_SHARE)),
        "longer": _cut(drawn["longer"], -(-number // _LENGTHS_SHARE)),
    }


def _cut(value: Any, number: int) -> Any:
    """Every text and list within, from its start."""
    return {key: _cut(each, number) for key, each in value.items()} if isinstance(value, dict) else value[:number]
