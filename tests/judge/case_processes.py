"""Processes of cases, made of numbers, for the tests of what is judged from them."""

import math
from collections.abc import Sequence

from hypothesis import strategies as st

from ntp.case import Case
from ntp.judge.processes import CaseProcesses, Level, levels_of_processes

A, B, OTHER = "simple-b8-s64-t1", "simple-b32-s64-t1", "simple-b8-s64-t2"
CASE_A, CASE_B = Case.parse(A), Case.parse(B)

times_ns = st.lists(st.integers(1, 10**12), min_size=2, max_size=8)

KERNEL_A, KERNEL_B = (0.0, 0.2, 0.1, -0.1, 0.3), (0.1, -0.2, 0.3, 0.2, 0.0)
REST_A, REST_B = (0.01, -0.01, 0.0, 0.02, -0.02), (-0.01, 0.01, 0.02, -0.02, 0.0)


def processes(case: Case, *medians_ns: float) -> CaseProcesses:
    return CaseProcesses(case, tuple(medians_ns), tuple(None for _ in medians_ns))


def level_of(*medians_ns: float) -> Level:
    return levels_of_processes([processes(CASE_A, *medians_ns)])[CASE_A]


def beside(case: Case, kernel: Sequence[float], slope: float, rest: Sequence[float]) -> CaseProcesses:
    """A case whose log times follow the log kernel times with a slope, and have a rest of their own."""
    medians = (math.exp(16 + slope * log + own) for log, own in zip(kernel, rest, strict=True))
    return CaseProcesses(case, tuple(medians), tuple(math.exp(13 + log) for log in kernel))
