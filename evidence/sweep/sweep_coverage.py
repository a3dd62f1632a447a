"""How often intervals of two sweeps of identical code exclude a ratio of 1, and how wide they are, by method."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import intervals
from intervals import NONE, Level, LogRatio, Method, Part, at_equal_speed, between_runs
from peers import PEERS, Peer
from recording import CONDITIONS, RecordedSweep
from sweeps import Sweep

from ntp.judge import processes
from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise, default_noise
from ntp.judge.compare import Column, are_normalised, compare
from ntp.report.units import UNKNOWN


class Coverage(NamedTuple):
    """What a method's intervals are like: one entry for each comparison that was made."""

    different: dict[str, list[bool]]
    """By condition: whether the interval of a ratio of two sweeps excludes 1."""
    level: list[float]
    """Half-widths within a run, of the quiet sweeps, as fractions."""
    ratio: list[float]
    """Half-widths of ratios of two quiet sweeps, as fractions."""
    speedups: dict[str, list[bool]]
    """By condition: whether a speed-up differs between two sweeps by more than the two intervals allow."""


class Candidate(NamedTuple):
    """A way to make intervals that ntp could choose."""

    name: str
    method: Method
    equal_speed: bool = False
    """Whether two runs are compared relative to the calibration kernel."""
    noise: str = ""
    """Where the variance between runs comes from: none, the other sweeps, or the default of ``ntp compare``."""


_KERNEL = "relative to the kernel"

_ALONE = (
    Candidate("t, each case its own spread", intervals.own_spread),
    Candidate("t, spread pooled", intervals.pooled),
    Candidate("t, spread partly pooled", intervals.partly_pooled),
    Candidate("random effect of the round", intervals.round_effect),
    Candidate("kernel as a covariate within a run", intervals.covariate),
    Candidate(f"{_KERNEL} within a run, spread pooled", intervals.normalised),
    Candidate(f"{_KERNEL}, each case its own spread", intervals.normalised_own, equal_speed=True),
    Candidate(f"{_KERNEL}, spread partly pooled", intervals.normalised_partly, equal_speed=True),
    Candidate(f"{_KERNEL}, spread pooled", intervals.normalised, equal_speed=True),
)

CANDIDATES = (
    *_ALONE,
    *(candidate._replace(noise="others") for candidate in _ALONE if candidate.method is not intervals.covariate),
    *(candidate._replace(noise="default") for candidate in _ALONE if candidate.equal_speed),
)

CHOSEN = Candidate("", intervals.normalised, equal_speed=True, noise="default")
"""What comes close to ``ntp compare`` while nothing else runs, and is fitted in an instant."""

NOISE = {"": "", "others": ", noise of the other sweeps added", "default": ", default noise added"}


def _pairs(sweeps: Sequence[Sweep]) -> dict[str, list[tuple[int, int]]]:
    """Return every two sweeps of each condition, by their places in the list."""
    places: dict[str, list[int]] = {condition: [] for condition in CONDITIONS}
    for place, sweep in enumerate(sweeps):
        places[sweep.condition].append(place)
    return {condition: list(itertools.combinations(of, 2)) for condition, of in places.items()}


def of_candidate(sweeps: Sequence[Sweep], candidate: Candidate) -> Coverage:
    """Judge a method. What it adds between runs is learned from quiet sweeps other than the two it compares."""
    runs = [intervals.levels(sweep, candidate.method) for sweep in sweeps]
    compare = at_equal_speed if candidate.equal_speed else between_runs

    def noise(pair: tuple[int, int]) -> Part:
        if candidate.noise == "default":
            return Part(DEFAULT_NOISE.spread**2, DEFAULT_NOISE.degrees)
        others = [runs[i] for i in _others(sweeps, pair)]
        return intervals.noise_between(others, candidate.equal_speed) if candidate.noise else NONE

    def ratios(pair: tuple[int, int]) -> Iterator[LogRatio]:
        added = noise(pair)
        return (compare(a, b, added) for a, b in zip(*(runs[i] for i in pair), strict=True))

    return _coverage(sweeps, ratios, lambda i: map(intervals.within, runs[i]), lambda i: _speedups(sweeps[i], runs[i]))


def _speedups(sweep: Sweep, run: Sequence[Level]) -> Iterator[LogRatio]:
    return (intervals.speedup(run[i], run[j]) for i, j in sweep.speedups())


def _coverage(
    sweeps: Sequence[Sweep],
    ratios: Callable[[tuple[int, int]], Iterable[LogRatio]],
    levels: Callable[[int], Iterable[LogRatio]],
    speedups: Callable[[int], Iterable[LogRatio]],
) -> Coverage:
    pairs = _pairs(sweeps)
    compared = {condition: [ratio for pair in of for ratio in ratios(pair)] for condition, of in pairs.items()}
    differences = {
        condition: [
            intervals.difference(a, b).is_different
            for i, j in of
            for a, b in zip(speedups(i), speedups(j), strict=True)
        ]
        for condition, of in pairs.items()
    }
    quiet = [i for i, sweep in enumerate(sweeps) if sweep.condition == "quiet"]
    return Coverage(
        {condition: [ratio.is_different for ratio in of] for condition, of in compared.items()},
        [math.expm1(level.reach) for i in quiet for level in levels(i)],
        [math.expm1(ratio.reach) for ratio in compared["quiet"]],
        differences,
    )


def compared(a: RecordedSweep, b: RecordedSweep, noise: RunNoise | None = None) -> list[processes.Ratio]:
    """Return the ratios of two sweeps as ``ntp compare`` shows them, on a machine that remembers no runs."""
    columns = [Column.of("", sweep.run.measurements) for sweep in (a, b)]
    noise = noise or default_noise(are_normalised(columns))
    return [row.cells[1].ratio or processes.Ratio(0.0, 0.0, 1.0) for row in compare(columns, noise=noise).rows]


def of_ntp(recorded: Sequence[RecordedSweep], sweeps: Sequence[Sweep], noise: str = "default") -> Coverage:
    """Judge what ``ntp compare`` does, by its own code, or with another noise between runs."""
    runs = [list(processes.levels(sweep.run.measurements).values()) for sweep in recorded]
    relative = [intervals.levels(sweep, intervals.normalised) for sweep in sweeps]

    def run_noise(pair: tuple[int, int]) -> RunNoise | None:
        others = [relative[i] for i in _others(sweeps, pair)] if noise else []
        variance, degrees = intervals.noise_between(others, equal_speed=True)
        return None if noise == "default" else RunNoise(math.sqrt(variance), degrees)

    def ratios(pair: tuple[int, int]) -> Iterator[LogRatio]:
        return map(_log_ratio, compared(recorded[pair[0]], recorded[pair[1]], run_noise(pair)))

    def speedups(i: int) -> Iterator[LogRatio]:
        return (_log_ratio(processes.ratio(runs[i][a], runs[i][b])) for a, b in sweeps[i].speedups())

    return _coverage(sweeps, ratios, lambda i: map(_log_ratio, runs[i]), speedups)


def _others(sweeps: Sequence[Sweep], pair: tuple[int, int]) -> list[int]:
    return [i for i, sweep in enumerate(sweeps) if i not in pair and sweep.condition == "quiet"]


def _log_ratio(estimate: processes.LogEstimate) -> LogRatio:
    return LogRatio(estimate.log_mean, estimate.std_error**2, estimate.degrees)


def of_peer(sweeps: Sequence[Sweep], peer: Peer) -> Coverage:
    readings = {
        condition: [peer.read(a, b) for i, j in pairs for a, b in zip(sweeps[i].steps, sweeps[j].steps, strict=True)]
        for condition, pairs in _pairs(sweeps).items()
    }
    quiet = readings["quiet"]
    return Coverage(
        {condition: [reading.is_different for reading in of] for condition, of in readings.items()},
        [reading.level for reading in quiet],
        [reading.ratio for reading in quiet],
        {condition: [] for condition in readings},
    )


HEADERS = (
    "intervals",
    *(f"{condition}: exclude 1" for condition in CONDITIONS),
    "half-width in a run",
    "between runs",
    *(f"{condition}: speed-ups that differ" for condition in CONDITIONS),
)


def row(name: str, coverage: Coverage) -> tuple[str, ...]:
    return (
        name,
        *map(share, coverage.different.values()),
        *(f"±{median(widths):.1%}" if widths else UNKNOWN for widths in (coverage.level, coverage.ratio)),
        *map(share, coverage.speedups.values()),
    )


def share(flags: Sequence[bool]) -> str:
    return f"{sum(flags) / len(flags):.0%} ({sum(flags)} of {len(flags)})" if flags else UNKNOWN


def rows(recorded: Sequence[RecordedSweep], sweeps: Sequence[Sweep]) -> list[tuple[str, ...]]:
    """Make the rows of the table: other tools, candidates, and what ``ntp compare`` does."""
    return [
        *(row(f"{peer.name}: {peer.rule}", of_peer(sweeps, peer)) for peer in PEERS),
        *(row(candidate.name + NOISE[candidate.noise], of_candidate(sweeps, candidate)) for candidate in CANDIDATES),
        *(
            row(f"kernel as a covariate of both runs{NOISE[noise]}", of_ntp(recorded, sweeps, noise))
            for noise in ("", "others")
        ),
        row(f"**`ntp compare`**: the same{NOISE['default']}", of_ntp(recorded, sweeps)),
    ]
