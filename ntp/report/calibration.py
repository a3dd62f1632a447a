"""The noise between runs of identical code."""

from collections.abc import Iterator

from ntp.judge.baseline import CaseNoise, Noises
from ntp.judge.between_runs import DEFAULT_NOISE, DEFAULT_NOISE_AS_MEASURED
from ntp.judge.processes import CONFIDENCE
from ntp.report.columns import Column, Table
from ntp.report.document import Report
from ntp.report.units import duration, share
from ntp.report.verdicts import counted

COLUMNS = (
    Column[CaseNoise]("case", lambda noise: noise.case.id, is_code=True),
    Column[CaseNoise]("runs", lambda noise: noise.runs),
    Column[CaseNoise]("step time", lambda noise: noise.level.value_ns, duration),
    Column[CaseNoise]("in a run", lambda noise: noise.level.half_width, lambda width: f"±{share(width)}"),
    Column[CaseNoise]("detectable", lambda noise: noise.smallest_slowdown, share),
)

_LEGEND = (
    f"In a run: the {CONFIDENCE:.0%} interval of the step time over the processes of a run. Normalised: divided by the "
    "time of the calibration kernel in the same process. Detectable: the smallest slowdown, of normalised times, that "
    "a run against a stored baseline can tell from none; a gate fails above that and its threshold together. Runs that "
    "lie minutes apart do not show what changes from day to day. ntp guard, which runs both sides in pairs, detects "
    "much smaller slowdowns."
)


def report(noises: Noises) -> Report:
    return Report(list(_answer(noises)), [Table(COLUMNS, noises.cases)], legend=_LEGEND if noises.cases else "")


def _answer(noises: Noises) -> Iterator[str]:
    if not noises.cases:
        yield "No run was finished: the noise between runs is not known."
        return
    slowdowns = [noise.smallest_slowdown for noise in noises.cases if noise.smallest_slowdown is not None]
    if not noises.normalised.remembered:
        yield "Two runs are needed to tell the noise between them: a gate compares no times yet."
    elif slowdowns:
        low, high = share(min(slowdowns)), share(max(slowdowns))
        least = low if low == high else f"{low} to {high}"
        count = counted(len(slowdowns), "case")
        yield f"A run against a baseline of this machine detects slowdowns of at least {least}, in {count}."
    if noises.between.remembered:
        both = f"{share(noises.between.spread)} of step times, {share(noises.normalised.spread)} of normalised ones"
        assumed = f"{share(DEFAULT_NOISE_AS_MEASURED.spread)} and {share(DEFAULT_NOISE.spread)}"
        prior = f"from {assumed}, which are assumed beforehand and count as much as ten runs"
        yield f"Noise between runs: {both}, from {noises.between.remembered} runs of identical code and {prior}."
