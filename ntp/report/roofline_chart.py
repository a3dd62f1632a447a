"""The roofline: what the machine can do at most, and where a step and its operators lie beneath it.

Source: Williams, Waterman, Patterson: Roofline, an insightful visual performance model for multicore architectures.
Communications of the ACM 52(4), 2009.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import altair as alt

from ntp.records.peaks import NOTEWORTHY_RATIO, Dtype, MachinePeaks, Product, RooflinePoint, ThreadPeaks, library_name
from ntp.report.drawing import BLUE, FAINT, INK, MUTED, VERMILLION, Axis, Plane, finished, raw_colour, tooltip
from ntp.report.placing import WIDTH, Box, Spot, beside, shortened, spread, text_width_px
from ntp.report.units import share, significant

LABELLED = 8
"""How many points have their names beside them."""

_DTYPE_COLOURS: dict[Dtype, str] = {"fp32": BLUE, "bf16": VERMILLION}
_HEIGHT = 360
_NAME_PX = 120
"""Room for a name to the right of all points."""

_LEAST, _MOST = 1e-9, 1e12
"""FLOP/byte and GFLOP/s that are shown. What lies beyond would leave no room for the rest."""


class _Roof(NamedTuple):
    """A rate that no point can exceed."""

    gflops: float
    label: str
    dtype: Dtype
    best: bool
    """Or else what torch's own choice of library reaches."""


class _Slope(NamedTuple):
    """A bandwidth, and the highest roof that it leads to."""

    gb_per_s: float
    label: str
    summit_gflops: float

    @property
    def ridge(self) -> float:
        """The intensity where the slope ends, in operations per byte."""
        return self.summit_gflops / self.gb_per_s


class _Dot(NamedTuple):
    """A point that has a place in the chart."""

    name: str
    intensity: float
    gflops: float
    point: RooflinePoint

    @property
    def label(self) -> str:
        """Its name, and how near it is to its roof."""
        return f"{shortened(self.name, 180)} {share(self.point.share_of_roof)}"


def roofline(peaks: ThreadPeaks | MachinePeaks, points: Sequence[tuple[str, RooflinePoint]]) -> alt.LayerChart:
    """The roofs as measured, and named points beneath them, the most important first.

    Of the peaks of a whole machine those of its fewest and its most threads are drawn. Points without bytes or
    without operations have no place on axes of logarithms: they are named beneath the title. So that the chart stays
    readable, the first eight points have their names beside them.
    """
    by_threads = _drawn_threads(peaks)
    roofs = [roof for each in by_threads for roof in _roofs(each, several=len(by_threads) > 1)]
    slopes = [slope for each in by_threads if (slope := _slope(each, several=len(by_threads) > 1))]
    dots = [dot for name, point in points if (dot := _dot(name, point))]
    margin_px = max((text_width_px(roof.label) for roof in roofs), default=0) + 24
    plane = _plane(roofs, slopes, dots, WIDTH - margin_px)
    shown = {dot.name for dot in dots}
    hidden = [name for name, _ in points if name not in shown]
    return finished(
        [
            *_drawn_slopes(slopes, plane),
            *_drawn_roofs(roofs, slopes, plane),
            *_drawn_dots(dots, _lines(roofs, slopes, plane), plane),
        ],
        plane,
        _title(dots),
        "Percentages: of the roof above the point. Bytes are counted as if no cache held any" if dots else "",
        "Dashed: the library that torch takes by default" if not all(roof.best for roof in roofs) else "",
        f"Without a place here, for lack of known bytes or of operations: {', '.join(hidden)}" if hidden else "",
    )


def _title(dots: Sequence[_Dot]) -> str:
    if not dots:
        return "What this machine can compute at most"
    first = dots[0]
    return (
        f"{shortened(first.name, 200)}: {significant(first.gflops)} GFLOP/s, {share(first.point.share_of_roof)} of its "
        f"roof, {first.point.bound}-bound"
    )


def _drawn_threads(peaks: ThreadPeaks | MachinePeaks) -> list[ThreadPeaks]:
    if isinstance(peaks, ThreadPeaks):
        return [peaks]
    ordered = sorted(peaks.by_threads, key=lambda each: each.setting.threads)
    return ordered if len(ordered) <= 2 else [ordered[0], ordered[-1]]


def _threads_text(peaks: ThreadPeaks) -> str:
    threads = peaks.setting.threads
    return f"{threads} thread{'' if threads == 1 else 's'}"


def _roofs(peaks: ThreadPeaks, *, several: bool) -> Iterator[_Roof]:
    """For each dtype the best library and, where that is noteworthily slower, the one that torch takes."""
    suffix = f", {_threads_text(peaks)}" if several else ""
    for dtype in _DTYPE_COLOURS:
        products = [each for each in peaks.products if each.dtype == dtype and each.route != "medium"]
        if not products:
            continue
        best = max(products, key=_rate)
        yield _Roof(_rate(best) / 1e9, f"{_roof_text(best)}{suffix}", dtype, best=True)
        default = max((each for each in products if each.route == "default"), key=_rate, default=None)
        if default and _rate(default) * NOTEWORTHY_RATIO <= _rate(best):
            yield _Roof(_rate(default) / 1e9, f"{_roof_text(default)}{suffix}", dtype, best=False)


def _rate(product: Product) -> float:
    return product.best_flops_per_s


def _roof_text(product: Product) -> str:
    library = shortened(library_name(product.library), 80)
    return f"{significant(_rate(product) / 1e9)} GFLOP/s {product.dtype} {library}"


def _slope(peaks: ThreadPeaks, *, several: bool) -> _Slope | None:
    rates = [rate for dtype in _DTYPE_COLOURS if (rate := peaks.peak_flops_per_s(dtype))]
    if peaks.bandwidth_bytes_per_s is None or not rates:
        return None
    gb_per_s = peaks.bandwidth_bytes_per_s / 1e9
    text = f"{significant(gb_per_s)} GB/s{f', {_threads_text(peaks)}' if several else ''}"
    return _Slope(gb_per_s, text, max(rates) / 1e9)


def _dot(name: str, point: RooflinePoint) -> _Dot | None:
    """None where the point has no place on axes of logarithms."""
    intensity, gflops = point.intensity_flops_per_byte, point.achieved_flops_per_s / 1e9
    if not intensity or not all(_LEAST <= value <= _MOST for value in (intensity, gflops)):
        return None
    return _Dot(name, intensity, gflops, point)


def _plane(roofs: Sequence[_Roof], slopes: Sequence[_Slope], dots: Sequence[_Dot], width_px: float) -> Plane:
    ridges = [slope.ridge for slope in slopes]
    intensities = [*ridges, *(dot.intensity for dot in dots)] or [1.0]
    rates = [*(roof.gflops for roof in roofs), *(dot.gflops for dot in dots)] or [1.0]
    # A decade of the slope at least is seen, and to the right of all points there is room for their names.
    low = min([*(dot.intensity / 3 for dot in dots), *(ridge / 12 for ridge in ridges), min(intensities) / 4])
    share_of_width = 1 - _NAME_PX / width_px
    return Plane(
        Axis(low, low * (max(intensities) / low) ** (1 / share_of_width), width_px, log=True),
        Axis(
            min([min(rates) / 3, *(slope.gb_per_s * low * 1.5 for slope in slopes)]),
            max(rates) * 1.6,
            _HEIGHT,
            log=True,
        ),
    )


def _drawn_slopes(slopes: Sequence[_Slope], plane: Plane) -> Iterator[alt.Chart]:
    """Each with its bandwidth written along it."""
    if not slopes:
        return
    starts = [max(plane.x.low, plane.y.low / slope.gb_per_s) for slope in slopes]
    rows = [
        {"x": start, "x2": slope.ridge, "y": start * slope.gb_per_s, "y2": slope.summit_gflops}
        for start, slope in zip(starts, slopes, strict=True)
    ]
    yield plane.marks(*rows, ends=True).mark_rule(color=INK, strokeWidth=1.5)
    # A decade is as long on either axis as it is, and so the slope has its angle on paper alone.
    right_px = plane.x.px(slopes[0].ridge) - plane.x.px(starts[0])
    up_px = plane.y.px(slopes[0].summit_gflops) - plane.y.px(starts[0] * slopes[0].gb_per_s)
    texts: list[alt.Chart] = []
    for number, (start, slope) in enumerate(zip(starts, slopes, strict=True)):
        # Of two slopes that lie near each other, the upper one is named above, the lower one beneath.
        above = slope.gb_per_s == max(each.gb_per_s for each in slopes) and number == len(slopes) - 1
        middle = math.sqrt(start * slope.ridge)
        place = {"x": middle, "y": middle * slope.gb_per_s, "text": slope.label, "colour": INK}
        texts += plane.texts([place], angle=-math.degrees(math.atan2(up_px, right_px)) % 360, dy=-8 if above else 9)
    yield from texts


def _drawn_roofs(roofs: Sequence[_Roof], slopes: Sequence[_Slope], plane: Plane) -> Iterator[alt.Chart]:
    """Each with its rate and its library to the right of it."""
    if not roofs:
        return
    steepest = max((slope.gb_per_s for slope in slopes), default=None)
    rows = [
        {
            "x": max(plane.x.low, roof.gflops / steepest) if steepest else plane.x.low,
            "x2": plane.x.high,
            "y": roof.gflops,
            "y2": roof.gflops,
            "colour": _DTYPE_COLOURS[roof.dtype],
            "roof": roof.label,
        }
        for roof in roofs
    ]
    for best, dash in ((True, [1, 0]), (False, [5, 4])):
        some = [row for row, roof in zip(rows, roofs, strict=True) if roof.best == best]
        if some:
            rules = plane.marks(*some, ends=True).mark_rule(strokeWidth=2, strokeDash=dash)
            yield rules.encode(color=raw_colour(), tooltip=tooltip("roof"))
    levels_px = spread([plane.y.px(roof.gflops) for roof in roofs])
    right_px = plane.x.length_px
    ties = [
        {**plane.spot(right_px, plane.y.px(roof.gflops)), "x2": plane.x.at(right_px + 8), "y2": plane.y.at(level_px)}
        | {"colour": _DTYPE_COLOURS[roof.dtype]}
        for roof, level_px in zip(roofs, levels_px, strict=True)
    ]
    yield plane.marks(*ties, ends=True).mark_rule().encode(color=raw_colour())
    yield from plane.texts(
        [
            plane.spot(right_px + 11, level_px, text=roof.label, colour=INK)
            for roof, level_px in zip(roofs, levels_px, strict=True)
        ],
        align="left",
    )


def _drawn_dots(dots: Sequence[_Dot], lines: Iterator[Box], plane: Plane) -> Iterator[alt.Chart]:
    """The first is the one that the chart is about, and larger."""
    rows = [
        {"x": dot.intensity, "y": dot.gflops, "name": dot.name, "colour": INK if number == 0 else MUTED}
        | {"rate": f"{significant(dot.gflops)} GFLOP/s", "share": share(dot.point.share_of_roof)}
        | {"size": 110 if number == 0 else 50}
        for number, dot in enumerate(dots)
    ]
    spots = (Spot(dot.label, plane.x.px(dot.intensity), plane.y.px(dot.gflops)) for dot in dots[:LABELLED])
    points = (Box(plane.x.px(dot.intensity) - 6, plane.y.px(dot.gflops), 12, 10) for dot in dots)
    boxes = beside(spots, points, lines, plane.x.length_px, plane.y.length_px)
    ties = [
        {"x": dot.intensity, "y": dot.gflops, "x2": plane.x.at(box.tie_px), "y2": plane.y.at(box.middle_px)}
        for dot, box in zip(dots, boxes, strict=False)
    ]
    yield plane.marks(*ties, ends=True).mark_rule(color=FAINT)
    circles = plane.marks(*rows).mark_point(filled=True, opacity=0.9)
    yield circles.encode(
        alt.X("x:Q").scale(plane.x.scale).title("arithmetic intensity (FLOP/byte)").axis(_decades(plane.x)),
        alt.Y("y:Q").scale(plane.y.scale).title("rate (GFLOP/s)").axis(_decades(plane.y)),
        alt.Size("size:Q").scale(None).legend(None),
        color=raw_colour(),
        tooltip=tooltip("name", "rate", "share"),
    )
    yield from plane.texts(
        [
            plane.spot(box.left_px, box.middle_px, text=dot.label, colour=INK)
            for dot, box in zip(dots, boxes, strict=False)
        ],
        halo=True,
        align="left",
    )


def _decades(axis: Axis) -> alt.Axis:
    """A number at every power of ten; at every other where there are many, and at 2 and 5 times it where few."""
    first, last = math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high))
    factors = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
    powers = range(first, last + 1, max(1, (last - first) // 8))
    values = [factor * 10.0**power for power in powers for factor in factors]
    return alt.Axis(values=[value for value in values if axis.low <= value <= axis.high], format=",~g")


def _lines(roofs: Sequence[_Roof], slopes: Sequence[_Slope], plane: Plane) -> Iterator[Box]:
    """What labels should keep off. A slope, with the room for its own name, is a chain of small squares."""
    for roof in roofs:
        yield Box(0, plane.y.px(roof.gflops), plane.x.length_px, 2)
    for slope in slopes:
        for x_px in range(0, int(plane.x.px(slope.ridge)), 8):
            yield Box(x_px - 6, plane.y.px(plane.x.at(x_px) * slope.gb_per_s), 12, 12)
