"""The noise between runs of identical code, for the terminal."""

from collections.abc import Sequence

from ntp.judge.baseline import CONFIDENCE, Noise
from ntp.report.terminal import id_table, wrapped
from ntp.report.units import UNKNOWN, duration, share

HEADERS = ("case", "runs", "step time", "spread", "normalised", "can tell")


def terminal(noises: Sequence[Noise]) -> str:
    """The answer, a row a case, and what the columns mean."""
    parts = [wrapped(_answer(noises))]
    if noises:
        parts += [id_table(HEADERS, [_row(noise) for noise in noises]), wrapped(_LEGEND)]
    return "\n\n".join(parts) + "\n"


_LEGEND = (
    "Spread: standard deviation between runs of the median step time; normalised: of that time over the calibration "
    "kernel's in the same process. Can tell: the least slowdown that one run against a stored baseline can tell from "
    f"none ({CONFIDENCE:.0%} interval); a gate fails above that and its threshold together. These runs lie minutes "
    "apart: what changes from day to day is not in it. ntp guard, which runs both sides in pairs, detects much smaller "
    "slowdowns."
)


def _answer(noises: Sequence[Noise]) -> str:
    known = [noise.smallest_slowdown for noise in noises if noise.smallest_slowdown is not None]
    if not known:
        return "No case was run twice: the noise between runs is not known."
    cases = f"{len(known)} case{'s' if len(known) > 1 else ''}"
    span = f"{share(min(known))} to {share(max(known))}" if len(known) > 1 else share(known[0])
    return f"A single run against a baseline of this machine can tell slowdowns from {span} on, in {cases}."


def _row(noise: Noise) -> tuple[str, ...]:
    return (
        noise.case.id,
        str(noise.runs),
        duration(noise.step_ns),
        share(noise.raw),
        share(noise.normalised),
        UNKNOWN if noise.smallest_slowdown is None else share(noise.smallest_slowdown),
    )
