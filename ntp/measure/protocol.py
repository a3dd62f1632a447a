"""What a worker and its parent say to each other: a JSON object a line, a request answered before the next is made.

Requests are ``{"do": NAME, ...}``; answers are ``{"ok": {...}}`` or ``{"error": "one line"}``.
"""

from typing import Protocol

from pydantic import Field

from ntp.case import Frozen
from ntp.measure.environment import Process, Software
from ntp.measure.records import WarmUp


class Loaded(Frozen):
    """Answer to ``load``: the model is built and its first batch can be made."""

    parameters: int
    software: Software
    process: Process


class Ran(Frozen):
    """Answer to ``run``: the samples, and what the process used while they were taken."""

    step_time_ns: tuple[int, ...] = Field(min_length=1)
    minor_page_faults: int
    major_page_faults: int
    cpu_time_s: float
    peak_rss_bytes: int


class Worker(Protocol):
    """A case that can be run. A process behind a pipe in earnest, a script of times in tests."""

    def load(self) -> Loaded:
        """Build the model and the data. The first request."""

    def warm_up(self) -> WarmUp:
        """Run steps until their time is steady."""

    def run(self, steps: int, expected_s: float = 0.0) -> Ran:
        """Run and time exactly ``steps`` steps, which should take about ``expected_s`` seconds."""

    def stop(self) -> None:
        """End the process, whatever it is doing. May be called at any time, also twice."""
