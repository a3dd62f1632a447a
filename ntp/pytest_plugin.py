"""The pytest side: options, fixtures and the terminal table. An installed user has them in any repository.

A benchmark asks for the fixtures ``measure`` and ``case`` and hands one to the other::

    def test_train_step(measure, case):
        measure(case)

It is then run once for each combination of the ``--ntp-...`` options, each case in a worker process of its own.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ntp.case import BATCH_SIZES, EAGER, SEQ_LENS, Case, Runtime, Workload, step_levers
from ntp.errors import NtpError, WorkerFailed
from ntp.measure.driver import Sampling
from ntp.sweep import SECONDS_AROUND_SAMPLES, Sweep, worker_clock

_WORKLOAD_FIELDS = ("model", "data", "vocab_size", "embed_dim", "hidden_dim", "seed")
_RUNTIME_FIELDS = tuple(field for field in Runtime.model_fields if field != "threads")

MAX_SECONDS = 86_400
"""What an option may ask for: a day."""


def _integers(text: str) -> tuple[int, ...]:
    """A comma-separated list of positive integers, without repeats, in the order given."""
    try:
        values = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected positive integers separated by commas, as in 8,32 (got {text!r})")
    return values


def _seconds(text: str) -> float:
    """A duration that is worth waiting for and has an end."""
    with suppress(ValueError):
        if 0 < (seconds := float(text)) <= MAX_SECONDS:
            return seconds
    raise argparse.ArgumentTypeError(f"expected seconds, more than 0 and at most {MAX_SECONDS:,} (got {text!r})")


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The sweep's options. Lists are separated by commas; every combination is measured."""
    group = parser.getgroup("ntp", "training steps of next-token models (ntp)")
    group.addoption("--ntp-threads", metavar="LIST", type=_integers, help="Default: 1 and all CPUs available.")
    group.addoption("--ntp-batch-sizes", metavar="LIST", type=_integers, default=BATCH_SIZES, help="Default: 8,32")
    group.addoption("--ntp-seq-lens", metavar="LIST", type=_integers, default=SEQ_LENS, help="Default: 64,128")
    group.addoption("--ntp-precisions", metavar="LIST", type=_names, default=("fp32",), help="Default: fp32")
    group.addoption(
        "--ntp-steps",
        metavar="LIST",
        type=_names,
        default=(EAGER,),
        help=f"Ways to compute the step: {EAGER}, or levers joined by +, of {', '.join(step_levers())}. "
        f"Default: {EAGER}",
    )
    for kind, fields in ((Workload, _WORKLOAD_FIELDS), (Runtime, _RUNTIME_FIELDS)):
        for field in fields:
            info = kind.model_fields[field]
            what = {"metavar": "N", "type": int} if info.annotation is int else {"metavar": "NAME"}
            help_ = f"{info.description} Default: %(default)s"
            group.addoption(f"--ntp-{field.replace('_', '-')}", default=info.default, help=help_, **what)
    group.addoption(
        "--ntp-sample-time",
        metavar="SECONDS",
        type=_seconds,
        default=Sampling().time_s,
        help="How long each case is timed, after its warm-up; parts of a step a quarter of it. Default: %(default)s",
    )
    group.addoption(
        "--ntp-min-samples", metavar="N", type=int, default=Sampling().min_samples, help="Default: %(default)s"
    )
    group.addoption(
        "--ntp-no-profile",
        action="store_true",
        help="Leave out the pass under torch.profiler that follows the timed one: operators, bytes moved, roofline.",
    )
    group.addoption(
        "--ntp-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=300.0,
        help="A worker that is silent for longer has failed. Default: %(default)s",
    )
    group.addoption(
        "--ntp-report-dir",
        metavar="DIR",
        type=Path,
        default=Path("reports/latest"),
        help="Where run.json and the reports made of it go, seen from the root directory. Default: %(default)s",
    )
    group.addoption(
        "--ntp-baseline",
        metavar="DIR",
        type=Path,
        help="Hold the sweep against the baselines that ntp baseline keeps there, seen from the root directory. Exit "
        "status: 1 regression, 2 wrong usage, 3 inconclusive, 4 not comparable, 5 a worker failed.",
    )


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
        if config.option.ntp_baseline is not None:
            pytest.exit(f"ntp: {error.explained()}", returncode=2)  # pytest's own status, 4, means not comparable here
        raise pytest.UsageError(error.explained()) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark of a ``case`` the sweep's combinations, each named as its case is."""
    if not {"case", "measure"} <= set(metafunc.fixturenames):
        return
    sweep = metafunc.config.stash.get(_SWEEP, None)
    if sweep is None:
        raise pytest.Collector.CollectError("ntp measures through pytest-benchmark: leave out -p no:benchmark")
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
    cases = "1 case" if sweep.planned == 1 else f"{sweep.planned} cases"
    return [f"ntp: {cases}, about {seconds:.0f} s; reports go to {os.path.relpath(sweep.report_dir)}"]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what ntp has to say of the run as a whole, to ``--benchmark-json`` and ``--benchmark-save`` too."""
    sweep = config.stash[_SWEEP]
    if sweep.planned:
        output_json["ntp"] = sweep.header()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the run once more, now that its length is known, with its web page, and judge it."""
    sweep = session.config.stash.get(_SWEEP, None)
    if sweep and (sweep.measured or sweep.failures):
        sweep.write(page=True)
    if sweep:
        sweep.judge(session)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table, after pytest-benchmark's own."""
    sweep = config.stash.get(_SWEEP, None)
    if sweep and (sweep.measured or sweep.failures):
        from ntp.report import text

        terminalreporter.section("ntp")
        # Line by line: where the terminal knows no "±", pytest escapes all that it is given at once, line breaks too.
        for line in text.terminal(sweep.run()[1]).split("\n"):
            terminalreporter.write_line(line)
        folder = os.path.relpath(sweep.report_dir)
        terminalreporter.write_line(
            f"Written: run.json, report.html, report.md with its charts, report.csv in {folder}"
        )
    if sweep and sweep.verdict_text:
        terminalreporter.section("ntp baseline")
        for line in sweep.verdict_text.splitlines():
            terminalreporter.write_line(line)


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
            with _failing_safe(benchmark):
                if benchmark.disabled:
                    with sweep.start(case) as worker:
                        worker.load()
                        benchmark.pedantic(worker.run, args=(1,))
                    return
                measurement = sweep.measure(case)
        except WorkerFailed as error:
            sweep.failed(case, error)
            message = "\n".join(filter(None, (str(error), error.stderr_tail)))
            raise pytest.fail.Exception(message, pytrace=False) from None
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
