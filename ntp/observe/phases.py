"""A clock for the phases of a step: :func:`ntp.core.step.train_step` calls it around each of them."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ntp.case import PHASES
from ntp.records.observations import PhaseSamples, PhaseTimes

if TYPE_CHECKING:
    from ntp.core.step import Training


class PhaseClock:
    """Adds up, phase by phase, the time spent inside ``with clock("forward"): ...``. Phases do not nest.

    Attributes:
        time_ns: nanoseconds by phase since the last :meth:`reset`.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.perf_counter_ns) -> None:
        self._clock_ns = clock_ns
        self._phase = ""
        self._start_ns = 0
        self.time_ns: dict[str, int] = {}

    def reset(self) -> None:
        self.time_ns = {}

    def __call__(self, phase: str) -> Self:
        """Name the phase that the next ``with`` block is."""
        self._phase = phase
        return self

    def __enter__(self) -> None:
        self._start_ns = self._clock_ns()

    def __exit__(
        self, _type: type[BaseException] | None, _exc: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        elapsed = self._clock_ns() - self._start_ns
        self.time_ns[self._phase] = self.time_ns.get(self._phase, 0) + elapsed


def phase_pass(training: "Training", steps: int, clock_ns: Callable[[], int] = time.perf_counter_ns) -> PhaseTimes:
    """Time the phases of ``steps`` steps, and as many bare steps, which show what that costs.

    Bare and instrumented steps run in pairs, every other pair the other way round (ABBA), so that a machine that slows
    down or speeds up meanwhile affects both.

    Raises:
        ValueError: ``steps`` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"phases are timed over at least 1 step, not {steps}")
    clock = PhaseClock(clock_ns)
    bare_step_ns, instrumented_step_ns = [], []
    time_ns: dict[str, list[int]] = {phase: [] for phase in PHASES}

    def bare() -> None:
        start_ns = clock_ns()
        training.step()
        bare_step_ns.append(clock_ns() - start_ns)

    def instrumented() -> None:
        clock.reset()
        start_ns = clock_ns()
        training.step(clock)
        instrumented_step_ns.append(clock_ns() - start_ns)
        for phase, samples in time_ns.items():
            samples.append(clock.time_ns[phase])

    for pair in range(steps):
        for run in (bare, instrumented) if pair % 2 == 0 else (instrumented, bare):
            run()
    return PhaseTimes(
        phases=tuple(PhaseSamples(phase=phase, time_ns=tuple(samples)) for phase, samples in time_ns.items()),
        instrumented_step_ns=tuple(instrumented_step_ns),
        bare_step_ns=tuple(bare_step_ns),
    )
