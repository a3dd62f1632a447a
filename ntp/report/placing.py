"""Where texts go in a chart, reckoned in pixels before anything is drawn: nobody moves labels that collide later."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

WIDTH = 640
"""Pixels of a chart, axis labels not counted where these come on top of it."""

TEXT_PX = 11
ROW_PX = 14
"""From one line of text to the next."""

SWATCH_PX = 13
"""From the left of a swatch to the text that it belongs to."""


class Label(NamedTuple):
    """A text among others, with a swatch of its colour before it where it has one."""

    text: str
    centre_px: float
    colour: str | None = None
    row: int = 0

    @property
    def width_px(self) -> float:
        """Of text and swatch."""
        return text_width_px(self.text) + (SWATCH_PX if self.colour else 0)


def in_rows(labels: Iterable[Label], length_px: float = WIDTH) -> list[Label]:
    """The labels moved so that none leaves the chart and none covers another: a little to the right, or a row on."""
    placed: list[Label] = []
    for label in labels:
        half_px = label.width_px / 2
        last_px = max(half_px, length_px - half_px)
        wanted_px = min(max(label.centre_px, half_px), last_px)
        for row in range(len(placed) + 1):
            centre_px = _free_px(wanted_px, half_px, [other for other in placed if other.row == row])
            if centre_px - wanted_px <= label.width_px and centre_px <= last_px:
                break
        placed.append(label._replace(centre_px=centre_px, row=row))
    return placed


def _free_px(centre_px: float, half_px: float, others: Iterable[Label]) -> float:
    """The first place from there on to the right that none of the others needs."""
    for other in sorted(others, key=lambda each: each.centre_px):
        apart_px = half_px + other.width_px / 2 + TEXT_PX / 2
        if abs(centre_px - other.centre_px) < apart_px:
            centre_px = other.centre_px + apart_px
    return centre_px


def height_of(labels: Iterable[Label]) -> float:
    """Of all rows of labels."""
    return ROW_PX * max((label.row + 1 for label in labels), default=0)


def spread(places_px: Sequence[float], gap_px: float = ROW_PX) -> list[float]:
    """The places, pushed apart to the gap at least, in the same order and as near to where they were as can be."""
    order = sorted(range(len(places_px)), key=lambda index: places_px[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        # Groups that touch are centred together on where their members wanted to be.
        while len(groups) > 1 and _start(groups[-1], places_px, gap_px) < _end(groups[-2], places_px, gap_px) + gap_px:
            last = groups.pop()
            groups[-1] += last
    moved = dict.fromkeys(order, 0.0)
    for group in groups:
        start = _start(group, places_px, gap_px)
        moved |= {index: start + number * gap_px for number, index in enumerate(group)}
    return [moved[index] for index in range(len(places_px))]


def _start(group: Sequence[int], places_px: Sequence[float], gap_px: float) -> float:
    middle = math.fsum(places_px[index] for index in group) / len(group)
    return middle - gap_px * (len(group) - 1) / 2


def _end(group: Sequence[int], places_px: Sequence[float], gap_px: float) -> float:
    return _start(group, places_px, gap_px) + gap_px * (len(group) - 1)


def text_width_px(text: str, size_px: float = TEXT_PX) -> float:
    """About as wide as the text will be, rather more than less."""
    return len(text) * size_px * 0.56


def shortened(text: str, width_px: float = WIDTH, size_px: float = TEXT_PX) -> str:
    """On one line, without its middle where it is too long: names tend to differ at their ends."""
    line = printable(text)
    most = max(3, int(width_px / text_width_px("x", size_px)))
    if len(line) <= most:
        return line
    head = (most - 1) // 2
    return f"{line[:head]}…{line[len(line) - (most - 1 - head) :]}"


def printable(text: str) -> str:
    """On one line, and without what an SVG document may not hold."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


class Spot(NamedTuple):
    """A point that is to have a text beside it."""

    text: str
    x_px: float
    y_px: float


class Box(NamedTuple):
    """A rectangle: the place of a label, or what a label must not cover."""

    left_px: float
    middle_px: float
    width_px: float
    height_px: float = ROW_PX
    tie_px: float = 0
    """Where a line from the point meets the label."""

    def covers(self, other: "Box") -> bool:
        """Whether they touch."""
        return (
            self.left_px < other.left_px + other.width_px
            and other.left_px < self.left_px + self.width_px
            and abs(self.middle_px - other.middle_px) < (self.height_px + other.height_px) / 2
        )


NEAR_PX = 3 * ROW_PX
"""How far a label goes to keep clear of lines. Further away one no longer sees what it belongs to."""


def beside(
    labels: Iterable[Spot], points: Iterable[Box], lines: Iterable[Box], width_px: float, height_px: float
) -> list[Box]:
    """For each a place beside its point, as near as can be, where it covers no point and no other label.

    And as few lines as can be, where that does not take it too far away.
    """
    taken, drawn, boxes = list(points), list(lines), []
    for label in labels:
        candidates = list(_candidates(label, height_px))
        inside = [box for box in candidates if _within(box, width_px, height_px)] or candidates
        free = [box for box in inside if not any(box.covers(other) for other in taken)] or inside
        near = [box for box in free if abs(box.middle_px - label.y_px) <= NEAR_PX] or free[:1]
        box = min(near, key=lambda box: sum(box.covers(other) for other in drawn))
        taken.append(box)
        boxes.append(box)
    return boxes


def _candidates(label: Spot, height_px: float) -> Iterator[Box]:
    """To the right and to the left, first on a level with the point, then further and further away."""
    width_px = text_width_px(label.text)
    for away_px in range(0, int(height_px), ROW_PX // 2):
        for up_px in dict.fromkeys((-away_px, away_px)):
            beside_px = 9 + min(away_px / 3, 24)
            right_px, left_px = label.x_px + beside_px, label.x_px - beside_px
            yield Box(right_px, label.y_px + up_px, width_px, tie_px=right_px - 2)
            yield Box(left_px - width_px, label.y_px + up_px, width_px, tie_px=left_px + 2)


def _within(box: Box, width_px: float, height_px: float) -> bool:
    inside = box.left_px >= 0 and box.left_px + box.width_px <= width_px
    return inside and TEXT_PX / 2 <= box.middle_px <= height_px - TEXT_PX / 2
