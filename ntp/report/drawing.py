"""What all charts share: colours, axes, legends, titles, and the way to SVG.

Vega-Lite places everything. A name stands on an axis or in a legend, and a value at the end of its bar, so that no
text can touch another.
"""

import html
import io
import textwrap
from collections.abc import Iterable
from typing import Any

import altair as alt
from altair.typing import ChartType
from altair.utils import schemapi

from ntp.errors import MachineError
from ntp.lines import one_line, shorten
from ntp.records.observations import BETWEEN_PHASES

WIDTH = 640
"""Pixels between the axes of a chart of points or lines."""

BARS_WIDTH = 400
"""Pixels between the axes of a chart of bars, which has names to its left and values to its right."""

INK, MUTED, FAINT = "#222222", "#666666", "#bbbbbb"

# Okabe and Ito, Color Universal Design (2008): any colour vision tells them apart. Its yellow is too pale on white.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#999999"

PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
"""The colours of series that have none of their own, in this order."""

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
"""They tell marks apart where the colours of :data:`PALETTE` start again."""

PHASE_COLOURS = {
    "data": PURPLE,
    "zero_grad": SKY,
    "forward": BLUE,
    "loss": ORANGE,
    "backward": GREEN,
    "optimizer": VERMILLION,
    "between phases": GREY,
}
"""Each phase has one colour in all charts. A phase that is not listed is grey."""

LOOK = alt.Config(
    background="white",
    # Fonts of equal widths: the first is built into vl-convert, the others are what browsers have.
    font="Liberation Sans, Arial, Helvetica, sans-serif",
    padding=10,
    title=alt.TitleConfig(
        anchor="start", frame="bounds", fontSize=14, subtitleFontSize=11, subtitleColor=MUTED, offset=12
    ),
    axis=alt.AxisConfig(
        gridColor="#eeeeee",
        domainColor=FAINT,
        tickColor=FAINT,
        labelColor=MUTED,
        labelFontSize=11,
        titleColor=MUTED,
        titleFontSize=11,
        titleFontWeight="normal",
    ),
    legend=alt.LegendConfig(
        labelFontSize=11,
        labelLimit=0,
        symbolType="square",
        symbolOpacity=1,
        titleFontSize=11,
        titleFontWeight="normal",
        titleLimit=0,
    ),
    view=alt.ViewConfig(stroke=None),
    text=alt.MarkConfig(fontSize=11, color=INK),
    # One text describes the chart, rather than one each of its thousand points.
    mark=alt.MarkConfig(aria=False),
)

NAMES = "truncate(datum.label, 44, 'center', '...')"
"""Vega's expression for a long name without its middle: names tend to differ at their ends."""


in_one_check = schemapi.debug_mode(False)
"""A decorator for what draws a chart: altair checks the whole chart against its schema when it is written, and not each
part as soon as it exists, which takes longer than all else on a page."""


def chart_of(*rows: dict[str, Any]) -> alt.Chart:
    """A chart of inline data, still without a mark. Every text is on one line and holds what SVG may hold."""
    clean = [
        {field: one_line(value) if isinstance(value, str) else value for field, value in row.items()} for row in rows
    ]
    return alt.Chart(alt.InlineData(values=clean))


def tooltip(*fields: str) -> list[alt.Tooltip]:
    """What a web page shows of a row under the pointer."""
    return [alt.Tooltip(f"{field}:N") for field in fields]


def names(field: str) -> alt.Y:
    """A vertical axis with one name a row, in the order of the data."""
    return alt.Y(f"{field}:N").title(None).sort(None).axis(labelLimit=0, labelExpr=NAMES)


def phase_name(phase: str) -> str:
    return "between phases" if phase == BETWEEN_PHASES else one_line(phase)


def phase_colour(phases: Iterable[str]) -> alt.Color:
    """The colours of these phases, with their legend, in the order of a step."""
    present = dict.fromkeys(phases)
    ordered = sorted(present, key=lambda phase: [*PHASE_COLOURS, phase].index(phase))
    return colour_of("phase", {phase: PHASE_COLOURS.get(phase, GREY) for phase in ordered})


def colour_of(field: str, colours: dict[str, str]) -> alt.Color:
    """The colour of each value of the field, with their legend beneath the chart."""
    legend = alt.Legend(orient="bottom", direction="horizontal", title=None)
    return (
        alt.Color(f"{field}:N")
        .scale(domain=list(colours), range=list(colours.values()))
        .legend(legend if colours else None)  # Vega finds no size for a legend of nothing
    )


def value_texts(bars: alt.Chart, ends: str) -> alt.Chart:
    """The field ``text`` of each row, to the right of where its bar ends."""
    texts: alt.Chart = bars.mark_text(align="left", dx=5).encode(alt.X(f"{ends}:Q"), alt.Text("text:N"))
    return texts


def finished(chart: ChartType, title: str, *notes: str) -> ChartType:
    """The chart with its title and notes. These are its description, too, for people who do not see it."""
    notes = tuple(note for note in notes if note)
    heading = alt.TitleParams(
        shorten(one_line(title), 80), subtitle=[line for note in notes for line in _at_most_two_lines(note)]
    )
    described: Any = chart.properties(title=heading, description=one_line(". ".join((title, *notes))) + ".")
    described.config = LOOK
    finished: ChartType = described
    return finished


def _at_most_two_lines(note: str) -> list[str]:
    return textwrap.wrap(one_line(note), width=110, max_lines=2, placeholder=" ...")


def svg(chart: ChartType) -> str:
    """The chart as an SVG document. The same chart gives the same text.

    Raises:
        MachineError: what draws it was refused files, threads or memory.
    """
    file = io.StringIO()
    try:
        chart.save(file, format="svg")
    except ValueError as error:  # the library's only kind
        raise MachineError(f"no chart can be drawn ({one_line(str(error))}): is ulimit -n too low?") from error
    # Vega keeps the description for web pages; here it goes to where screen readers look for it.
    label = html.escape(chart.description)
    return file.getvalue().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
