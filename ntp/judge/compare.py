"""Runs side by side, case by case: ratios of medians. Shows; judges nothing."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ntp.case import GROUPS, Case, Workload
from ntp.errors import OptionError
from ntp.judge.statistics import Interval, median_interval
from ntp.records.run import Measurement, Run

if TYPE_CHECKING:
    from ntp.records.environment import Machine, Software

FEW_SAMPLES = 10
"""Medians of fewer samples are pointed out."""


class Column(NamedTuple):
    """What stands beside others: a run, or those cases of a run that have one value of some field."""

    name: str
    measurements: tuple[Measurement, ...]


class Setting(NamedTuple):
    """A field of a case that is the same in the whole of each column, and not in all columns."""

    field: str
    values: tuple[str, ...]
    """Of each column."""


class Compared(NamedTuple):
    """One case in one column."""

    time_ns: Interval
    """The median, in its 95% interval."""
    tokens_per_s: float
    ratio: Interval | None
    """Time a token, over the first column's: above 1, it is slower. Its limits are those of the two intervals, divided
    the unfavourable way: wider than need be for the steps of these two processes, and mute on all others. None in the
    first column."""
    samples: int


class ComparedRow(NamedTuple):
    """One case in every column."""

    case: Case
    """As it is in the first column."""
    cells: tuple[Compared, ...]

    @property
    def best(self) -> int:
        """The column with the most tokens a second."""
        return max(range(len(self.cells)), key=lambda column: self.cells[column].tokens_per_s)


class Comparison(NamedTuple):
    """What columns have in common, and in what they differ."""

    columns: tuple[str, ...]
    settings: tuple[Setting, ...]
    """What differs by intent: the configurations that are compared."""
    rows: tuple[ComparedRow, ...]
    alone: tuple[tuple[str, tuple[str, ...]], ...]
    """For each column that has any, ids of its cases that another one lacks."""
    differences: tuple[str, ...]
    """Of machine and software, in words: times from different ones compare those, and not the code."""
    few: tuple[str, ...]
    """Ids of cases with fewer samples than :data:`FEW_SAMPLES` somewhere."""


def columns_by(run: Run, field: str) -> tuple[Column, ...]:
    """The run within itself: a column for each value of a field of its cases, numbers ascending, others as they came.

    Raises:
        OptionError: cases have no such field, or only one value of it.
    """
    name = field.replace("-", "_")
    known = [each for group in GROUPS.values() for each in group.model_fields]
    if name not in known:
        raise OptionError(f"by {field!r}: cases have no such field; take one of {', '.join(known)}")
    found: dict[Any, list[Measurement]] = {}
    for measurement in run.measurements:
        found.setdefault(_fields(measurement.case)[name], []).append(measurement)
    if len(found) < 2:
        raise OptionError(f"by {field!r}: the run has only {name} {next(iter(found), 'nothing')}: nothing to compare")
    values = sorted(found) if all(isinstance(value, int) for value in found) else list(found)
    return tuple(Column(f"{name} {value}", tuple(found[value])) for value in values)


def compare(columns: Sequence[Column], by: str = "") -> Comparison:
    """Compare the cases that all columns hold, in the first one's order. A case measured twice counts by its last time.

    Cases are alike if they differ in nothing but the settings. Of a workload nothing is a setting, for another one is
    another thing to compute, unless it is compared ``by`` just that.
    """
    settings = tuple(_settings(columns, by.replace("-", "_")))
    varied = {setting.field for setting in settings}
    by_key = [{_key(each.case, varied): each for each in column.measurements} for column in columns]
    common = [key for key in by_key[0] if all(key in each for each in by_key)]
    rows = tuple(_row([each[key] for each in by_key]) for key in common)
    alone = (
        (column.name, tuple(measurement.case.id for key, measurement in each.items() if key not in common))
        for column, each in zip(columns, by_key, strict=True)
    )
    return Comparison(
        columns=tuple(column.name for column in columns),
        settings=settings,
        rows=rows,
        alone=tuple((name, ids) for name, ids in alone if ids),
        differences=tuple(_differences(columns)),
        few=tuple(row.case.id for row in rows if min(cell.samples for cell in row.cells) < FEW_SAMPLES),
    )


def _fields(case: Case) -> dict[str, Any]:
    return {name: value for group in GROUPS for name, value in getattr(case, group).model_dump().items()}


def _key(case: Case, varied: set[str]) -> tuple[tuple[str, object], ...]:
    return tuple((name, value) for name, value in _fields(case).items() if name not in varied)


def _settings(columns: Sequence[Column], by: str) -> Iterator[Setting]:
    fields = [[_fields(each.case) for each in column.measurements] for column in columns]
    if not all(fields):
        return
    for name in fields[0][0]:
        values = [{str(each[name]) for each in column} for column in fields]
        fixed = name in Workload.model_fields and name != by
        if not fixed and all(len(each) == 1 for each in values) and len(set.union(*values)) > 1:
            yield Setting(name, tuple(next(iter(each)) for each in values))


def _row(measurements: Sequence[Measurement]) -> ComparedRow:
    first = _compared(measurements[0], None)
    others = (_compared(each, (measurements[0], first)) for each in measurements[1:])
    return ComparedRow(measurements[0].case, (first, *others))


def _compared(measurement: Measurement, base: tuple[Measurement, Compared] | None) -> Compared:
    time_ns = median_interval(measurement.samples_ns)
    tokens = measurement.case.workload.tokens
    ratio = None
    if base is not None:
        base_ns, scale = base[1].time_ns, base[0].case.workload.tokens / tokens
        ratio = Interval(
            time_ns.value / base_ns.value * scale,
            time_ns.low / base_ns.high * scale,
            time_ns.high / base_ns.low * scale,
        )
    return Compared(time_ns, tokens / time_ns.value * 1e9, ratio, len(measurement.step_time_ns))


def _differences(columns: Sequence[Column]) -> Iterator[str]:
    """Where the others' machine or software is not the first one's: in which fields."""
    kinds: dict[str, Callable[[Measurement], Machine | Software]] = {
        "machine": lambda measurement: measurement.environment.machine,
        "software": lambda measurement: measurement.environment.software,
    }
    for kind, of in kinds.items():
        for column in columns[1:]:
            sides = [{of(each).fingerprint: of(each) for each in side.measurements} for side in (columns[0], column)]
            if sides[0] and sides[1] and sides[0].keys() != sides[1].keys():
                ours, theirs = (next(iter(side.values())) for side in sides)
                fields = ", ".join(_fields_that_differ(ours, theirs)) or "more than one within a run"
                yield f"{kind} of {column.name}: {fields}"


def _fields_that_differ(ours: "Machine | Software", theirs: "Machine | Software") -> Iterator[str]:
    before, after = ours.model_dump(), theirs.model_dump()
    for name, value in before.items():
        if value != after[name]:
            short = all(isinstance(each, str | int | None) for each in (value, after[name]))
            yield f"{name} {value} -> {after[name]}" if short else name
