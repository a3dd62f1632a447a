"""A sweep in rounds: each of them measures every case once, in a process of its own, in an order drawn at random.

A disturbance of some seconds then costs every case a process and none its result, and the processes of a case lie as
far apart as the sweep is long: their spread is what an interval needs to know.
"""

import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence

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

PROCESS_S = 1.0
"""Seconds that the start and the warm-up of a process take, roughly. Only the first forecast uses them."""

SERVER_S = 3.5
"""Seconds that torch needs to be imported, once for each runtime. Only the first forecast uses them."""

BUDGET_S = 300.0
"""How long rounds may be added in search of a precision, unless another budget is given."""


class Plan(Frozen):
    """How a sweep is measured."""

    rounds: Positive = ROUNDS
    order_seed: Count = 0
    """The order of each round is drawn from it."""
    sampling: Sampling = Sampling()
    observing: Observing | None = None
    """The observers that look at the last process of each whole step. None: nobody does."""
    precision: float | None = Field(None, gt=0)
    """Rounds are added for the cases whose interval within the run is wider than this, to either side."""
    budget_s: Amount = BUDGET_S
    """How long the whole sweep may take, if it has a precision to reach."""
    with_plain: bool = True
    """Whether the largest case also runs as a plain process."""


class RoundsSweep:
    """A sweep that is measured in rounds, with all that it has given so far. It may be left at any time.

    Attributes:
        cases: what is measured, besides the plain process.
        measurements: of each case that has a process so far, and has not failed.
        plain_case: the largest case as a plain process, if it is to be measured.
        failures: why a case failed. It has no part in further rounds, and its processes are dropped.
    """

    def __init__(self, cases: Collection[Case], plan: Plan, bench: Bench) -> None:
        self.measurements: dict[Case, Measurement] = {}
        self.failures: dict[Case, WorkerFailed] = {}
        self.cases = tuple(dict.fromkeys(cases))
        self._plan = plan
        self._bench = bench
        self._order = random.Random(plan.order_seed)
        self._took_s: dict[Case, float] = {}
        self._git = read_git()
        largest = largest_step(self.cases) if plan.with_plain else None
        self.plain_case = largest and as_plain(largest)
        self._all = (*self.cases, *({self.plain_case} - {None, *self.cases}))

    @property
    def plain(self) -> Measurement | None:
        """The measurement of the largest case as a plain process."""
        return self.measurements.get(self.plain_case) if self.plain_case else None

    @property
    def plain_failure(self) -> WorkerFailed | None:
        """Why the plain process failed. None where it is one of the cases: then it is that case's failure."""
        return self.failures.get(self.plain_case) if self.plain_case and self.plain_case not in self.cases else None

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes of all processes."""
        return tuple(dict.fromkeys(case.runtime for case in self._all))

    def knows(self, case: Case) -> bool:
        """Whether a case is one of this sweep's."""
        return case in self.cases

    def has_result(self, case: Case) -> bool:
        """Whether a case has failed, or has processes enough for a result."""
        if case in self.failures:
            return True
        measurement = self.measurements.get(case)
        return measurement is not None and len(measurement.processes) >= min(MIN_PROCESSES, self._plan.rounds)

    def run(self, until: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """Measure round after round; yield after each how many are done. Ends early once ``until`` says so."""
        started_s = self._bench.clock_s()
        rounds = self._plan.rounds
        for number in range(1, rounds + 1):
            self._round(number, self._all, rounds, until)
            yield number
            if until():
                return
        while self._plan.precision is not None:
            wide = self._wider_than(self._plan.precision)
            expected_s = math.fsum(self._took_s[case] for case in wide)
            if not wide or self._bench.clock_s() - started_s + expected_s > self._plan.budget_s:
                return
            rounds += 1
            self._round(rounds, wide, rounds, until)
            yield rounds

    def _wider_than(self, precision: float) -> list[Case]:
        widths = half_widths(list(self.measurements.values()))
        return [case for case, width in widths.items() if width > precision]

    def _round(self, number: int, cases: Sequence[Case], rounds: int, until: Callable[[], bool]) -> None:
        left = [case for case in self._order.sample(cases, len(cases)) if case not in self.failures]
        while left and not until():
            case = left.pop(0)
            self._bench.progress(self._forecast(number, rounds, case, left))
            before_s = self._bench.clock_s()
            try:
                self._measure(case, number)
            except WorkerFailed as error:
                self.failures[case] = error
                self.measurements.pop(case, None)
            self._took_s[case] = self._bench.clock_s() - before_s

    def _measure(self, case: Case, number: int) -> None:
        plan = self._plan
        with self._bench.start(case, Source.here()) as worker:
            measured = measure(case, worker, plan.sampling.for_case(case), round_=number, git=self._git)
            is_observed = case.workload.part == "step" and case != self.plain_case and number == plan.rounds
            if is_observed and plan.observing is not None:
                measured = measured.model_copy(update={"observations": observe(worker, plan.observing)})
        earlier = self.measurements.get(case)
        self.measurements[case] = earlier.with_processes_of(measured) if earlier else measured

    def _forecast(self, number: int, rounds: int, case: Case, left: Sequence[Case]) -> str:
        """Say what is measured next, and how long everything will still take: as long as the round before did."""
        text = f"round {number} of {rounds}: {case.id}"
        if not self._took_s.keys() >= {case, *left}:
            return text
        cases = [case for case in self._all if case not in self.failures]
        left_s = math.fsum(self._took_s[case] for case in (case, *left))
        left_s += (rounds - number) * math.fsum(self._took_s[case] for case in cases)
        return f"{text}, about {left_s:.0f} s left"


def forecast_s(cases: Sequence[Case], plan: Plan) -> float:
    """Estimate how long a sweep takes, before it begins."""
    runtimes = {case.runtime for case in cases}
    processes_s = (PROCESS_S + plan.sampling.for_case(case).time_s for case in cases)
    return plan.rounds * math.fsum(processes_s) + SERVER_S * (len(runtimes) + plan.with_plain)


def largest_step(cases: Sequence[Case]) -> Case | None:
    """Return the whole step with the most threads, and among those the first with the most tokens."""
    steps = [case for case in cases if case.workload.part == "step"]
    return max(steps, key=lambda case: (case.runtime.threads, case.workload.tokens), default=None)


def as_plain(case: Case) -> Case:
    """Return the case in a process whose environment sets nothing but the number of threads."""
    runtime = Runtime(threads=case.runtime.threads, allocator="glibc", wait_policy="unset", affinity="free")
    return case.model_copy(update={"runtime": runtime})
