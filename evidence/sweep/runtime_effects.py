"""What each setting of a runtime changes: the level of a step and its spread between processes, in rounds."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from runtimes import FACTORS, RecordedModel
from scipy.special import fdtri, stdtrit
from sweeps import Values

from ntp.judge.statistics import Interval

Combination = tuple[str, ...]
"""A value for each of the settings."""

DEFAULT: Combination = tuple(values[0] for values in FACTORS.values())
PLAIN: Combination = ("unset", "glibc", "free")
"""That of a process whose environment sets nothing but the number of threads."""


class Recorded(NamedTuple):
    """A model's log median step times: for each combination, one for each round that measured them all."""

    name: str
    logs: dict[Combination, Values]

    @property
    def rounds(self) -> int:
        return int(self.logs[DEFAULT].size)

    @property
    def default_s(self) -> float:
        """The step time under the defaults, in seconds."""
        return math.exp(self.logs[DEFAULT].mean()) / 1e9


def recorded(models: Sequence[RecordedModel]) -> list[Recorded]:
    """Join the recordings of each model."""
    joined: dict[str, list[dict[Combination, Values]]] = {}
    for model in models:
        joined.setdefault(model.name, []).append(_logs(model))
    return [
        Recorded(name, {key: np.concatenate([logs[key] for logs in of]) for key in of[0]})
        for name, of in joined.items()
    ]


def _logs(model: RecordedModel) -> dict[Combination, Values]:
    times = {
        tuple(getattr(measurement.case.runtime, name) for name in FACTORS): {
            process.round: math.log(process.median_ns) for process in measurement.processes
        }
        for measurement in model.measurements
    }
    common = sorted(set.intersection(*(set(rounds) for rounds in times.values())))
    return {key: np.array([rounds[number] for number in common]) for key, rounds in times.items()}


def ratio(logs: Values) -> Interval:
    """Return the geometric mean of ratios, in the interval of Student's t over the rounds."""
    mean, reach = logs.mean(), stdtrit(logs.size - 1, 0.975) * logs.std(ddof=1) / math.sqrt(logs.size)
    return Interval(*(math.exp(mean + off) for off in (0.0, -reach, reach)))


def spread(logs: Sequence[Values]) -> tuple[float, int]:
    """Return the standard deviation within combinations, pooled over them, and its degrees of freedom."""
    degrees = sum(values.size - 1 for values in logs)
    return math.sqrt(math.fsum(float(values.var()) * values.size for values in logs) / degrees), degrees


def spread_ratio(logs: Sequence[Values], base: Sequence[Values]) -> Interval:
    """Compare two spreads: the interval of Fisher's F, which takes the processes for independent and normal."""
    (first, degrees), (second, base_degrees) = spread(logs), spread(base)
    value = first / second
    least, most = (math.sqrt(fdtri(degrees, base_degrees, q)) for q in (0.025, 0.975))
    return Interval(value, value / most, value / least)


def _with(value: str, place: int, logs: dict[Combination, Values]) -> list[Values]:
    """Return the times of all combinations with one value of a setting, in the order of the others."""
    factors = [(value,) if i == place else values for i, values in enumerate(FACTORS.values())]
    return [logs[combination] for combination in itertools.product(*factors)]


def setting_rows(models: Sequence[Recorded]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each value that is not the default, averaged over the other settings, and one for all at once."""
    for place, (name, values) in enumerate(FACTORS.items()):
        for value in values[1:]:
            yield (
                f"`{name}`: `{value}` instead of `{values[0]}`",
                *(_compared(_with(value, place, of.logs), _with(values[0], place, of.logs)) for of in models),
            )
    words = ", ".join(f"`{value}`" for value in PLAIN)
    yield (f"{words} instead of all defaults", *(_compared([of.logs[PLAIN]], [of.logs[DEFAULT]]) for of in models))


def conclusions(models: Sequence[Recorded]) -> Iterator[str]:
    """Say for each value that is not the default what it changes: its least and its largest effect, and how often."""
    for place, (name, values) in enumerate(FACTORS.items()):
        for value in values[1:]:
            both = [(_with(value, place, of.logs), _with(values[0], place, of.logs)) for of in models]
            levels = [_level_ratio(logs, base) for logs, base in both]
            spreads = [spread_ratio(logs, base) for logs, base in both]
            yield (
                f"- `{name}={value}` instead of `{values[0]}`: a step takes {_range(levels)} the time, which differs "
                f"from 1 in {_told(levels)} models; the spread is {_range(spreads)} the default's, different in "
                f"{_told(spreads)}."
            )


def _range(ratios: Sequence[Interval]) -> str:
    return f"{min(ratios).value:.2f} to {max(ratios).value:.2f} times"


def _told(ratios: Sequence[Interval]) -> str:
    return f"{sum(not ratio.low <= 1 <= ratio.high for ratio in ratios)} of {len(ratios)}"


def _level_ratio(logs: Sequence[Values], base: Sequence[Values]) -> Interval:
    return ratio(np.mean([a - b for a, b in zip(logs, base, strict=True)], axis=0))


def _compared(logs: Sequence[Values], base: Sequence[Values]) -> str:
    return f"{_interval(_level_ratio(logs, base))}; spread {_interval(spread_ratio(logs, base))}"


def combination_rows(models: Sequence[Recorded]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each combination: the level relative to the default one, and the spread."""
    for key in itertools.product(*FACTORS.values()):
        cells = (
            f"{'1' if key == DEFAULT else _interval(ratio(of.logs[key] - of.logs[DEFAULT]))}; "
            f"{spread([of.logs[key]])[0]:.1%}"
            for of in models
        )
        yield (", ".join(f"`{value}`" for value in key), *cells)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"
