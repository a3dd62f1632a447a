"""The noise between runs of identical code."""

from collections.abc import Sequence

from ntp.judge.baseline import CONFIDENCE, Noise
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.units import duration, share
from ntp.report.verdicts import counted

COLUMNS = (
    Column[Noise]("case", lambda noise: noise.case.id, is_code=True),
    Column[Noise]("runs", lambda noise: noise.runs),
    Column[Noise]("step time", lambda noise: noise.step_ns, duration),
    Column[Noise]("spread", lambda noise: noise.raw, share),
    Column[Noise]("normalised", lambda noise: noise.normalised, share),
    Column[Noise]("detectable", lambda noise: noise.smallest_slowdown, share),
)

_LEGEND = (
    "Spread: the standard deviation of the median step time between runs. Normalised: the spread of that time over the "
    "calibration kernel's in the same process. Detectable: the smallest slowdown that a run against a stored baseline "
    f"can tell from none ({CONFIDENCE:.0%} interval); a gate fails above that and its threshold together. These runs "
    "lie minutes apart, so they do not show what changes from day to day. ntp guard, which runs both sides in pairs, "
    "detects much smaller slowdowns."
)


def report(noises: Sequence[Noise]) -> Report:
    return Report([_answer(noises)], [Table(COLUMNS, noises)], legend=_LEGEND if noises else "")


def _answer(noises: Sequence[Noise]) -> str:
    slowdowns = [noise.smallest_slowdown for noise in noises if noise.smallest_slowdown is not None]
    if not slowdowns:
        return "No case was run twice: the noise between runs is not known."
    span = f"{share(min(slowdowns))} to {share(max(slowdowns))}" if len(slowdowns) > 1 else share(slowdowns[0])
    return (
        f"A single run against a baseline of this machine detects slowdowns of at least {span}, in "
        f"{counted(len(slowdowns), 'case')}."
    )
