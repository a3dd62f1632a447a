"""The two charts: how often a slowdown is detected, and how pairs of identical code differed over the hours."""

import altair as alt
import error_tables
from altair.typing import ChartType
from pools import CASES, CONDITIONS, Pool, Recorded, in_order
from suites import THRESHOLD, summed_up

from ntp.judge.guard import CPU, METRICS
from ntp.report.drawing import (
    BARS_WIDTH,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    WIDTH,
    chart_of,
    colour_of,
    finished,
    names,
    svg,
    tooltip,
    value_texts,
)

_COLOURS = dict(zip(CASES, (BLUE, ORANGE, GREEN, PURPLE), strict=True))


def charts(recorded: Recorded, drawn: error_tables.Drawn) -> dict[str, str]:
    pools = recorded.pools
    texts = {f"identical-{name}.svg": svg(over_time(pools[name])) for name in CONDITIONS if name in pools}
    if recorded.slower:
        detected = {name: error_tables.detected(pool, drawn) for name, pool in recorded.slower.items()}
        texts["power.svg"] = svg(power(detected, len(next(iter(drawn["resampled"].values()))["verdicts"])))
    return texts


def over_time(pool: Pool) -> ChartType:
    log_ratios = summed_up(pool, METRICS[CPU])
    points = [
        {"minutes": ended_s / 60, "percent": 100 * log_ratios[case][i], "case": case}
        for ended_s, case, i in in_order(pool)
    ]
    most = 1.05 * max(1.5, *(abs(point["percent"]) for point in points))
    levels = [
        {"percent": 100 * level, "colour": GREY if level == 0 else VERMILLION} for level in (0, THRESHOLD, -THRESHOLD)
    ]
    share = sum(abs(point["percent"]) <= 100 * THRESHOLD for point in points) / len(points)
    return finished(
        alt.layer(
            chart_of(*levels).mark_rule().encode(alt.Y("percent:Q"), alt.Stroke("colour:N").scale(None).legend(None)),
            chart_of(*points)
            .mark_point(filled=True, size=24, opacity=0.7)
            .encode(
                alt.X("minutes:Q").title("time since the start, estimated (min)").axis(grid=False).scale(nice=False),
                alt.Y("percent:Q").title("head relative to base (%)").scale(domain=[-most, most], nice=False),
                colour_of("case", _COLOURS),
                tooltip=tooltip("case", "minutes", "percent"),
            ),
        ).properties(width=WIDTH, height=260),
        f"Pairs of identical code: {share:.0%} differ by less than {THRESHOLD:.0%}",
        f"The CPU time of a step, of {len(points)} pairs of processes ({pool.name}). Red: the threshold",
    )


def power(detected: dict[str, tuple[float, float]], suites: int) -> ChartType:
    """Draw the share of guards that detected each change, from its slowdown and this share by its name."""
    rows = [
        {"change": f"{name}: {slowdown:+.2%} CPU time", "percent": 100 * share, "text": f"{share:.1%}"}
        for name, (slowdown, share) in sorted(detected.items(), key=lambda item: item[1])
    ]
    bars = chart_of(*rows).encode(
        names("change"), alt.X("percent:Q").title("guards that detected it (%)").scale(domain=[0, 100])
    )
    return finished(
        alt.layer(
            bars.mark_bar(color=BLUE).encode(tooltip=tooltip("change", "text")), value_texts(bars, "percent")
        ).properties(width=BARS_WIDTH, height=alt.Step(24)),
        f"How often guards with a threshold of {THRESHOLD:.0%} detect a slowdown",
        f"{suites:,} guards of four cases each, resampled from recorded pairs in which all four had the change",
    )
