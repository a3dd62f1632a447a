"""The roofline: the limits of the machine, and how near a step and its operators come to them.

Source: Williams, Waterman, Patterson: Roofline, an insightful visual performance model for multicore architectures.
Communications of the ACM 52(4), 2009.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import altair as alt
from altair.typing import ChartType

from ntp.lines import one_line, shorten
from ntp.records.peaks import NOTEWORTHY_RATIO, Dtype, MachinePeaks, Product, RooflinePoint, ThreadPeaks, library_name
from ntp.report.drawing import GREY, INK, NAMES, PALETTE, SHAPES, chart_of, finished, in_one_check, tooltip
from ntp.report.units import share, significant

NAMED = 12
"""How many points have a name in the legend."""

_DTYPE_COLOURS: dict[Dtype, str] = {"fp32": INK, "bf16": GREY}
_SOLID, _DASHED, _DOTTED = (1, 0), (6, 4), (2, 3)

_LEAST, _MOST = 1e-9, 1e12
"""The range of FLOP/byte and of GFLOP/s that is shown. Points beyond it would leave no room for the others."""

_LOG = alt.Scale(type="log", nice=False, padding=12)
_TICKS = alt.Axis(
    values=[factor * 10.0**power for power in range(-9, 13) for factor in (1, 2, 5)], format="~g", grid=False
)
_X = alt.X("x:Q", title="arithmetic intensity (FLOP/byte)", scale=_LOG, axis=_TICKS)
_Y = alt.Y("y:Q", title="rate (GFLOP/s)", scale=_LOG, axis=_TICKS)


class _Limit(NamedTuple):
    """A rate that no point can exceed, or the bandwidth that leads to it."""

    label: str
    gflops: float
    colour: str
    dash: tuple[int, int] = _SOLID
    gb_per_s: float | None = None
    """None for a rate."""


@in_one_check
def roofline(peaks: ThreadPeaks | MachinePeaks, points: Sequence[tuple[str, RooflinePoint]]) -> ChartType:
    """The limits as measured, and named points beneath them, the most important first.

    Of the peaks of a whole machine, those of its fewest and its most threads are drawn. Points without bytes or
    without operations have no place on logarithmic axes: they are named beneath the title. The legend names the first
    points; the names of the others are in their tooltips alone.
    """
    by_threads = _drawn_threads(peaks)
    limits = [limit for drawn in by_threads for limit in _limits(drawn, several=len(by_threads) > 1)]
    # In the legend as they lie in the chart: the highest rate first, and the bandwidths beneath all rates.
    limits.sort(key=lambda limit: (limit.gb_per_s is not None, -(limit.gb_per_s or limit.gflops)))
    placed = [(name, point) for name, point in points if _has_a_place(point)]
    hidden = [name for name, point in points if not _has_a_place(point)]
    return finished(
        alt.layer(*_drawn_limits(limits, [point for _, point in placed]), *_drawn_points(placed))
        .resolve_scale(color="independent", shape="independent", strokeDash="independent")
        .properties(width=360, height=360),
        _title(placed),
        "Percentages are of the roof above the point. Bytes are counted as if there were no cache" if placed else "",
        "Dashed: the library that torch uses by default" if any(limit.dash == _DASHED for limit in limits) else "",
        f"Not drawn, for lack of known bytes or of operations: {', '.join(hidden)}" if hidden else "",
    )


def _has_a_place(point: RooflinePoint) -> bool:
    return all(_LEAST <= value <= _MOST for value in (point.intensity_flops_per_byte or 0, _gflops(point)))


def _gflops(point: RooflinePoint) -> float:
    return point.achieved_flops_per_s / 1e9


def _title(placed: Sequence[tuple[str, RooflinePoint]]) -> str:
    if not placed:
        return "What this machine can compute at most"
    name, point = placed[0]
    return (
        f"{shorten(one_line(name), 32)}: {significant(_gflops(point))} GFLOP/s, "
        f"{share(point.share_of_roof)} of its roof, {point.bound}-bound"
    )


def _drawn_threads(peaks: ThreadPeaks | MachinePeaks) -> list[ThreadPeaks]:
    if isinstance(peaks, ThreadPeaks):
        return [peaks]
    ordered = sorted(peaks.by_threads, key=lambda threads: threads.setting.threads)
    return ordered if len(ordered) <= 2 else [ordered[0], ordered[-1]]


def _limits(peaks: ThreadPeaks, *, several: bool) -> Iterator[_Limit]:
    """For each dtype, the best library and, where it is noteworthily slower, torch's default; then the bandwidth."""
    threads = peaks.setting.threads
    suffix = f", {threads} thread{'' if threads == 1 else 's'}" if several else ""
    for dtype, colour in _DTYPE_COLOURS.items():
        products = [product for product in peaks.products if product.dtype == dtype and product.route != "medium"]
        if not products:
            continue
        best = max(products, key=_rate)
        yield _Limit(f"{_product_text(best)}{suffix}", _rate(best), colour)
        default = max((product for product in products if product.route == "default"), key=_rate, default=None)
        if default and _rate(default) * NOTEWORTHY_RATIO <= _rate(best):
            yield _Limit(f"{_product_text(default)}{suffix}", _rate(default), colour, _DASHED)
    rates = [rate for dtype in _DTYPE_COLOURS if (rate := peaks.peak_flops_per_s(dtype))]
    if peaks.bandwidth_bytes_per_s is not None and rates:
        gb_per_s = peaks.bandwidth_bytes_per_s / 1e9
        yield _Limit(f"{significant(gb_per_s)} GB/s{suffix}", max(rates) / 1e9, INK, _DOTTED, gb_per_s)


def _rate(product: Product) -> float:
    return product.best_flops_per_s / 1e9


def _product_text(product: Product) -> str:
    return f"{significant(_rate(product))} GFLOP/s {product.dtype} {shorten(library_name(product.library), 12)}"


def _drawn_limits(limits: Sequence[_Limit], points: Sequence[RooflinePoint]) -> Iterator[alt.Chart]:
    """A rate begins where it meets the steepest bandwidth. At least a decade of each bandwidth is shown."""
    if not limits:
        return
    ridges = [limit.gflops / limit.gb_per_s for limit in limits if limit.gb_per_s]
    intensities = [point.intensity_flops_per_byte or 0 for point in points]
    low = min((*(ridge / 12 for ridge in ridges), *(intensity / 3 for intensity in intensities)), default=0.1)
    high = 3 * max((*ridges, *intensities), default=1.0)
    steepest = max((limit.gb_per_s for limit in limits if limit.gb_per_s), default=None)
    rows = []
    for limit in limits:
        slope = limit.gb_per_s
        left = low if slope or not steepest else limit.gflops / steepest
        right = limit.gflops / slope if slope else high
        bottom = left * slope if slope else limit.gflops
        rows.append({"x": left, "x2": right, "y": bottom, "y2": limit.gflops, "limit": limit.label})
    labels = [one_line(limit.label) for limit in limits]
    legend = alt.Legend(title="Limits", symbolType="stroke", symbolSize=250, symbolStrokeWidth=2)
    lines = chart_of(*rows).mark_rule(strokeWidth=2).encode(_X, _Y, alt.X2("x2:Q"), alt.Y2("y2:Q"))
    yield lines.encode(
        alt.Color("limit:N").scale(domain=labels, range=[limit.colour for limit in limits]).legend(legend),
        alt.StrokeDash("limit:N").scale(domain=labels, range=[list(limit.dash) for limit in limits]).legend(legend),
        tooltip=tooltip("limit"),
    )


def _drawn_points(placed: Sequence[tuple[str, RooflinePoint]]) -> Iterator[alt.Chart]:
    """The first is the one that the chart is about: it is black."""
    if not placed:
        return
    rows = [
        {
            "x": point.intensity_flops_per_byte,
            "y": _gflops(point),
            "name": name,
            "label": f"{name} {share(point.share_of_roof)}" if number < NAMED else f"{len(placed) - NAMED} others",
            "rate": f"{significant(_gflops(point))} GFLOP/s",
            "share": share(point.share_of_roof),
        }
        for number, (name, point) in enumerate(placed)
    ]
    legend = alt.Legend(title="Reached (share of the roof)", labelExpr=NAMES)
    marks = chart_of(*rows).mark_point(filled=True, size=90, opacity=0.9).encode(_X, _Y)
    yield marks.encode(
        alt.Color("label:N").sort(None).scale(range=[INK, *PALETTE]).legend(legend),
        alt.Shape("label:N").sort(None).scale(range=list(SHAPES)).legend(legend),
        tooltip=tooltip("name", "rate", "share"),
    )
