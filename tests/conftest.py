"""Makers of records: each gives a plausible record, and takes what a test wants to be otherwise."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ntp.case import Case
from ntp.measure.environment import (
    Cache,
    Conditions,
    Environment,
    Git,
    Library,
    Machine,
    Process,
    Software,
    TorchBuild,
)
from ntp.measure.records import Harness, Measurement, Run, WarmUp

MACHINE = Machine(
    cpu_model="Example CPU @ 2.50GHz",
    architecture="x86_64",
    logical_cpus=2,
    physical_cores=1,
    smt=True,
    caches=(
        Cache(level=1, size_bytes=32 << 10, instances=1),
        Cache(level=2, size_bytes=1 << 20, instances=1),
        Cache(level=3, size_bytes=33 << 20, instances=1),
    ),
    isa_flags=("avx2", "avx512f", "fma"),
    memory_bytes=8 << 30,
    hypervisor=True,
    kernel="6.1.0",
    os="Linux",
)
SOFTWARE = Software(
    python="3.12.1",
    torch="2.9.0+cpu",
    torch_cpu_capability="AVX512",
    torch_build=TorchBuild(blas="mkl", mkl="2024.2", onednn="3.7.1"),
    libraries=(Library(user_api="openmp", internal_api="openmp", prefix="libgomp", file="libgomp.so.1"),),
    libc="glibc 2.36",
    ntp="0.1.0",
)

MakeMeasurement = Callable[..., Measurement]
MakeRun = Callable[..., Run]


def _measurement(case: str | Case = "simple-b8-s64-t1", step_time_ns: Sequence[int] = (), **other: Any) -> Measurement:
    harness = {"start_s": 1.5, "warm_up_s": 1.0, "timed_s": 3.0, "parent_cpu_s": 0.003}
    environment = {"conditions": Conditions(), "git": Git(commit="0123456789abcdef" * 2, branch="main", dirty=False)}
    environment |= {name: other.pop(name) for name in ("machine", "software", "git", "conditions") if name in other}
    values: dict[str, Any] = {
        "case": Case.parse(case) if isinstance(case, str) else case,
        "step_time_ns": tuple(step_time_ns) or tuple(10_000_000 + 10_000 * i for i in range(-10, 11)),
        "warm_up": WarmUp(step_time_ns=(30_000_000, *[10_000_000] * 11), wall_time_ns=140_000_000, steady=True),
        "harness": Harness(**harness),
        "parameters": 1_543_144,
        "peak_rss_bytes": 300 << 20,
        "minor_page_faults": 42,
        "major_page_faults": 0,
        "environment": Environment(
            **{"machine": MACHINE, "software": SOFTWARE, "process": Process(affinity=(0,)), **environment}
        ),
    }
    return Measurement(**(values | other))


def _run(*measurements: Measurement, **other: Any) -> Run:
    failures = other.get("failures", ())
    values: dict[str, Any] = {
        "started": "2025-01-02T03:04:05+00:00",
        "wall_time_s": 6.0 * len(measurements),
        "command": ("pytest", "--benchmark-only"),
        "planned": len(measurements) + len(failures),
        "measurements": measurements,
    }
    return Run(**(values | other))


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """``--benchmark-only`` would skip all that is here: spare it the collection."""
    return True if config.option.benchmark_only else None


@pytest.fixture(scope="session")
def make_measurement() -> MakeMeasurement:
    """``make_measurement(case_id_or_case, step_time_ns, **fields)``; machine, software, git, conditions go within."""
    return _measurement


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """``make_run(*measurements, **fields)``: a run that measured all it planned, unless told otherwise."""
    return _run
