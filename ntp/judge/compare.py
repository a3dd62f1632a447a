"""Runs side by side, case by case: ratios of medians, and no verdict."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ntp.case import GROUPS, Case, Workload
from ntp.errors import OptionError
from ntp.judge.differences import differences
from ntp.judge.processes import levels
from ntp.judge.statistics import Interval
from ntp.records.environment import Machine, Software
from ntp.records.run import Measurement, Run

FEW_SAMPLES = 10
"""Medians of fewer samples are pointed out."""


class Column(NamedTuple):
    """A run beside others, or those cases of a run that have one value of some field."""

    name: str
    measurements: tuple[Measurement, ...]


class Setting(NamedTuple):
    """A field that all cases of a column have in common, and not all columns."""

    field: str
    values: tuple[str, ...]
    """One for each column."""


class Compared(NamedTuple):
    """One case in one column."""

    time_ns: Interval
    """The median in its 95% interval."""
    tokens_per_s: float
    ratio: Interval | None
    """The time a token takes, over the first column's: above 1, it is slower. The limits are those of the two
    intervals, divided the unfavourable way: wider than need be for the steps of these two processes, and they say
    nothing about others. None in the first column."""
    samples: int


class ComparedRow(NamedTuple):
    """One case in every column."""

    case: Case
    """The case as it is in the first column."""
    cells: tuple[Compared, ...]

    @property
    def best(self) -> int:
        """The column with the most tokens a second."""
        return max(range(len(self.cells)), key=lambda column: self.cells[column].tokens_per_s)


class Comparison(NamedTuple):
    """The cases that columns have in common, and in what the columns differ."""

    columns: tuple[str, ...]
    settings: tuple[Setting, ...]
    """What differs on purpose: the configurations that are compared."""
    rows: tuple[ComparedRow, ...]
    alone: tuple[tuple[str, tuple[str, ...]], ...]
    """For each column that has any, ids of its cases that another one lacks."""
    differences: tuple[str, ...]
    """In what machines and software differ, in words: times from different ones compare those, and not the code."""
    few: tuple[str, ...]
    """Ids of cases with fewer samples than :data:`FEW_SAMPLES` somewhere."""


def columns_by(run: Run, field: str) -> tuple[Column, ...]:
    """Split a run into a column for each value of a field of its cases, numbers ascending, others as they came.

    Raises:
        OptionError: cases have no such field, or only one value of it.
    """
    name = field.replace("-", "_")
    fields = [field_name for group in GROUPS.values() for field_name in group.model_fields]
    if name not in fields:
        raise OptionError(f"by {field!r}: cases have no such field; take one of {', '.join(fields)}")
    by_value: dict[Any, list[Measurement]] = {}
    for measurement in run.measurements:
        by_value.setdefault(_fields(measurement.case)[name], []).append(measurement)
    if len(by_value) < 2:
        raise OptionError(
            f"by {field!r}: the run has only {name} {next(iter(by_value), 'nothing')}: nothing to compare"
        )
    values = sorted(by_value) if all(isinstance(value, int) for value in by_value) else list(by_value)
    return tuple(Column(f"{name} {value}", tuple(by_value[value])) for value in values)


def compare(columns: Sequence[Column], by: str = "") -> Comparison:
    """Compare the cases that all columns hold, in the first one's order. A case measured twice counts by its last time.

    Cases are alike if they differ in nothing but the settings. No field of the workload is a setting, for another
    workload is another thing to compute, unless the columns are compared ``by`` just that field.
    """
    settings = tuple(_settings(columns, by.replace("-", "_")))
    varied = {setting.field for setting in settings}
    by_key = [{_key(measured.case, varied): measured for measured in column.measurements} for column in columns]
    common = [key for key in by_key[0] if all(key in measurements for measurements in by_key)]
    rows = tuple(_row([measurements[key] for measurements in by_key]) for key in common)
    alone = (
        (column.name, tuple(measured.case.id for key, measured in measurements.items() if key not in common))
        for column, measurements in zip(columns, by_key, strict=True)
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
    fields = [[_fields(measurement.case) for measurement in column.measurements] for column in columns]
    if not all(fields):
        return
    for name in fields[0][0]:
        values = [sorted({str(case[name]) for case in column}) for column in fields]
        fixed = name in Workload.model_fields and name != by
        if not fixed and all(len(of_column) == 1 for of_column in values) and len(set(map(tuple, values))) > 1:
            yield Setting(name, tuple(of_column[0] for of_column in values))


def _row(measurements: Sequence[Measurement]) -> ComparedRow:
    first = _compared(measurements[0], None)
    others = (_compared(other, (measurements[0], first)) for other in measurements[1:])
    return ComparedRow(measurements[0].case, (first, *others))


def _compared(measurement: Measurement, base: tuple[Measurement, Compared] | None) -> Compared:
    level = levels([measurement])[measurement.case]
    time_ns = level.interval or Interval(*[level.value_ns] * 3)
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
    """Say in which fields another column's machine or software is not the first one's."""
    for kind in ("machine", "software"):
        first, *others = (_by_fingerprint(column, kind) for column in columns)
        for column, other in zip(columns[1:], others, strict=True):
            if first and other and first.keys() != other.keys():
                fields = differences(next(iter(first.values())), next(iter(other.values())))
                yield f"{kind} of {column.name}: {', '.join(fields) or 'more than one within a run'}"


def _by_fingerprint(column: Column, kind: str) -> dict[str, Machine | Software]:
    surroundings = (getattr(measurement.environment, kind) for measurement in column.measurements)
    return {surrounding.fingerprint: surrounding for surrounding in surroundings}
