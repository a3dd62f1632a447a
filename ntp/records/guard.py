"""What a guard recorded, as one JSON file: every count and every sample, so that its verdict can be reached again."""

import math
from collections import Counter
from typing import ClassVar, Self

from pydantic import Field, model_validator

from ntp.case import Amount, Count, Frozen, Positive
from ntp.records.pairs import Comparison, Counts, Looks, Pair, Side


class Instructions(Frozen):
    """How many machine instructions a small step executes on either side, as callgrind counted them."""

    case_id: str
    base: Positive
    head: Positive


class GuardedCase(Frozen):
    """One case on both sides."""

    case_id: str
    base: Counts | None = None
    head: Counts | None = None
    pairs: tuple[Pair, ...] = ()
    base_failure: str = ""
    """Why the base could not run the case: then there is nothing to compare with."""
    failure: str = ""
    """Why the head could not run it: this is a failure, and no verdict."""
    foreign: str = ""
    """What a side imported from outside its own tree: then it is no side, and there is nothing to compare."""
    stderr_tail: str = ""
    """The last lines of the worker that failed."""
    wall_time_s: Amount = 0.0
    """The time spent on this case, for counting and pairs."""

    @model_validator(mode="after")
    def _counted_whole(self) -> Self:
        for side in (self.base, self.head):
            if side is not None and side.missing:
                raise ValueError(f"a guard counts all of a step, but these are missing: {', '.join(side.missing)}")
        return self


class Metric(Frozen):
    """What is guarded of a pair, by its name. The threshold is a fraction: 0.01 lets it grow by 1%."""

    name: str
    threshold: float = Field(0.01, gt=0, lt=1)

    @property
    def log_limits(self) -> tuple[float, float]:
        """Minus the threshold, and the threshold, as log-ratios."""
        return math.log1p(-self.threshold), math.log1p(self.threshold)


class Plan(Looks):
    """What was settled before the first pair. No pair may change it, or the promised errors no longer hold."""

    cases: tuple[str, ...] = Field(min_length=1)
    """The ids of all guarded cases."""
    metrics: tuple[Metric, ...] = Field((Metric(name="wall"),), min_length=1)
    own_metrics: dict[str, tuple[Metric, ...]] = Field(default_factory=dict)
    """The metrics of cases that have others than those of all."""
    power: float = Field(0.8, ge=0.5, lt=1)
    """The probability with which the smallest detectable effect would have been detected."""

    def metrics_of(self, case_id: str) -> tuple[Metric, ...]:
        """Return what is guarded of a case."""
        return self.own_metrics.get(case_id, self.metrics)

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not self.own_metrics.keys() <= set(self.cases) or not all(self.own_metrics.values()):
            raise ValueError("own_metrics: each entry names metrics of one of the cases")
        metrics = (self.metrics, *self.own_metrics.values())
        for names in (self.cases, *([metric.name for metric in of_case] for of_case in metrics)):
            name, times = Counter(names).most_common(1)[0]
            if times > 1:
                raise ValueError(f"{name!r} is named {times} times")
        return self


class GuardRecord(Comparison):
    """A guard's run: what it was asked to do, and what it measured."""

    KIND: ClassVar[str] = "guard record"

    schema_version: Count = 2
    base: Side
    head: Side
    plan: Plan
    allowed: tuple[str, ...] = ()
    """The names of the counts that may rise, or patterns of them."""
    changed: tuple[str, ...] = ()
    """The Python files in which the sides differ, seen from the top of the repository."""
    cases: tuple[GuardedCase, ...] = Field(min_length=1)
    instructions: tuple[Instructions, ...] = ()
    """Of small cases that stand for the guarded ones. Empty unless they were to be counted."""
    instructions_failure: str = ""
    """Why they could not be counted."""

    @model_validator(mode="after")
    def _as_planned(self) -> Self:
        if tuple(case.case_id for case in self.cases) != self.plan.cases:
            raise ValueError(f"the plan is for {', '.join(self.plan.cases)}, the cases are others")
        return self
