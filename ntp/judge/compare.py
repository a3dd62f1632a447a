"""Runs side by side, case by case: ratios of levels, which of them tell a difference, and no verdict."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from ntp.case import GROUPS, Case, Runtime, Workload
from ntp.errors import OptionError
from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise, another_run, ratio_at_equal_speed, ratio_of_runs
from ntp.judge.differences import differences
from ntp.judge.processes import Level, Ratio, levels, ratio
from ntp.records.calibration import fingerprints
from ntp.records.environment import Machine, Software
from ntp.records.run import Measurement, Run


class Column(NamedTuple):
    """A run beside others, or those cases of a run that have one value of some field."""

    name: str
    measurements: tuple[Measurement, ...]
    levels: Mapping[Case, Level]

    @classmethod
    def of(cls, name: str, measurements: Sequence[Measurement]) -> Self:
        """Make a column of a whole run."""
        return cls(name, tuple(measurements), levels(measurements))


class Setting(NamedTuple):
    """A field that all cases of a column have in common, and not all columns."""

    field: str
    values: tuple[str, ...]
    """One for each column."""


class Compared(NamedTuple):
    """One case in one column."""

    level: Level
    """The step time."""
    tokens_per_s: float
    ratio: Ratio | None
    """The time a token takes, over the first column's: above 1, it is slower. None in the first column."""
    processes: int

    @property
    def differs(self) -> bool:
        """Whether the interval of the ratio leaves out 1."""
        interval = self.ratio and self.ratio.interval
        return interval is not None and not interval.low <= 1 <= interval.high


class ComparedRow(NamedTuple):
    """One case in every column."""

    case: Case
    """The case as it is in the first column."""
    cells: tuple[Compared, ...]
    best: int | None
    """The column with the most tokens a second. None where another one may be as fast."""


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
    single: tuple[str, ...]
    """Ids of cases that have a single process somewhere: their ratios have no interval."""
    one_run: bool
    """Whether all columns are of one run."""
    noise: RunNoise
    """The noise between runs. It is part of no ratio within one run."""
    normalised: bool
    """Whether the ratios leave out how fast the machine was in each run."""

    @property
    def within(self) -> float:
        """By how much a level may be off within its run, as a fraction: the median over all."""
        return _median([cell.level.half_width for cell in self._cells])

    @property
    def another_run(self) -> float:
        """By how much another run of the same code may differ, as a fraction: the median over all levels."""
        return _median(
            [another_run(cell.level, self.noise, equal_speed=self.normalised).half_width for cell in self._cells]
        )

    @property
    def _cells(self) -> Iterator[Compared]:
        return (cell for row in self.rows for cell in row.cells)


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
    of_run = levels(run.measurements)  # of all together: they share what is known of their spread
    return tuple(Column(f"{name} {value}", tuple(by_value[value]), of_run) for value in values)


def compare(columns: Sequence[Column], by: str = "", noise: RunNoise = DEFAULT_NOISE) -> Comparison:
    """Compare the cases that all columns hold, in the first one's order. A case measured twice counts by its last time.

    Columns that are compared ``by`` a field are of one run. Others are of a run each, and their ratios hold for other
    runs of the same code: their intervals include the noise between runs, which is that of normalised times if
    :func:`are_normalised` says that these are compared.

    Cases are alike if they differ in nothing but the settings. No field of the workload is a setting, for another
    workload is another thing to compute, unless the columns are compared ``by`` just that field.
    """
    settings = tuple(_settings(columns, by.replace("-", "_")))
    varied = {setting.field for setting in settings}
    by_key = [{_key(measured.case, varied): measured for measured in column.measurements} for column in columns]
    common = [key for key in by_key[0] if all(key in measurements for measurements in by_key)]
    normalised = not by and are_normalised(columns)
    rows = tuple(_row(columns, [cases[key] for cases in by_key], None if by else noise, normalised) for key in common)
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
        single=tuple(row.case.id for row in rows if min(cell.processes for cell in row.cells) < 2),
        one_run=bool(by),
        noise=noise,
        normalised=normalised,
    )


def are_normalised(columns: Sequence[Column]) -> bool:
    """Whether runs are compared as if the machine had been equally fast in each, by the calibration kernel.

    They are, if all runs are of the same machine, software and runtime, and have the same calibration kernel in every
    process: another library or allocator could change the kernel as well as the step, which would hide its effect.
    """
    measurements = [measurement for column in columns for measurement in column.measurements]
    kernels = [process.calibration_kernel for measurement in measurements for process in measurement.processes]
    return (
        len({kernel and kernel.shape for kernel in kernels} - {None}) == 1
        and all(kernels)
        and len(set(map(fingerprints, measurements))) == 1
        and not any(setting.field in Runtime.model_fields for setting in _settings(columns, ""))
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


def _row(
    columns: Sequence[Column], measurements: Sequence[Measurement], noise: RunNoise | None, normalised: bool
) -> ComparedRow:
    """Compare a case in every column. Without a noise between runs, the columns are of one run."""
    cases = [measurement.case for measurement in measurements]
    of_cases = [column.levels[case] for column, case in zip(columns, cases, strict=True)]

    def over(denominator: int, numerator: int) -> Ratio:
        a, b = of_cases[numerator], of_cases[denominator]
        if noise is None:
            compared = ratio(a, b)
        else:
            compared = ratio_at_equal_speed(a, b, noise) if normalised else ratio_of_runs(a, b, noise)
        tokens = cases[numerator].workload.tokens / cases[denominator].workload.tokens
        return compared._replace(log_mean=compared.log_mean - math.log(tokens))

    ratios = [over(0, number) for number in range(len(columns))]
    cells = tuple(
        Compared(
            level,
            measurement.case.workload.tokens / level.value_ns * 1e9,
            ratios[number] if number else None,
            len(measurement.processes),
        )
        for number, (level, measurement) in enumerate(zip(of_cases, measurements, strict=True))
    )
    fastest = min(range(len(columns)), key=lambda number: ratios[number].log_mean if number else 0.0)
    others = [over(fastest, number).interval for number in range(len(columns)) if number != fastest]
    is_told = all(interval is not None and interval.low > 1 for interval in others)
    return ComparedRow(cases[0], cells, fastest if is_told else None)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.inf


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
