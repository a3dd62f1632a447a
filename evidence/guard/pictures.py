"""The two charts: how often a slowdown is found, and what identical code looked like over the hours."""

from typing import Any

import altair as alt
import error_tables
from recordings import CASES, CONDITIONS, Pool, Recorded, in_order
from suites import THRESHOLD, summed_up

from ntp.judge.guard import METRICS, TYPICAL
from ntp.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    VERMILLION,
    Axis,
    Plane,
    finished,
    raw_colour,
    svg,
    tooltip,
)
from ntp.report.placing import WIDTH, Box, Spot, beside

_COLOURS = dict(zip(CASES, (BLUE, ORANGE, GREEN, PURPLE), strict=True))
_DOT_PX = 8


def charts(recorded: Recorded, drawn: error_tables.Drawn) -> dict[str, str]:
    """All charts that what was recorded allows, as SVG by the name of their file."""
    pools = recorded.pools
    texts = {f"identical-{name}.svg": svg(over_time(pools[name])) for name in CONDITIONS if name in pools}
    if recorded.slower:
        found = {name: error_tables.found(pool, drawn) for name, pool in recorded.slower.items()}
        texts["power.svg"] = svg(power(found, error_tables.suites_of(drawn)))
    return texts


def over_time(pool: Pool) -> alt.LayerChart:
    """The log-ratio of every pair, in the order in which they were taken."""
    log_ratios = summed_up(pool, METRICS[TYPICAL])
    points = [{"x": ended_s / 60, "y": 100 * log_ratios[cell][i], "case": cell} for ended_s, cell, i in in_order(pool)]
    most = max(1.5, *(abs(point["y"]) for point in points))
    plane = Plane(Axis(0, points[-1]["x"], WIDTH), Axis(-1.05 * most, 1.05 * most, 260))
    colour = alt.Color("cell:N").scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    dots = plane.marks(*points).mark_point(filled=True, size=24, opacity=0.7)
    share = sum(abs(point["y"]) <= 100 * THRESHOLD for point in points) / len(points)
    return finished(
        [
            _rules(plane, 0.0).mark_rule(color=GREY),
            _rules(plane, 100 * THRESHOLD, -100 * THRESHOLD).mark_rule(color=VERMILLION),
            dots.encode(
                alt.X("x:Q").scale(plane.x.scale).title("minutes from the start, about").axis(grid=False),
                alt.Y("y:Q").scale(plane.y.scale).title("head against base (%)"),
                color=colour.legend(alt.Legend(orient="bottom", direction="horizontal", title=None)),
                tooltip=tooltip("case", "x", "y"),
            ),
        ],
        plane,
        f"Pairs of identical code: {share:.0%} differ by less than {THRESHOLD:.0%}",
        f"The typical step ({TYPICAL}) of {len(points)} pairs of processes, {pool.name}; red: the threshold",
    )


def _rules(plane: Plane, *heights: float) -> alt.Chart:
    # Coloured by their mark: a colour of the data would take the dots' legend away.
    return plane.marks(*({"x": 0, "x2": plane.x.high, "y": height, "y2": height} for height in heights), ends=True)


def power(found: dict[str, tuple[float, float]], suites: int) -> alt.LayerChart:
    """By name of what slows the step: its slowdown, a share, and the share of the suites that found it."""
    most = max(slowdown for slowdown, _ in found.values())
    plane = Plane(Axis(min(0.0, *(100 * each for each, _ in found.values())), 105 * most, WIDTH), Axis(0, 105, 260))
    points = [
        {"x": 100 * slowdown, "y": 100 * share, "name": name, "colour": BLUE if name.startswith("busy") else ORANGE}
        for name, (slowdown, share) in sorted(found.items(), key=lambda each: each[1])
    ]
    line = [point for point in points if point["name"].startswith("busy")]
    dots = plane.marks(*points).mark_point(filled=True, size=60, opacity=1)
    layers = [
        dots.encode(
            alt.X("x:Q").scale(plane.x.scale).title("slowdown of the typical step (%)").axis(tickCount=10),
            alt.Y("y:Q").scale(plane.y.scale).title("guards that found it (%)"),
            color=raw_colour(),
            tooltip=tooltip("name", "x", "y"),
        ),
        *plane.texts(list(_names(plane, points)), align="left", halo=True),
    ]
    if len(line) > 1:
        layers.insert(0, plane.marks(*line).mark_line(color=BLUE, strokeWidth=1.5))
    return finished(
        layers,
        plane,
        f"How often a slowdown is found, where {THRESHOLD:.0%} is allowed",
        f"{suites:,} guards of four cases, each resampled from the pairs of a real slowdown of all four",
    )


def _names(plane: Plane, points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    spots = [Spot(point["name"], plane.x.px(point["x"]), plane.y.px(point["y"])) for point in points]
    dots = [Box(spot.x_px - _DOT_PX / 2, spot.y_px, _DOT_PX, _DOT_PX) for spot in spots]
    boxes = beside(spots, dots, (), plane.x.length_px, plane.y.length_px)
    return [
        plane.spot(box.left_px, box.middle_px, text=spot.text, colour=INK)
        for spot, box in zip(spots, boxes, strict=True)
    ]
