"""The pytest side: options, fixtures and the terminal table. An installed user has them in any repository.

A benchmark asks for the fixtures ``measure`` and ``case`` and hands one to the other::

    def bench_train_step(measure, case):
        measure(case)

It is then run once for each combination of the ``--ntp-...`` options, each case in a worker process of its own.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.session import BenchmarkSession
from pytest_benchmark.utils import safe_dumps

from ntp.case import STEP_PRESETS, Case, Frozen, Runtime, StepConfig, Workload, option_errors
from ntp.errors import NtpError, OptionError, RecordError, WorkerFailed
from ntp.measure.cpus import available_cpus
from ntp.measure.driver import PipeWorker, Sampling, measure
from ntp.measure.records import Failure, Run, write_whole

MATRIX = ("threads", "batch_size", "seq_len", "precision", "step")
"""What the sweep's options vary, by the names that ``--benchmark-group-by=param:threads`` and the like know."""


SECONDS_AROUND_SAMPLES = 4.0
"""What starting a worker and warming it up take, roughly: for the forecast alone."""


def _integers(text: str) -> tuple[int, ...]:
    """A comma-separated list of positive integers, without repeats, in the order given."""
    try:
        values = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected positive integers separated by commas, as in 8,32 (got {text!r})")
    return values


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The sweep's options. Lists are separated by commas; every combination is measured."""
    group = parser.getgroup("ntp", "training steps of next-token models (ntp)")
    default = Workload()
    group.addoption("--ntp-threads", metavar="LIST", type=_integers, help="Default: 1 and all CPUs available.")
    group.addoption("--ntp-batch-sizes", metavar="LIST", type=_integers, default=(8, 32), help="Default: 8,32")
    group.addoption("--ntp-seq-lens", metavar="LIST", type=_integers, default=(64, 128), help="Default: 64,128")
    group.addoption("--ntp-precisions", metavar="LIST", type=_names, default=("fp32",), help="Default: fp32")
    group.addoption(
        "--ntp-steps",
        metavar="LIST",
        type=_names,
        default=("eager",),
        help=f"Ways to compute the step. Known: {', '.join(STEP_PRESETS)}. Default: eager",
    )
    group.addoption(
        "--ntp-model",
        metavar="SPEC",
        default=default.model,
        help="simple, package.module:factory or path/to/file.py:factory. Default: %(default)s",
    )
    group.addoption("--ntp-data", metavar="SPEC", default=default.data, help="uniform, zipf[:EXPONENT] or file:PATH.")
    for name, meaning in (
        ("vocab-size", "token ids are below this"),
        ("embed-dim", "width of the embedding"),
        ("hidden-dim", "width of the hidden layer"),
        ("seed", "of model and data"),
    ):
        value = getattr(default, name.replace("-", "_"))
        group.addoption(f"--ntp-{name}", metavar="N", type=int, default=value, help=f"{meaning}. Default: %(default)s")
    for name, field in (("allocator", "allocator"), ("wait-policy", "wait_policy"), ("affinity", "affinity")):
        value = Runtime.model_fields[field].default
        group.addoption(f"--ntp-{name}", metavar="NAME", default=value, help="Of the workers. Default: %(default)s")
    group.addoption(
        "--ntp-sample-time",
        metavar="SECONDS",
        type=float,
        default=Sampling().time_s,
        help="How long each case is timed, after its warm-up. Default: %(default)s",
    )
    group.addoption(
        "--ntp-min-samples", metavar="N", type=int, default=Sampling().min_samples, help="Default: %(default)s"
    )
    group.addoption(
        "--ntp-timeout",
        metavar="SECONDS",
        type=float,
        default=300.0,
        help="A worker that is silent for longer has failed. Default: %(default)s",
    )
    group.addoption(
        "--ntp-report-dir",
        metavar="DIR",
        type=Path,
        default=Path("reports/latest"),
        help="Where run.json, report.md and report.csv go. Default: %(default)s",
    )


class WorkerClock:
    """A clock that advances by what a worker measured, and by nothing else.

    pytest-benchmark reads it before and after each round, so that its own statistics, table, JSON, histogram and
    comparison are of the worker's times.
    """

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_ns / 1e9

    def replay(self, step_time_ns: tuple[int, ...]) -> Callable[[], None]:
        """A function that lets one sample go by at each call. Further calls (``--benchmark-cprofile``) take no time."""
        samples = iter(step_time_ns)

        def step() -> None:
            self.now_ns += next(samples, 0)

        return step


worker_clock = WorkerClock()


class Sweep:
    """One pytest session's measurements: the cases, and the files that are written after each of them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.started = datetime.now(UTC)
        self.started_s = time.perf_counter()
        self.planned = 0
        self.measured = 0
        self.failures: list[Failure] = []
        option = config.option
        with option_errors():
            self.sampling = Sampling(time_s=option.ntp_sample_time, min_samples=option.ntp_min_samples)
        if not option.ntp_timeout > 0:
            raise OptionError(f"ntp-timeout: a worker needs some time to answer (got {option.ntp_timeout})")
        for preset in option.ntp_steps:
            if preset not in STEP_PRESETS:
                raise OptionError(f"ntp-steps: no step is named {preset!r}; known: {', '.join(STEP_PRESETS)}")
        self.threads = self._threads(option.ntp_threads)
        folder: Path = option.ntp_report_dir
        self.report_dir = folder if folder.is_absolute() else config.rootpath / folder
        # Every combination is a case that makes sense, or the sweep does not begin.
        for values in self.combinations():
            self.case(values)

    @staticmethod
    def _threads(asked: tuple[int, ...] | None) -> tuple[int, ...]:
        available = available_cpus().max_threads
        if asked is None:
            return tuple(dict.fromkeys((1, available)))
        if max(asked) > available:
            raise OptionError(
                f"ntp-threads: {max(asked)} asked for, but this process may use {available} "
                "(CPU affinity and cgroup quota counted): ask for fewer"
            )
        return asked

    @property
    def benchmarks(self) -> BenchmarkSession:
        """pytest-benchmark's side of this session."""
        session = self.config.pluginmanager.get_plugin("pytest-benchmark")
        assert isinstance(session, BenchmarkSession)
        return session

    def combinations(self, *, largest: bool = False, **fixed: Sequence[str]) -> list[dict[str, Any]]:
        """All combinations of the sweep's options.

        Args:
            largest: only of its largest thread count, batch size and sequence length.
            fixed: further fields of a case (``part``, ``data``, ``optimizer``), each with the values it is to take.
        """
        option = self.config.option
        sizes = [self.threads, option.ntp_batch_sizes, option.ntp_seq_lens]
        if largest:
            sizes = [(max(values),) for values in sizes]
        values = itertools.product(*sizes, option.ntp_precisions, option.ntp_steps, *fixed.values())
        return [dict(zip((*MATRIX, *fixed), combination, strict=True)) for combination in values]

    def case(self, values: Mapping[str, Any]) -> Case:
        """The case of one of the :meth:`combinations`."""
        options = {
            name.removeprefix("ntp_"): value
            for name, value in vars(self.config.option).items()
            if name.startswith("ntp_")
        }
        known = options | STEP_PRESETS[values["step"]].model_dump(exclude_defaults=True) | dict(values)
        groups: dict[str, type[Frozen]] = {"workload": Workload, "step": StepConfig, "runtime": Runtime}
        with option_errors():
            return Case.model_validate(
                {
                    name: {field: known[field] for field in group.model_fields if field in known}
                    for name, group in groups.items()
                }
            )

    def start(self, case: Case) -> PipeWorker:
        """A fresh worker for the case."""
        return PipeWorker(case, timeout_s=self.config.option.ntp_timeout)

    def failed(self, case: Case, error: WorkerFailed) -> None:
        """Record a case that gave no measurement."""
        self.failures.append(Failure(case_id=case.id, message=str(error), stderr_tail=error.stderr_tail))

    def header(self) -> dict[str, Any]:
        """What the run's document says of the sweep as a whole, as far as it has come."""
        run = Run(
            started=self.started.isoformat(timespec="seconds"),
            wall_time_s=round(time.perf_counter() - self.started_s, 3),
            command=("pytest", *map(str, self.config.invocation_params.args)),
            planned=self.planned,
            failures=tuple(self.failures),
        )
        return run.header()

    @cached_property
    def _machine_info(self) -> Any:
        return self.benchmarks.get_machine_info()

    @cached_property
    def _commit_info(self) -> Any:
        return self.config.hook.pytest_benchmark_generate_commit_info(config=self.config)

    def run(self) -> tuple[dict[str, Any], Run]:
        """All that was measured so far: pytest-benchmark's document, and the same as a record."""
        hook = self.config.hook
        document: dict[str, Any] = hook.pytest_benchmark_generate_json(
            config=self.config,
            benchmarks=self.benchmarks.benchmarks,
            include_data=True,
            machine_info=self._machine_info,
            commit_info=self._commit_info,
        )
        hook.pytest_benchmark_update_json(
            config=self.config, benchmarks=self.benchmarks.benchmarks, output_json=document
        )
        # Through the text, as a reader of the file will have it.
        document = json.loads(safe_dumps(document))
        return document, Run.from_document(document)

    def write(self) -> None:
        """Write run.json and the reports made from it. Ends the session when they cannot be written."""
        from ntp.report import text  # here, so that a pytest without benchmarks need not wait for it

        document, run = self.run()
        try:
            write_whole(self.report_dir / "run.json", json.dumps(document, indent=1) + "\n")
            write_whole(self.report_dir / "report.md", text.markdown(run))
            write_whole(self.report_dir / "report.csv", text.csv(run))
        except RecordError as error:
            pytest.exit(f"ntp: {error}", returncode=5)


_SWEEP = pytest.StashKey[Sweep]()


def _is_measured(item: pytest.Item) -> bool:
    return "measure" in getattr(item, "fixturenames", ())


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected."""
    config.addinivalue_line(
        "markers",
        "ntp_case(largest=False, **fields): measure only the sweep's largest thread count, batch size and sequence "
        "length; give further fields of the case the values listed, as in part=['forward', 'backward'].",
    )
    if not config.pluginmanager.hasplugin("benchmark"):
        return
    if config.option.benchmark_disable:
        # As pytest-benchmark's --benchmark-only does: what is asked for by hand beats --benchmark-skip in addopts.
        config.option.benchmark_skip = False
    try:
        config.stash[_SWEEP] = Sweep(config)
    except NtpError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark of a ``case`` the sweep's combinations, each named as its case is."""
    if not {"case", "measure"} <= set(metafunc.fixturenames):
        return
    sweep = metafunc.config.stash[_SWEEP]
    marker = metafunc.definition.get_closest_marker("ntp_case")
    combinations = sweep.combinations(**(marker.kwargs if marker else {}))
    names = list(combinations[0])
    # They are no arguments of the function: it takes the case they make.
    metafunc.fixturenames.extend(names)
    metafunc.parametrize(
        names, [tuple(values.values()) for values in combinations], ids=[sweep.case(v).id for v in combinations]
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let pytest-benchmark read a worker's times in place of the clock's."""
    if _is_measured(item):
        asked = item.get_closest_marker("benchmark")
        options = {**(asked.kwargs if asked else {}), "timer": worker_clock}
        item.add_marker(pytest.mark.benchmark(**options), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what is going to be measured."""
    if sweep := session.config.stash.get(_SWEEP, None):
        skipped = session.config.option.benchmark_skip and not session.config.option.benchmark_only
        sweep.planned = 0 if skipped else sum(map(_is_measured, session.items))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what is about to happen, and how long it will take."""
    sweep = config.stash.get(_SWEEP, None)
    if not sweep or not sweep.planned or sweep.benchmarks.disabled:
        return []
    seconds = sweep.planned * (SECONDS_AROUND_SAMPLES + sweep.sampling.time_s)
    return [f"ntp: {sweep.planned} cases, about {seconds:.0f} s; reports go to {config.option.ntp_report_dir}"]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what ntp has to say of the run as a whole, to ``--benchmark-json`` and ``--benchmark-save`` too."""
    sweep = config.stash[_SWEEP]
    if sweep.planned:
        output_json["ntp"] = sweep.header()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the run once more, now that its length is known."""
    sweep = session.config.stash.get(_SWEEP, None)
    if sweep and (sweep.measured or sweep.failures):
        sweep.write()


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table, after pytest-benchmark's own."""
    sweep = config.stash.get(_SWEEP, None)
    if sweep and (sweep.measured or sweep.failures):
        from ntp.report import text

        terminalreporter.section("ntp")
        terminalreporter.write_line(text.terminal(sweep.run()[1]))
        terminalreporter.write_line(f"Written: run.json, report.md and report.csv in {config.option.ntp_report_dir}")


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case that this benchmark measures."""
    return request.config.stash[_SWEEP].case(request.node.callspec.params)


@pytest.fixture(name="measure")
def measure_fixture(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Callable[[Case], None]:
    """A function that measures a case in a fresh worker and records it.

    The samples are taken first and handed to pytest-benchmark afterwards, so that a case that fails or is interrupted
    half way never enters its tables or files. With ``--benchmark-disable`` the worker runs one step, untimed.
    """
    sweep = request.config.stash[_SWEEP]

    def measure_case(case: Case) -> None:
        try:
            with _failing_safe(benchmark), sweep.start(case) as worker:
                if benchmark.disabled:
                    worker.load()
                    benchmark.pedantic(worker.run, args=(1,))
                    return
                measurement = measure(case, worker, sweep.sampling)
        except WorkerFailed as error:
            sweep.failed(case, error)
            pytest.fail("\n".join(filter(None, (str(error), error.stderr_tail))), pytrace=False)
        benchmark.extra_info["ntp"] = measurement.model_dump(mode="json")
        benchmark.pedantic(worker_clock.replay(measurement.step_time_ns), rounds=len(measurement.step_time_ns))
        sweep.measured += 1
        sweep.write()

    return measure_case


@contextmanager
def _failing_safe(benchmark: BenchmarkFixture) -> Iterator[None]:
    """Whatever ends a measurement early: let pytest-benchmark know that its fixture was used, and to no avail."""
    try:
        yield
    except BaseException:

        def unusable() -> None:
            raise ValueError

        with suppress(Exception):
            benchmark.pedantic(unusable)
        raise
