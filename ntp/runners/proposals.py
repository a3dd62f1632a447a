"""Which case a search tries next: one lever at a time first, then what optuna proposes from all results."""

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ntp.case import Case
from ntp.errors import OptionError
from ntp.judge.tuning import levers_of, with_values
from ntp.records.tuning import Lever

if TYPE_CHECKING:
    import optuna

_MISSES = 200
"""After this many proposals in a row that were tried before, or make no sense, nothing is left to try."""

_INSISTENT = 20
"""After this many of them the sampler knows nothing better, and proposals are drawn at random."""

_SLOWEST = 100.0
"""The ratio to the default of a case that cannot be run: larger than that of any case that can."""


def one_by_one(best: Case, default: Case, levers: Sequence[Lever]) -> Iterator[Case]:
    """Yield the cases that are one lever away from the best. Where that cannot be combined with another of its levers,
    or would have no effect beside it, the other one gives way: otherwise what has won first would keep out all that it
    does not go with.
    """
    for lever in levers:
        for value in lever.values:
            case = _with_value(best, default, lever.field, value)
            if case is not None and case != best:
                yield case


def _with_value(best: Case, default: Case, field: str, value: str) -> Case | None:
    others = ({other: usual} for other, (_, usual) in levers_of(best, default).items() if other != field)
    for giving_way in ({}, *others):
        try:
            case = with_values(best, {**giving_way, field: value})
        except OptionError:
            continue
        if _makes_sense(case, default):
            return case
    return None


def _makes_sense(case: Case, default: Case) -> bool:
    """Whether each lever can have an effect: a single thread waits for no other, whatever the wait policy."""
    return case.runtime.threads > 1 or case.runtime.wait_policy == default.runtime.wait_policy


class Proposals:
    """A sampler of cases that learns from those that were tried.

    Args:
        default: the case that all others are measured by.
        levers: what may be varied.
        seed: random seed of the sampler.
    """

    def __init__(self, default: Case, levers: Sequence[Lever], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=1)
        self._study = optuna.create_study(sampler=sampler)
        self._default = default
        self._chance = random.Random(seed)
        self._spaces: Mapping[str, optuna.distributions.CategoricalDistribution] = {
            lever.field: optuna.distributions.CategoricalDistribution(lever.values) for lever in levers
        }

    def tell(self, case: Case, ratio: float | None) -> None:
        """Learn how fast a case is: its ratio to the default, or None if it cannot be run."""
        import optuna

        differing = levers_of(case, self._default)
        fields = self._default.step.model_dump() | self._default.runtime.model_dump()
        values = {name: differing[name][0] if name in differing else str(fields[name]) for name in self._spaces}
        self._study.add_trial(
            optuna.trial.create_trial(
                params=values, distributions=dict(self._spaces), value=_SLOWEST if ratio is None else ratio
            )
        )

    def next(self, tried: set[Case]) -> Case | None:
        """Propose a case that was not tried. Returns None when none is left that is worth trying."""
        for attempt in range(_MISSES):
            values = self._proposed_values() if attempt < _INSISTENT else self._any_values()
            try:
                case = with_values(self._default, values)
            except OptionError:
                continue
            if case not in tried and _makes_sense(case, self._default):
                return case
        return None

    def _proposed_values(self) -> dict[str, str]:
        trial = self._study.ask(dict(self._spaces))
        # The outcome of a proposal is told separately, with all earlier results of its case.
        self._study.tell(trial, state=_failed())
        return trial.params

    def _any_values(self) -> dict[str, str]:
        return {field: str(self._chance.choice(space.choices)) for field, space in self._spaces.items()}


def _failed() -> "optuna.trial.TrialState":
    import optuna

    return optuna.trial.TrialState.FAIL
