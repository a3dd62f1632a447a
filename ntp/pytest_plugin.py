"""The pytest side: options, fixtures and the terminal table. An installed user has them in any repository.

A benchmark asks for the fixtures ``measure`` and ``case`` and hands one to the other::

    def test_train_step(measure, case):
        measure(case)

It is then run once for each combination of the ``--ntp-...`` options, each case in worker processes of its own.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from ntp.errors import NtpError, WorkerFailed

# A session that does not use ntp must not notice it, not even by its time: everything else is imported where the
# first benchmark of ours, or an option, is met.
if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from ntp.case import Case
    from ntp.sweep import Sweep

OPTIONS = (
    *("threads", "batch_sizes", "seq_lens", "precisions", "steps"),
    *("model", "data", "vocab_size", "embed_dim", "hidden_dim", "seed"),
    *("allocator", "wait_policy", "affinity", "interop_threads", "huge_pages", "denormals"),
    *("rounds", "order_seed", "precision", "budget", "sample_time", "min_samples", "no_profile", "timeout"),
    *("report_dir", "baseline"),
)
"""The options, by the names of the fields that they fill."""


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the sweep's options. Lists are separated by commas; every combination is measured.

    What is given is read when the sweep begins (:mod:`ntp.sweep_options`).
    """
    config = pluginmanager.get_plugin("pytestconfig")
    asked_for_help = config is not None and {"-h", "--help"} & set(map(str, config.invocation_params.args))
    if asked_for_help:
        from ntp.sweep_options import help_of
    group = parser.getgroup("ntp", "training steps of next-token models (ntp)")
    for option in OPTIONS:
        shown = help_of(option) if asked_for_help else {}
        action = {"action": "store_true", "default": None} if option == "no_profile" else {}
        group.addoption(f"--ntp-{option.replace('_', '-')}", **action, **shown)


_SWEEP = pytest.StashKey["Sweep"]()


def _given(config: pytest.Config) -> dict[str, Any]:
    values = {option: config.getoption(f"ntp_{option}") for option in OPTIONS}
    return {option: value for option, value in values.items() if value is not None}


def _sweep(config: pytest.Config) -> "Sweep":
    """Return the session's sweep. It begins with the first of ntp's benchmarks."""
    if _SWEEP not in config.stash:
        from ntp.sweep import Sweep

        try:
            config.stash[_SWEEP] = Sweep(config, _given(config))
        except NtpError as error:
            _refuse(config, error)
    return config.stash[_SWEEP]


def _refuse(config: pytest.Config, error: NtpError) -> NoReturn:
    if config.option.ntp_baseline is not None:
        pytest.exit(f"ntp: {error.explained()}", returncode=2)  # pytest's own status, 4, means not comparable here
    raise pytest.UsageError(error.explained()) from error


def _is_ours(item: pytest.Item, name: str) -> bool:
    """Whether a test gets the fixture of this name from here, and not another fixture of the same name.

    A fixture that overrides ours and asks for it is ours, too.
    """
    info = getattr(item, "_fixtureinfo", None)
    for definition in reversed(info.name2fixturedefs.get(name, ()) if info else ()):
        if getattr(definition.func, "__module__", None) == __name__:
            return True
        if name not in definition.argnames:
            return False
    return False


def _is_measured(item: pytest.Item) -> bool:
    return _is_ours(item, "measure")


def _case_of(item: pytest.Item) -> "Case | None":
    """The case that a benchmark hands to ``measure``, as far as that can be told before it runs."""
    from ntp.case import Case

    parameters = getattr(item, "callspec", None)
    if parameters is None:
        return None
    if _is_ours(item, "case"):
        return _sweep(item.config).cases.case(parameters.params)
    own = parameters.params.get("case")
    return own if isinstance(own, Case) else None


def _has_benchmarks(config: pytest.Config) -> bool:
    return config.pluginmanager.hasplugin("benchmark")


def pytest_configure(config: pytest.Config) -> None:
    """Check the options that were given before anything is collected."""
    config.addinivalue_line(
        "markers",
        "ntp_case(largest=False, **fields): measure only the sweep's largest thread count, batch size and sequence "
        "length; **fields lists values of further fields of the case, as in part=['forward', 'backward'].",
    )
    if _has_benchmarks(config) and _given(config):
        _sweep(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a benchmark of a ``case`` the sweep's combinations, each named as its case is."""
    if not (_is_measured(metafunc.definition) and _is_ours(metafunc.definition, "case")):
        return
    if not _has_benchmarks(metafunc.config):
        raise pytest.Collector.CollectError("ntp measures through pytest-benchmark: leave out -p no:benchmark")
    sweep = _sweep(metafunc.config)
    marker = metafunc.definition.get_closest_marker("ntp_case")
    combinations = sweep.cases.combinations(**(marker.kwargs if marker else {}))
    names = list(combinations[0])
    # They are no arguments of the function: it takes the case they make.
    metafunc.fixturenames.extend(names)
    metafunc.parametrize(
        names, [tuple(values.values()) for values in combinations], ids=[sweep.cases.case(v).id for v in combinations]
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let pytest-benchmark read a worker's times instead of the clock's."""
    if _is_measured(item) and _has_benchmarks(item.config):
        from ntp.sweep_clock import worker_clock

        _sweep(item.config)
        asked = item.get_closest_marker("benchmark")
        options = {**(asked.kwargs if asked else {}), "timer": worker_clock}
        item.add_marker(pytest.mark.benchmark(**options), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """As pytest-benchmark's --benchmark-only does: --benchmark-disable by hand beats --benchmark-skip in addopts."""
    if (sweep := config.stash.get(_SWEEP, None)) and config.option.benchmark_disable:
        sweep.benchmarks.skip = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what is going to be measured, and refuse what would waste it."""
    if sweep := session.config.stash.get(_SWEEP, None):
        measured = [] if sweep.benchmarks.skip else list(filter(_is_measured, session.items))
        sweep.plan(list(map(_case_of, measured)))
        try:
            sweep.prepare()
        except NtpError as error:
            _refuse(session.config, error)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say what is about to happen, and how long it will take."""
    sweep = config.stash.get(_SWEEP, None)
    return sweep.forecast() if sweep else []


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """From here on, kill ends a sweep as Ctrl-C does, and a second or third Ctrl-C does not cost the reports.

    After a Ctrl-C within the rounds, the cases that have a result by then still take it. Only then is the session
    interrupted.
    """
    sweep = session.config.stash.get(_SWEEP, None)
    if sweep and sweep.planned and not sweep.benchmarks.disabled:
        sweep.interrupts.__enter__()
        session.config.add_cleanup(sweep.interrupts.__exit__)
    looped = yield
    if sweep and sweep.interrupted:
        raise sweep.interrupted
    return looped


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Once the rounds have been left, run nothing but the benchmarks that have a result; else listen for Ctrl-C."""
    sweep = item.config.stash.get(_SWEEP, None)
    if sweep is None:
        return
    if sweep.interrupted is None:
        sweep.interrupts.forget()
        return
    case = _case_of(item) if _is_measured(item) else None
    if case is None or not sweep.has_result(case):
        pytest.skip("the sweep was interrupted")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Add what ntp says about the run as a whole, to ``--benchmark-json`` and ``--benchmark-save`` too."""
    sweep = config.stash.get(_SWEEP, None)
    if sweep and sweep.planned:
        output_json["ntp"] = sweep.header()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the run once more, now that its length is known, with its web page, and judge it."""
    sweep = session.config.stash.get(_SWEEP, None)
    if sweep and (sweep.measured or sweep.failures):
        sweep.write()
    if sweep:
        sweep.judge(session)
        if sweep.interrupts.terminated:
            session.exitstatus = sweep.interrupts.terminated.exit_status


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> Iterator[None]:
    """Show the table after pytest-benchmark's own, even if that ends in an error (``--benchmark-compare-fail``)."""
    try:
        return (yield)
    finally:
        if sweep := config.stash.get(_SWEEP, None):
            _show(sweep, terminalreporter)


def _show(sweep: "Sweep", terminalreporter: pytest.TerminalReporter) -> None:
    left_out = sweep.without_result
    if sweep.measured or sweep.failures or left_out:
        terminalreporter.section("ntp")
    if left_out:
        terminalreporter.write_line(left_out)
    if sweep.measured or sweep.failures:
        from ntp.lines import in_encoding
        from ntp.report import text

        encoding = getattr(terminalreporter._tw._file, "encoding", None)
        for line in text.terminal(sweep.run()[1]).split("\n"):
            terminalreporter.write_line(in_encoding(line, encoding))
        folder = os.path.relpath(sweep.files.folder)
        terminalreporter.write_line(f"Written: {sweep.files.written} in {folder}")
    if sweep.verdict_text:
        terminalreporter.section("ntp baseline")
        for line in sweep.verdict_text.splitlines():
            terminalreporter.write_line(line)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> "Case":
    """The case that this benchmark measures."""
    if not _is_measured(request.node):
        pytest.fail("ntp's fixture case works only together with its fixture measure: request both", pytrace=False)
    return request.config.stash[_SWEEP].cases.case(request.node.callspec.params)


@pytest.fixture(name="measure")
def measure_fixture(request: pytest.FixtureRequest, benchmark: "BenchmarkFixture") -> "Callable[[Case], None]":
    """A function that gives a case its measurement and records it.

    The first one to be called measures the cases of the whole session, in rounds. The samples are handed to
    pytest-benchmark afterwards, so that a case that fails or is interrupted half way never enters its tables or files.
    With ``--benchmark-disable`` a worker runs one step, untimed.
    """
    from ntp.sweep_clock import worker_clock

    sweep = _sweep(request.config)

    def measure_case(case: "Case") -> None:
        try:
            with _failing_safe(benchmark):
                if benchmark.disabled:
                    with sweep.start(case) as worker:
                        worker.load()
                        benchmark.pedantic(worker.run, args=(1,))
                    return
                measurement = sweep.result(case)
        except WorkerFailed as error:
            message = "\n".join(filter(None, (str(error), error.stderr_tail)))
            raise pytest.fail.Exception(message, pytrace=False) from None
        benchmark.extra_info["ntp"] = measurement.model_dump(mode="json")
        benchmark.pedantic(worker_clock.replay(measurement.step_time_ns), rounds=len(measurement.step_time_ns))
        sweep.measured += 1

    return measure_case


@contextmanager
def _failing_safe(benchmark: "BenchmarkFixture") -> Iterator[None]:
    """If a measurement ends early, let pytest-benchmark know that its fixture was used without a result."""
    try:
        yield
    except BaseException:

        def unusable() -> None:
            raise ValueError

        with suppress(Exception):
            benchmark.pedantic(unusable)
        raise
