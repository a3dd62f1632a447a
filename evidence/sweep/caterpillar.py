"""A chart of intervals: the ratio of two sweeps of identical code for each case, from the smallest to the largest."""

import math
from collections.abc import Iterable

import altair as alt
from altair.typing import ChartType

from ntp.judge.statistics import Interval
from ntp.report.drawing import BLUE, GREY, VERMILLION, WIDTH, chart_of, colour_of, finished

_MOST = 60.0
"""Percent beyond which an interval is cut off."""

_COLOURS = {"holds 1": BLUE, "excludes 1": VERMILLION}


def caterpillar(ratios: Iterable[Interval], title: str, note: str) -> ChartType:
    """Draw the intervals side by side. Red ones are wrong: the code was the same."""
    rows = []
    for place, (value, low, high) in enumerate(sorted(ratios)):
        rows.append(
            {
                "place": place,
                "percent": _cut(value),
                "low": _cut(low),
                "high": _cut(high),
                "interval": list(_COLOURS)[low > 1 or high < 1],
            }
        )
    wrong = sum(row["interval"] == "excludes 1" for row in rows)
    x = alt.X("place:Q").title(None).axis(None).scale(domain=[-1, len(rows)], nice=False)
    colour = colour_of("interval", _COLOURS)
    intervals = chart_of(*rows)
    return finished(
        alt.layer(
            chart_of({"percent": 0}).mark_rule(color=GREY).encode(alt.Y("percent:Q")),
            intervals.mark_rule(strokeWidth=1.5).encode(
                x,
                alt.Y("low:Q").title("one sweep relative to the other (%)").scale(domain=[-_MOST, _MOST], nice=False),
                alt.Y2("high"),
                colour,
            ),
            intervals.mark_point(filled=True, size=9, opacity=1).encode(x, alt.Y("percent:Q"), colour),
        ).properties(width=WIDTH, height=240),
        f"{title}: {wrong} of {len(rows)} intervals exclude 1",
        note,
    )


def _cut(ratio: float) -> float:
    """Turn a ratio into percent, within what the chart shows."""
    return max(-_MOST, min(100 * (ratio - 1), _MOST)) if math.isfinite(ratio) else _MOST
