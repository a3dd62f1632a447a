"""Makers of records: each gives a plausible record, and takes what a test wants to be otherwise."""

import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import cycle, islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ntp.case import PHASES, Case, Runtime, Workload
from ntp.judge.guard import plan_of
from ntp.machine.runtime import RELEVANT
from ntp.records.environment import (
    Cache,
    Environment,
    Git,
    Library,
    Machine,
    Process,
    Software,
    TorchBuild,
)
from ntp.records.guard import GuardedCase, GuardRecord
from ntp.records.observations import (
    BETWEEN_OPERATORS,
    BETWEEN_PHASES,
    Denormals,
    FlopCount,
    FlopShare,
    LiveBytes,
    MemoryProfile,
    Observations,
    Operator,
    OperatorProfile,
    PhaseMemory,
    PhaseSamples,
    PhaseTimes,
    TensorBytes,
)
from ntp.records.pairs import Block, Counts, Pair, Side
from ntp.records.peaks import (
    MachinePeaks,
    Product,
    Setting,
    Stream,
    ThreadPeaks,
    closed_form_flops,
    gemm_flops,
    gemm_shapes,
)
from ntp.records.run import Harness, MeasuredProcess, Measurement, Run, WarmUp

if TYPE_CHECKING:
    from ntp.worker.driver import PipeWorker
    from ntp.worker.launch import ForkServer

# A background job of a shell is started deaf to Ctrl-C, and whatever nohup starts to the end of its terminal. The
# processes of the tests would be deaf, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# pytest-benchmark takes a pytest that has this for a part of a parallel one, and measures nothing in it. The tests' own
# sweeps are whole.
os.environ.pop("PYTEST_XDIST_WORKER", None)

with suppress(ImportError):  # a sweep reads this file too, and has no need of hypothesis
    from hypothesis import settings

    # No test asserts how long something takes: a shared machine stalls for longer than any limit. The examples differ
    # from run to run, so that many runs of half of hypothesis' usual hundred see as much.
    settings.register_profile("ntp", settings.default, deadline=None, max_examples=50)
    settings.register_profile("quick", settings.get_profile("ntp"), max_examples=10)
    settings.load_profile("ntp")


AMBIENT = re.compile(
    rf"{RELEVANT.pattern}|CI|COLUMNS|LINES|LANG|LANGUAGE|LC_.*|TZ|(NO|FORCE)_COLOR|GITHUB_.*|GIT_.*|NTP_.*|XDG_CACHE_HOME"
    "|CXX|PYTEST_ADDOPTS"
)
"""What a shell may say of libraries, terminals and the like. A test that is about one of these sets it itself."""


def pytest_configure(config: pytest.Config) -> None:
    """Let the tests see an environment that is the same everywhere. The benchmarks are the user's, as the shell is."""
    if config.option.benchmark_only:
        return
    for name in filter(AMBIENT.fullmatch, list(os.environ)):
        del os.environ[name]
    # Threads that spin while they wait would take the CPUs from the tests that run beside them.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    time.tzset()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts workers, as far as its fixtures tell. The long tests first, the others in their order."""
    for item in items:
        if "fork_servers" in getattr(item, "fixturenames", ()):
            item.add_marker("worker")
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


LOADS_TORCH = re.compile(r"ntp\.worker\.worker \d+$|fork_server\.py .*\btorch\b|-m ntp (train|predict|profile|tune)")


@pytest.fixture(scope="session", autouse=True)
def workers_are_marked() -> Iterator[Callable[[bool], None]]:
    """A process of ours that loads torch is refused to a test without the mark ``worker``."""
    allowed = [True]

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and not allowed[0]:
            command = " ".join(map(str, arguments[1]))
            assert not LOADS_TORCH.search(command), f"a test that starts this needs the mark worker: {command}"

    sys.addaudithook(refuse)

    def allow(may: bool) -> None:
        allowed[0] = may

    yield allow
    allow(True)


@pytest.fixture(autouse=True)
def _may_start(request: pytest.FixtureRequest, workers_are_marked: Callable[[bool], None]) -> None:
    workers_are_marked(request.node.get_closest_marker("worker") is not None)


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
MakeOperators = Callable[..., OperatorProfile]
MakeObservations = Callable[..., Observations]
MakePeaks = Callable[..., MachinePeaks]
MakeGuarded = Callable[..., GuardedCase]
MakeGuardRecord = Callable[..., GuardRecord]

MIB = 2**20
SQUARE = (2048, 2048, 2048)

# Of the simple model at 32 x 128 with two threads: name, phase, ms, calls, MiB allocated, MB moved, GFLOP, shapes.
OPERATORS = (
    ("aten::mm", "backward", 31.0, 5, 24, 140, 12.784, "4096x1000, 1000x256"),
    ("aten::addmm", "forward", 12.0, 2, 20, 60, 4.295, "1024, 4096x256, 256x1024"),
    ("aten::_log_softmax", "loss", 9.0, 1, 15.6, 33, 0, "4096x1000"),
    ("aten::_log_softmax_backward_data", "backward", 8.0, 1, 15.6, 49, 0, "4096x1000, 4096x1000"),
    ("aten::mm", "forward", 5.5, 1, 15.6, 21.6, 2.097, "4096x256, 256x1000"),
    (BETWEEN_OPERATORS, BETWEEN_PHASES, 4.5, 0, 0, 0, 0, ""),
    ("aten::_foreach_addcdiv_", "optimizer", 4.0, 1, 6, 24.7, 0.0015, "256x1024, 256x1024"),
    ("aten::threshold_backward", "backward", 3.0, 1, 16, 50, 0, "4096x1024, 4096x1024"),
    ("Optimizer.step#AdamW.step", "optimizer", 2.0, 1, 0, 0, 0, ""),
    ("aten::add_", "backward", 1.0, 3, 0, 12, 0.001, "256x1000, 256x1000"),
)


def _measurement(
    case: str | Case = "simple-b8-s64-t1",
    step_time_ns: Sequence[int] = (),
    levels: Sequence[float] = (1.0,),
    **other: Any,
) -> Measurement:
    """A measurement of a process for each level: its samples are multiplied by it. Other fields are of every process,
    or of the measurement.
    """
    samples = tuple(step_time_ns) or tuple(10_000_000 + 10_000 * i for i in range(-10, 11))
    environment = {"git": Git(commit="0123456789abcdef" * 2, branch="main", dirty=False)}
    environment |= {name: other.pop(name) for name in ("machine", "software", "git", "process") if name in other}
    of_process: dict[str, Any] = {
        "warm_up": WarmUp(step_time_ns=(30_000_000, *[10_000_000] * 11), wall_time_ns=140_000_000, steady=True),
        "harness": Harness(start_s=1.5, warm_up_s=1.0, timed_s=3.0, parent_cpu_s=0.003),
        "peak_rss_bytes": 300 << 20,
        "minor_page_faults": 42,
        "major_page_faults": 0,
    }
    of_process |= {name: other.pop(name) for name in MeasuredProcess.model_fields if name in other}
    values: dict[str, Any] = {
        "case": Case.parse(case) if isinstance(case, str) else case,
        "processes": tuple(
            MeasuredProcess(
                started=f"2025-01-02T03:04:{number:02}+00:00",
                round=number,
                step_time_ns=tuple(round(sample * level) for sample in samples),
                **of_process,
            )
            for number, level in enumerate(levels, 1)
        ),
        "parameters": 1_543_144,
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


def _operators(*rows: tuple[Any, ...], **other: Any) -> OperatorProfile:
    names = ("name", "phase", "self_time_ns_per_step", "calls_per_step", "allocated_bytes_per_step")
    names += ("moved_bytes_per_step", "flops_per_step", "input_shapes")
    scales = (1, 1, 1e6, 1, MIB, 1e6, 1e9, 1)
    filled = ((*row, *("?", "forward", 1, 1, 0, 0, 0, "")[len(row) :]) for row in rows)
    by_shape = tuple(
        Operator(
            **{
                name: value if scale == 1 else value * scale
                for name, value, scale in zip(names, row, scales, strict=True)
            }
        )
        for row in filled
    )
    values: dict[str, Any] = {
        "operators": tuple(each.model_copy(update={"input_shapes": ""}) for each in by_shape),
        "largest_by_shape": by_shape[:3],
        "profiled_step_ns": (84_000_000, 85_000_000, 83_000_000),
        "bare_step_ns": (80_000_000,) * 3,
    }
    return OperatorProfile(**(values | other))


def _phases(step_ns: int = 80_000_000, pairs: int = 4) -> PhaseTimes:
    shares = dict(zip(PHASES, (0.003, 0.001, 0.3, 0.15, 0.49, 0.05), strict=True))
    return PhaseTimes(
        phases=tuple(
            PhaseSamples(phase=name, time_ns=(round(step_ns * each),) * pairs) for name, each in shares.items()
        ),
        instrumented_step_ns=(step_ns,) * pairs,
        bare_step_ns=(round(step_ns * 0.998),) * pairs,
    )


def _memory() -> MemoryProfile:
    held = {"parameters": 6_172_576, "optimizer_state": 12_345_176}
    peak = TensorBytes(**held, inputs=33_024, activations=62 * MIB, temporaries=16 * MIB)
    live_mib = (24, 18, 80, 80, 24, 24)
    ends_ns = (240_000, 320_000, 24_320_000, 36_320_000, 75_520_000, 79_520_000)
    phases = tuple(
        PhaseMemory(phase=name, peak_bytes=peak.total_bytes if name == "backward" else mib * MIB, live_bytes=mib * MIB,
                    start_ns=start_ns, end_ns=end_ns)
        for name, mib, start_ns, end_ns in zip(PHASES, live_mib, (0, *ends_ns[:-1]), ends_ns, strict=True)
    )  # fmt: skip
    levels = ((0, 24 * MIB), (320_000, 18 * MIB), (24_320_000, 64 * MIB), (40_000_000, peak.total_bytes))
    return MemoryProfile(
        baseline=TensorBytes(**held, gradients=6_172_576),
        peak=peak,
        peak_phase="backward",
        phases=phases,
        timeline=tuple(
            LiveBytes(time_ns=time_ns, live_bytes=size) for time_ns, size in (*levels, (80_000_000, 24 * MIB))
        ),
    )


def _flops() -> FlopCount:
    whole = closed_form_flops(Workload()) or 0
    by_phase = {"forward": whole // 3, "backward": whole - whole // 3}
    by_operator = {"aten::mm": whole - 4_294_967_296, "aten::addmm": 4_294_967_296}
    return FlopCount(
        phases=tuple(FlopShare(name=name, flops=by_phase.get(name, 0)) for name in PHASES),
        operators=tuple(FlopShare(name=name, flops=flops) for name, flops in by_operator.items()),
    )


def _observations(**other: Any) -> Observations:
    values: dict[str, Any] = {
        "phases": _phases(),
        "memory": _memory(),
        "denormals": Denormals(share=0),
        "flops": _flops(),
        "operators": _operators(*OPERATORS),
        "wall_time_s": 2.5,
    }
    return Observations(**(values | other))


def _peaks(
    threads: int = 2,
    gb_per_s: float | None = 20.0,
    workload: Workload | None = None,
    warnings: tuple[str, ...] = (),
    skipped: tuple[Any, ...] = (),
    **gflops: float,
) -> MachinePeaks:
    shapes = gemm_shapes(workload) if workload else ()
    routes = {"fp32": ("fp32", "default"), "onednn": ("fp32", "onednn"), "medium": ("fp32", "medium")}
    routes["bf16"] = ("bf16", "default")
    products = []
    for name, rate in (gflops or {"fp32": 300.0}).items():
        dtype, route = routes[name]
        for shape in (*shapes, SQUARE):
            best_ns = round(gemm_flops(shape) / rate)
            library = "mkl" if name == "fp32" else "onednn"
            error = 1e-3 if name == "bf16" else 1e-7
            times_ns = (best_ns, best_ns * 11 // 10, best_ns * 12 // 10)
            products.append(
                Product(dtype=dtype, route=route, library=library, shape=shape, error=error, time_ns=times_ns)
            )
    streams = () if gb_per_s is None else (Stream(kernel="copy", array_bytes=10**8, time_ns=(round(2e8 / gb_per_s),)),)
    at_threads = ThreadPeaks(
        setting=Setting(threads=threads), products=tuple(products), streams=streams, skipped=skipped
    )
    return MachinePeaks(
        machine=MACHINE.fingerprint,
        software=SOFTWARE.fingerprint,
        shapes=shapes,
        by_threads=(at_threads,),
        warnings=warnings,
    )


COUNTS = Counts(
    parameters=1_543_144,
    flops=19_176_000_000,
    operators=(("aten::add_", 3), ("aten::copy_", 2), ("aten::mm", 6)),
    allocated_bytes=112.5 * MIB,
    peak_tensor_bytes=96 * MIB,
)
PAIR_NOISE = (0.004, -0.006, 0.005, -0.003, 0.001, -0.001, 0.002, -0.002, 0.0, 0.0)


def _pair(
    case_id: str, log_ratio: float, tail: float = 0.0, waiting: float = 0.0, seed: int = 0, step_ns: int = 10_000_000
) -> Pair:
    blocks = []
    for i in range(20):
        base_ns = step_ns + step_ns * i // 10_000
        head_ns = base_ns * math.exp(log_ratio + tail * (i >= 16))
        for side, cpu_ns, factor in (("base", base_ns, 1.0), ("head", head_ns, math.exp(waiting))):
            blocks.append(Block(side=side, step_time_ns=(round(cpu_ns * factor),), step_cpu_ns=(round(cpu_ns),)))
    return Pair(case_id=case_id, seed=seed, blocks=tuple(blocks))


def _guarded_case(
    case_id: str = "simple-b32-s128-t2",
    log_ratio: float = 0.0,
    pairs: int = 10,
    scale: float = 1.0,
    tail: float = 0.0,
    waiting: float = 0.0,
    restless: float = 0.0,
    **other: Any,
) -> GuardedCase:
    """``waiting`` is what the head waits longer, ``restless`` by how many times the usual noise that varies."""
    noise = list(islice(cycle(PAIR_NOISE), pairs))
    values: dict[str, Any] = {
        "base": COUNTS,
        "head": COUNTS,
        "pairs": tuple(
            _pair(case_id, log_ratio + scale * each, tail, waiting + restless * each, i) for i, each in enumerate(noise)
        ),
        "wall_time_s": 5.0 + 4.5 * pairs,
    }
    return GuardedCase(case_id=case_id, **(values | other))


def _guard_record(*cases: GuardedCase, threshold: float = 0.01, max_pairs: int = 20, **other: Any) -> GuardRecord:
    plan = plan_of([case.case_id for case in cases], threshold, 60.0)
    values: dict[str, Any] = {
        "started": "2025-01-02T03:04:05+00:00",
        "wall_time_s": 3.0 + sum(case.wall_time_s for case in cases),
        "command": ("ntp", "guard", "--base", "main"),
        "base": Side(ref="main", commit="0123456789abcdef" * 2 + "01234567", software=SOFTWARE),
        "head": Side(ref="worktree", commit="fedcba9876543210" * 2 + "fedcba98", dirty=True, software=SOFTWARE),
        "plan": plan.model_copy(update={"max_pairs": max_pairs}),
        "budget_s": 60.0,
        "seed": 1,
        "machine": MACHINE,
        "cases": cases,
    }
    return GuardRecord(**(values | other))


ServerOf = Callable[[Runtime], "ForkServer"]


@pytest.fixture(scope="session")
def fork_servers() -> Iterator[ServerOf]:
    """``fork_servers(runtime)``: a process with torch loaded that forks workers. All tests share those."""
    from ntp.worker.launch import ForkServer

    servers: dict[Runtime, ForkServer] = {}

    def server_of(runtime: Runtime) -> ForkServer:
        if runtime not in servers:
            servers[runtime] = ForkServer(runtime)
        return servers[runtime]

    yield server_of
    for server in servers.values():
        server.stop()


@pytest.fixture
def forks(fork_servers: ServerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards and searches within this process take the servers that all tests share."""
    from ntp.worker import pairs

    def server(runtime: Runtime, _source: object = None, python: object = None) -> SimpleNamespace:
        assert python is None
        return SimpleNamespace(
            launch=fork_servers(runtime).launch,
            stop=lambda: None,
            wait_until_ready=fork_servers(runtime).wait_until_ready,
        )

    monkeypatch.setattr(pairs, "ForkServer", server)


@pytest.fixture
def start_worker(fork_servers: ServerOf) -> Callable[[Case], "PipeWorker"]:
    """``start_worker(case)``: a real worker, which takes a tenth of the time of a new process to be there."""
    from ntp.worker.driver import PipeWorker

    return lambda case: PipeWorker(case, launch=fork_servers(case.runtime).launch)


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """``--benchmark-only`` would skip all that is here: spare it the collection."""
    return True if config.option.benchmark_only else None


@pytest.fixture(scope="session")
def make_measurement() -> MakeMeasurement:
    """``make_measurement(case_id_or_case, step_time_ns, **fields)``; what is of the environment goes within."""
    return _measurement


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """``make_run(*measurements, **fields)``: a run that measured all it planned, unless told otherwise."""
    return _run


@pytest.fixture(scope="session")
def make_operators() -> MakeOperators:
    """``make_operators((name, phase, ms, calls, MiB allocated, MB moved, GFLOP, shapes), ...)``, cut off anywhere."""
    return _operators


@pytest.fixture(scope="session")
def make_observations() -> MakeObservations:
    """``make_observations(**fields)``: all but a flame, of the simple model's default workload in 80 ms."""
    return _observations


@pytest.fixture(scope="session")
def make_peaks() -> MakePeaks:
    """``make_peaks(threads, fp32=GFLOP/s, onednn=..., medium=..., bf16=..., gb_per_s=...)`` of all threads together."""
    return _peaks


@pytest.fixture(scope="session")
def make_guarded() -> MakeGuarded:
    """``make_guarded(case_id, log_ratio, pairs, scale, tail, waiting, **fields)``: equal counts, and pairs around the
    log-ratio.

    Pairs differ by ``scale`` times 0.3% or so. A fifth of the head's steps are slower by the log-ratio ``tail``, and
    all of them wait for the log-ratio ``waiting`` beside what they compute.
    """
    return _guarded_case


@pytest.fixture(scope="session")
def make_guard_record() -> MakeGuardRecord:
    """``make_guard_record(*cases, threshold, max_pairs, **fields)``: of the work tree against ``main``."""
    return _guard_record
