"""A sweep in rounds: each of them measures every case once, in a process of its own, in an order drawn at random.

A disturbance of some seconds then costs every case a process and none its result, and the processes of a case lie as
far apart as the sweep is long: their spread is what an interval needs to know.
"""

import math
import random
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from pydantic import Field

from ntp.case import Amount, Case, Count, Frozen, Positive, Runtime
from ntp.errors import WorkerFailed
from ntp.judge.processes import half_widths
from ntp.machine.software import read_git
from ntp.records.run import Measurement
from ntp.runners.bench import Bench
from ntp.worker.driver import Observing, Sampling, measure, observe
from ntp.worker.sources import Source

ROUNDS = 5
"""With fewer, the quantile of Student's distribution outgrows the noise; each further one gains little."""

MIN_PROCESSES = 2
"""A case of fewer processes has no interval: it is reported only if no more were asked for."""

PROCESS_S = 0.9
"""Seconds that a process takes besides its timed steps, most of them to warm up, as long as none has shown it."""

SERVER_S = 1.7
"""Seconds until the workers of a runtime can be forked, in the forecast before the sweep."""

OBSERVING_S = 1.3
"""Seconds that the observers look at a case, in the forecast before the sweep."""

REPORTS_S = 6.0
"""Seconds that pytest, the tables, the charts and the page take, in the forecast before the sweep."""

OBSERVED_STEPS = 12
"""The observers take about as long as this many steps."""

BUDGET_S = 300.0
"""How long rounds may be added in search of a precision, unless another budget is given."""


class Plan(Frozen):
    """How a sweep is measured."""

    rounds: Positive = ROUNDS
    order_seed: Count = 0
    """The order of each round is drawn from it."""
    sampling: Sampling = Sampling()
    observing: Observing | None = None
    """The observers that look at each whole step, in its process of the last planned round. None: nobody does."""
    precision: float | None = Field(None, gt=0, lt=1)
    """Rounds are added for the cases whose interval within the run is wider than this, to either side."""
    budget_s: Amount = BUDGET_S
    """No more rounds are added for a precision once the sweep has taken as long. Those of ``rounds`` always run."""
    with_plain: bool = True
    """Whether the largest case also runs as a plain process."""

    def observes(self, case: Case) -> bool:
        """Whether observers look at a case."""
        return self.observing is not None and case.workload.part == "step"


def never() -> bool:
    """No reason to end a sweep early."""
    return False


class RoundsSweep:
    """A sweep that is measured in rounds, with all that it has given so far. It may be left at any time.

    Attributes:
        source: where the modules of its workers come from.
        cases: what is measured, besides the plain process.
        plain_case: the largest case as a plain process, if it is to be measured.
        failures: why a case failed. It has no part in further rounds, and its processes are dropped.
        plain_failure: why the plain process failed, likewise, unless it is one of the cases.
        round: the number of the round that is being measured, or was the last.
    """

    def __init__(self, cases: Collection[Case], plan: Plan, bench: Bench) -> None:
        self.source = Source.here()
        self.failures: dict[Case, WorkerFailed] = {}
        self.plain_failure: WorkerFailed | None = None
        self.round = 0
        self.cases = tuple(dict.fromkeys(cases))
        largest = largest_step(self.cases) if plan.with_plain else None
        self.plain_case = None if largest is None else as_plain(largest)
        plain_alone = () if self.plain_case is None or self.plain_case in self.cases else (self.plain_case,)
        self._all: tuple[Case, ...] = (*self.cases, *plain_alone)
        self._failed: set[Case] = set()
        self._measured: dict[Case, Measurement] = {}
        self._plan = plan
        self._bench = bench
        self._order = random.Random(plan.order_seed)
        self._took_s: dict[Case, float] = {}
        """How long the newest process of each case took, without its observers."""
        self._git = read_git()

    @property
    def measurements(self) -> dict[Case, Measurement]:
        """The measurement of each case that has a process so far, and has not failed."""
        return {case: self._measured[case] for case in self.cases if case in self._measured}

    @property
    def plain(self) -> Measurement | None:
        """The measurement of the largest case as a plain process."""
        return self._measured.get(self.plain_case) if self.plain_case else None

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes of all processes."""
        return tuple(dict.fromkeys(case.runtime for case in self._all))

    def knows(self, case: Case) -> bool:
        """Whether a case is one of this sweep's."""
        return case in self.cases

    @property
    def needed(self) -> int:
        """How many processes make a result."""
        return min(MIN_PROCESSES, self._plan.rounds)

    def has_result(self, case: Case) -> bool:
        """Whether a case has failed, or has processes enough for a result."""
        if case in self.failures:
            return True
        measurement = self._measured.get(case)
        return measurement is not None and len(measurement.processes) >= self.needed

    def run(self, until: Callable[[], bool] = never) -> Iterator[int]:
        """Measure round after round; yield after each how many are done. Ends early once ``until`` says so."""
        started_s = self._bench.clock_s()
        plan = self._plan
        while self.round < plan.rounds:
            self._measure_round(self._all, f"of {plan.rounds}", until)
            yield self.round
            if until():
                return
        while plan.precision is not None:
            wide = self._wider_than(plan.precision)
            left_s = plan.budget_s - (self._bench.clock_s() - started_s)
            if not wide or self._expected_s(wide) > left_s:
                return
            self._measure_round(wide, f"for ±{plan.precision:.2%}, {left_s:.0f} s of the budget left", until)
            yield self.round
            if until():
                return

    def _wider_than(self, precision: float) -> list[Case]:
        widths = half_widths(list(self.measurements.values()))
        return [case for case, width in widths.items() if width > precision]

    def _measure_round(self, cases: Sequence[Case], which: str, until: Callable[[], bool]) -> None:
        self.round += 1
        left = [case for case in self._order.sample(cases, len(cases)) if case not in self._failed]
        while left and not until():
            case = left[0]
            self._bench.progress(f"round {self.round} {which}: {case.id}, about {self._left_s(left):.0f} s left")
            try:
                self._measure(case)
            except WorkerFailed as error:
                self._fail(case, error)
            left.pop(0)

    def _fail(self, case: Case, error: WorkerFailed) -> None:
        self._failed.add(case)
        self._measured.pop(case, None)
        if case in self.cases:
            self.failures[case] = error
        else:
            self.plain_failure = error

    def _measure(self, case: Case) -> None:
        plan, bench = self._plan, self._bench
        started_s = bench.clock_s()
        with bench.start(case, self.source) as worker:
            measured = measure(case, worker, plan.sampling.for_case(case), round_=self.round, git=self._git)
            self._took_s[case] = bench.clock_s() - started_s
            if plan.observing is not None and self.round == plan.rounds and self._is_observed(case):
                measured = measured.model_copy(update={"observations": observe(worker, plan.observing)})
        earlier = self._measured.get(case)
        self._measured[case] = earlier.with_processes_of(measured) if earlier else measured

    def _is_observed(self, case: Case) -> bool:
        return self._plan.observes(case) and case in self.cases

    def _left_s(self, left: Sequence[Case]) -> float:
        """Estimate how long everything will still take, this round's ``left`` and the rounds after it: as long as the
        newest process of each case did.
        """
        rounds = self._plan.rounds - self.round
        if rounds < 0:
            return self._expected_s(left)
        cases = [case for case in self._all if case not in self._failed]
        observed = filter(self._is_observed, cases if rounds else left)
        observing_s = math.fsum(OBSERVED_STEPS * self._step_s(case) for case in observed)
        return self._expected_s(left) + rounds * self._expected_s(cases) + observing_s

    def _expected_s(self, cases: Iterable[Case]) -> float:
        """Estimate how long a process of each case takes."""
        sampling = self._plan.sampling
        return math.fsum(self._took_s.get(case) or PROCESS_S + sampling.for_case(case).time_s for case in cases)

    def _step_s(self, case: Case) -> float:
        measurement = self._measured.get(case)
        if measurement is None:
            return OBSERVING_S / OBSERVED_STEPS
        return statistics.median(measurement.processes[-1].step_time_ns) / 1e9


def forecast_s(cases: Sequence[Case], plan: Plan) -> float:
    """Estimate how long a sweep takes, before it begins."""
    largest = largest_step(cases) if plan.with_plain else None
    plain = [] if largest is None else [as_plain(largest)]
    processes_s = (PROCESS_S + plan.sampling.for_case(case).time_s for case in (*cases, *plain))
    servers = len({case.runtime for case in (*cases, *plain)})
    observed = sum(map(plan.observes, cases))
    return plan.rounds * math.fsum(processes_s) + SERVER_S * servers + OBSERVING_S * observed + REPORTS_S


def largest_step(cases: Sequence[Case]) -> Case | None:
    """Return the whole step with the most threads, and among those the first with the most tokens."""
    steps = [case for case in cases if case.workload.part == "step"]
    return max(steps, key=lambda case: (case.runtime.threads, case.workload.tokens), default=None)


def as_plain(case: Case) -> Case:
    """Return the case in a process whose environment sets nothing but the number of threads."""
    runtime = Runtime(threads=case.runtime.threads, allocator="glibc", wait_policy="unset", affinity="free")
    return case.model_copy(update={"runtime": runtime})
