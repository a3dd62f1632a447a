"""What all charts share: colours, axes, texts on them, and the way to SVG and PNG."""

import html
import io
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import altair as alt
from altair.typing import ChartType

from ntp.errors import MachineError
from ntp.lines import one_line
from ntp.records.observations import BETWEEN_PHASES
from ntp.report.placing import ROW_PX, SWATCH_PX, TEXT_PX, WIDTH, Label, printable, shortened

INK, MUTED, FAINT = "#222222", "#666666", "#bbbbbb"

# Okabe and Ito, Color Universal Design (2008): told apart with any colour vision. Without its yellow, which white eats.
BLUE, SKY, GREEN, ORANGE = "#0072B2", "#56B4E9", "#009E73", "#E69F00"
VERMILLION, PURPLE, GREY = "#D55E00", "#CC79A7", "#999999"

PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY)
"""For what has no colour of its own, in this order."""

PHASE_COLOURS = {
    "data": PURPLE,
    "zero_grad": SKY,
    "forward": BLUE,
    "loss": ORANGE,
    "backward": GREEN,
    "optimizer": VERMILLION,
    BETWEEN_PHASES: GREY,
}
"""Each phase has one colour in all charts. One that is not listed is grey."""

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
"""Fonts of equal widths: the first is built into vl-convert, the others are what browsers have."""


LOOK = alt.Config(
    background="white",
    font=FONT,
    padding=10,
    title=alt.TitleConfig(
        anchor="start", frame="bounds", fontSize=14, subtitleFontSize=TEXT_PX, subtitleColor=MUTED, offset=12
    ),
    axis=alt.AxisConfig(
        gridColor="#eeeeee",
        domainColor=FAINT,
        tickColor=FAINT,
        labelColor=MUTED,
        labelFontSize=TEXT_PX,
        titleColor=MUTED,
        titleFontSize=TEXT_PX,
        titleFontWeight="normal",
    ),
    legend=alt.LegendConfig(labelFontSize=TEXT_PX, symbolType="square"),
    view=alt.ViewConfig(stroke=None),
    text=alt.MarkConfig(fontSize=TEXT_PX, color=INK),
    # One text describes the chart, rather than one each of its thousand points.
    mark=alt.MarkConfig(aria=False),
)


class Axis(NamedTuple):
    """From values to pixels and back: from the left, or from the bottom."""

    low: float
    high: float
    length_px: float
    log: bool = False

    def px(self, value: float) -> float:
        """Where a value lies."""
        return (self._linear(value) - self._linear(self.low)) / self._span * self.length_px

    def at(self, px: float) -> float:
        """Which value lies there; also beyond the ends."""
        linear = self._linear(self.low) + px / self.length_px * self._span
        return 10.0**linear if self.log else linear

    @property
    def scale(self) -> alt.Scale:
        """Just as reckoned: Vega is not to round the ends."""
        return alt.Scale(type="log" if self.log else "linear", domain=[self.low, self.high], nice=False, zero=False)

    @property
    def _span(self) -> float:
        return self._linear(self.high) - self._linear(self.low)

    def _linear(self, value: float) -> float:
        return math.log10(value) if self.log else value


def ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily on the colour. Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "#000000"


def chart_of(*rows: dict[str, Any]) -> alt.Chart:
    """A chart of inline data, still without a mark."""
    clean = [
        {name: printable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    ]
    return alt.Chart(alt.InlineData(values=clean))


def raw_colour(field: str = "colour") -> alt.Color:
    """The field holds the colour itself."""
    return alt.Color(f"{field}:N").scale(None).legend(None)


def tooltip(*fields: str) -> list[alt.Tooltip]:
    """What a web page shows of a row under the pointer."""
    return [alt.Tooltip(f"{field}:N") for field in fields]


class Plane(NamedTuple):
    """Two axes, and what is drawn on them. Fields of the data have the names of what they say: x, y, x2, text..."""

    x: Axis
    y: Axis

    def marks(self, *rows: dict[str, Any], ends: bool = False) -> alt.Chart:
        """A layer for the rows, still without its mark; ``ends`` says that they have an x2 and a y2 too."""
        chart = chart_of(*rows).encode(alt.X("x:Q").scale(self.x.scale), alt.Y("y:Q").scale(self.y.scale))
        return chart.encode(alt.X2("x2:Q"), alt.Y2("y2:Q")) if ends else chart

    def spot(self, x_px: float, y_px: float, **fields: object) -> dict[str, Any]:
        """A row of data at a place in pixels, from the left and from the bottom."""
        return {"x": self.x.at(x_px), "y": self.y.at(y_px), **fields}

    def texts(self, spots: Sequence[dict[str, Any]], *, halo: bool = False, **look: Any) -> Iterator[alt.Chart]:
        """Texts, each in the colour of its row, ``halo`` keeping lines off them. No layer where there are none."""
        if spots:
            look = {"baseline": "middle"} | look
            if halo:
                yield self.marks(*spots).mark_text(**look, stroke="white", strokeWidth=3).encode(alt.Text("text:N"))
            yield self.marks(*spots).mark_text(**look).encode(alt.Text("text:N"), raw_colour())

    def labels(self, labels: Iterable[Label], top_px: float) -> Iterator[alt.Chart]:
        """The rows of labels, from there downwards."""
        swatches, texts = [], []
        for label in labels:
            left_px, y_px = label.centre_px - label.width_px / 2, top_px - ROW_PX * (label.row + 0.5)
            if label.colour:
                swatches.append(self.spot(left_px + 5, y_px, colour=label.colour))
                left_px += SWATCH_PX
            texts.append(self.spot(left_px, y_px, text=label.text, colour=INK))
        if swatches:
            square = self.marks(*swatches).mark_point(shape="square", filled=True, size=70, opacity=1)
            yield square.encode(color=raw_colour())
        yield from self.texts(texts, align="left")


def finished(layers: Sequence[alt.Chart], plane: Plane, title: str, *notes: str, unseen: str = "") -> alt.LayerChart:
    """The layers as one chart. Title and notes are its description too, for those who don't see it, and then what
    those who do can read in the chart itself.
    """
    notes = tuple(note for note in notes if note)
    heading = alt.TitleParams(shortened(title, size_px=14), subtitle=[line for note in notes for line in _lines(note)])
    return alt.LayerChart(
        layer=list(layers),
        width=plane.x.length_px,
        height=plane.y.length_px,
        title=heading,
        description=printable(". ".join(filter(None, (title, *notes, unseen)))) + ".",
        config=LOOK,
    )


def _lines(note: str) -> list[str]:
    """Two at most."""
    return textwrap.wrap(printable(note), width=int(WIDTH / TEXT_PX * 2), max_lines=2, placeholder=" …")


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


def png(chart: alt.LayerChart, scale: float = 2) -> bytes:
    """The chart as a PNG image, ``scale`` times as many pixels each way. The same chart gives the same bytes."""
    file = io.BytesIO()
    chart.save(file, format="png", scale_factor=scale)
    return file.getvalue()
