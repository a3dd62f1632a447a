"""The columns of a sweep's tables. Each is defined here, once, for the terminal, Markdown, web pages and CSV.

To add one, write a :class:`Column`, put it into the tables that show it, and give its value a name in :data:`VALUES`.
"""

import statistics
from collections.abc import Callable
from math import isfinite
from operator import attrgetter
from typing import Any

from ntp.case import PHASES, Runtime, StepConfig, Workload
from ntp.judge.growth import Growth
from ntp.judge.statistics import Interval
from ntp.records.environment import Conditions
from ntp.report.columns import Column
from ntp.report.tables import CaseRow
from ntp.report.units import duration, durations, ratio, share, significant, size


def _count(number: int) -> str:
    return f"{number:,}"


def _between(times_ns: Interval) -> str:
    return durations(times_ns.low, times_ns.high)


def _to(interval: Interval) -> str:
    return f"{significant(interval.low)} to {significant(interval.high)}"


def _steps(row: CaseRow) -> str:
    """The number of processes, and of the steps of one. Where these differ, the steps of the median process."""
    counts = [len(process.step_time_ns) for process in row.measurement.processes]
    return f"{len(counts)} x {statistics.median_low(counts):,}"


def _intensity(row: CaseRow) -> float | None:
    intensity = row.roofline.intensity_flops_per_byte if row.roofline else None
    return intensity if intensity is not None and isfinite(intensity) else None


MUCH_WAITING = 0.05
"""The share of a step from which on waiting is shown."""


def _if_much(waiting_share: float | None) -> float | None:
    return waiting_share if waiting_share is not None and waiting_share >= MUCH_WAITING else None


CASE = Column[CaseRow]("case", lambda row: row.case.id, is_code=True)
TIME = Column[CaseRow]("step time", lambda row: row.time_ns, duration)
PLUS_MINUS = Column[CaseRow](
    "±95%",
    lambda row: row.level.half_width if row.level.interval else None,
    lambda width: f"±{share(width)}",
    formats=["terminal"],
)
BETWEEN = Column[CaseRow]("95% interval", lambda row: row.level.interval, _between, formats=["markdown", "html"])
P95 = Column[CaseRow]("p95", lambda row: row.p95_ns, duration)
RATE = Column[CaseRow]("tokens/s", lambda row: row.tokens_per_s, significant)
RATE_BETWEEN = Column[CaseRow](
    "95% interval", lambda row: row.tokens_per_s_interval, _to, formats=["markdown"], optional=True
)
SPEED_UP = Column[CaseRow]("speed-up", lambda row: row.speed_up and row.speed_up.value, ratio)
SPEED_UP_BETWEEN = Column[CaseRow](
    "95% interval",
    lambda row: row.speed_up and row.speed_up.interval,
    _to,
    formats=["markdown", "html"],
    optional=True,
)
EFFICIENCY = Column[CaseRow]("efficiency", lambda row: row.efficiency, share, short="effic.")
SHARE_OF_STEP = Column[CaseRow]("of the step", lambda row: row.share_of_step and row.share_of_step.value, share)
SHARE_BETWEEN = Column[CaseRow](
    "95% interval",
    lambda row: row.share_of_step and row.share_of_step.interval,
    lambda shares: f"{share(shares.low)} to {share(shares.high)}",
    formats=["markdown", "html"],
    optional=True,
)
PEAK_RSS = Column[CaseRow]("peak RSS", lambda row: row.measurement.usage.peak_rss_bytes, size)
STEP_COUNTS = Column[CaseRow](
    "processes x steps", _steps, short="steps", by=lambda row: len(row.measurement.step_time_ns)
)
FLOPS = Column[CaseRow]("GFLOP/s", lambda row: row.achieved_flops_per_s, lambda flops: significant(flops / 1e9))
OF_PEAK = Column[CaseRow]("of peak", lambda row: row.roofline and row.roofline.share_of_peak, share)
INTENSITY = Column[CaseRow]("FLOP/byte", _intensity, ratio, formats=["markdown"], optional=True)
BOUND = Column[CaseRow](
    "bound by", lambda row: row.roofline and row.roofline.bound, formats=["markdown"], optional=True
)
WAITING = Column[CaseRow]("waiting", lambda row: _if_much(row.measurement.waiting_share), share, optional=True)
FAULTS = Column[CaseRow]("faults", lambda row: row.measurement.minor_page_faults_per_step, significant)
PEAK_TENSORS = Column[CaseRow](
    "peak tensors", lambda row: row.observations.memory and row.observations.memory.peak_bytes, size, short="tensors"
)


def _phase(phase: str) -> Column[CaseRow]:
    return Column(phase, lambda row: row.phase_shares.get(phase), share)


_LONG_PHASES = ("forward", "loss", "backward", "optimizer")
"""Phases that have a column of their own. The others are short."""


def _rest(row: CaseRow) -> float | None:
    shares = row.phase_shares
    return max(0.0, 1 - sum(shares.get(phase, 0.0) for phase in _LONG_PHASES)) if shares else None


STEPS = (
    *(CASE, TIME, PLUS_MINUS, BETWEEN, P95, RATE, RATE_BETWEEN),
    *(SPEED_UP, SPEED_UP_BETWEEN, EFFICIENCY, PEAK_RSS, STEP_COUNTS),
)
WHY = (
    *(CASE._replace(short="why"), FLOPS, OF_PEAK, INTENSITY, BOUND),
    *(*map(_phase, _LONG_PHASES), Column("rest", _rest, share), WAITING, PEAK_TENSORS, FAULTS),
)
PARTS = (
    *(CASE._replace(short="part of a step"), TIME._replace(title="time")),
    *(PLUS_MINUS, BETWEEN, P95, SHARE_OF_STEP, SHARE_BETWEEN, STEP_COUNTS),
)
GROWTHS = (
    Column[Growth]("from case", lambda growth: growth.smallest.id, is_code=True),
    Column[Growth]("size", lambda growth: growth.what),
    Column[Growth]("from", lambda growth: growth.sizes[0], _count),
    Column[Growth]("to", lambda growth: growth.sizes[-1], _count),
    Column[Growth](
        "time", lambda growth: growth.times_ns, lambda times_ns: f"{duration(times_ns[0])} to {duration(times_ns[-1])}"
    ),
    Column[Growth](
        "grows as", lambda growth: growth.exponent, lambda power: "size^{:.2f} ({:.2f} to {:.2f})".format(*power)
    ),
    Column[Growth]("at the end", lambda growth: growth.last_exponent, "size^{:.2f}".format),
)


def _of_step(value: Callable[[CaseRow], Any]) -> Callable[[CaseRow], Any]:
    """The value for whole steps only."""
    return lambda row: value(row) if row.is_step else None


def _limits(name: str, interval: Callable[[CaseRow], Interval | None]) -> dict[str, Callable[[CaseRow], Any]]:
    """The limits of an interval. A unit stays at the end of the name."""
    stem, unit = (name.removesuffix("_ns"), "_ns") if name.endswith("_ns") else (name, "")
    return {
        f"{stem}_low{unit}": lambda row: (limits := interval(row)) and limits.low,
        f"{stem}_high{unit}": lambda row: (limits := interval(row)) and limits.high,
    }


def _fields(where: str, *groups: Any) -> dict[str, Callable[[CaseRow], Any]]:
    return {name: attrgetter(f"{where}.{name}") for group in groups for name in group.model_fields}


VALUES: dict[str, Callable[[CaseRow], Any]] = {
    "case_id": CASE.value,
    **_fields("case.workload", Workload),
    **_fields("case.step", StepConfig),
    **_fields("case.runtime", Runtime),
    "processes": lambda row: len(row.measurement.processes),
    "samples": lambda row: len(row.measurement.step_time_ns),
    "step_time_ns": TIME.value,
    **_limits("step_time_ns", lambda row: row.level.interval),
    "step_time_p95_ns": P95.value,
    "tokens_per_s": _of_step(RATE.value),
    **_limits("tokens_per_s", _of_step(lambda row: row.tokens_per_s_interval)),
    "speed_up": SPEED_UP.value,
    **_limits("speed_up", SPEED_UP_BETWEEN.value),
    "efficiency": EFFICIENCY.value,
    **_limits("efficiency", lambda row: row.efficiency_interval),
    "share_of_step": SHARE_OF_STEP.value,
    **_limits("share_of_step", SHARE_BETWEEN.value),
    "waiting_share": lambda row: row.measurement.waiting_share,
    "peak_rss_bytes": PEAK_RSS.value,
    "minor_page_faults_per_step": FAULTS.value,
    "major_page_faults": lambda row: row.measurement.usage.major_page_faults,
    "parameters": lambda row: row.measurement.parameters,
    "flops_per_step": lambda row: row.observations.flops and row.observations.flops.total_flops,
    "achieved_flops_per_s": FLOPS.value,
    "share_of_peak": OF_PEAK.value,
    "intensity_flops_per_byte": INTENSITY.value,
    "bound": BOUND.value,
    **{f"{phase}_share": _phase(phase).value for phase in PHASES},
    "phase_cost": lambda row: row.observations.phases and row.observations.phases.cost,
    "peak_tensor_bytes": PEAK_TENSORS.value,
    **_fields("conditions", Conditions),
    "machine_fingerprint": lambda row: row.measurement.environment.machine.fingerprint,
    "software_fingerprint": lambda row: row.measurement.environment.software.fingerprint,
    "git_commit": lambda row: row.measurement.environment.git.commit,
    "git_dirty": lambda row: row.measurement.environment.git.dirty,
}
"""The columns of CSV and the fields of JSON. Times are those of the step, or of the part that the case names. The
limits are those of 95% intervals over the processes, within the run.
"""


def record(row: CaseRow) -> dict[str, Any]:
    """A measurement for other programs. None means unknown or not applicable."""
    return {name: value(row) for name, value in VALUES.items()}
