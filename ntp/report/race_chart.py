"""The chart of a race: how long each contestant takes, relative to the first."""

from collections.abc import Mapping

import altair as alt
from altair.typing import ChartType

from ntp.judge.statistics import Interval
from ntp.report.drawing import BARS_WIDTH, BLUE, INK, chart_of, finished, in_one_check, names, tooltip


@in_one_check
def ratios(first: str, of_others: Mapping[str, Interval]) -> ChartType:
    """The ratio of each of the others to the first, with its interval: a row each, in their order.

    Args:
        first: the name of the first.
        of_others: at least one.
    """
    rows = [
        {"contestant": name, "ratio": value, "low": low, "high": high, "text": f"{value:.3f} ({low:.3f} to {high:.3f})"}
        for name, (value, low, high) in of_others.items()
    ]
    ends = [
        min(1.0, *(ratio.low for ratio in of_others.values())) * 0.97,
        max(1.0, *(ratio.high for ratio in of_others.values())) * 1.03,
    ]
    base = chart_of(*rows).encode(names("contestant"))
    one = chart_of({"ratio": 1}).mark_rule(color=INK, strokeDash=[4, 3]).encode(x="ratio:Q")
    dots = base.mark_point(filled=True, size=60, opacity=1, color=BLUE).encode(
        alt.X("ratio:Q").title(f"time per token, relative to {first}").scale(type="log", domain=ends, nice=False),
        tooltip=tooltip("contestant", "text"),
    )
    bars = base.mark_rule(strokeWidth=2, color=BLUE).encode(alt.X("low:Q"), alt.X2("high:Q"))
    return finished(
        alt.layer(one, bars, dots).properties(width=BARS_WIDTH, height=alt.Step(22)),
        f"{first} against {'the others' if len(rows) > 1 else rows[0]['contestant']}",
        f"Right of the dashed line: slower than {first}. Bars: the intervals that decide",
    )
