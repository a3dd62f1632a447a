"""A sweep under pytest: its cases, the rounds in which they are measured, and the files that are written."""

import itertools
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from pytest_benchmark.session import BenchmarkSession
from pytest_benchmark.utils import safe_dumps

from ntp.case import Case, named_step
from ntp.cli.exit_status import NOT_COMPARABLE, TOOL_FAILED
from ntp.errors import MachineError, RecordError, WorkerFailed
from ntp.interrupts import Interrupts
from ntp.machine.cpus import available_cpus, check_runtime, check_threads
from ntp.machine.runtime import environment_variables
from ntp.records.peaks import MachinePeaks
from ntp.records.run import Failure, Measurement, Run, write_whole
from ntp.records.run_file import save_run
from ntp.records.sole_writer import sole_writer
from ntp.runners.bench import Bench
from ntp.runners.calibrate import try_to_remember
from ntp.runners.roofline import measure_peaks
from ntp.runners.sweep import Plan, RoundsSweep, forecast_s
from ntp.sweep_options import SweepOptions
from ntp.worker.driver import Observing, PipeWorker, Sampling
from ntp.worker.pairs import WorkerStarter
from ntp.worker.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ntp.cli.gate import Gate

MATRIX = ("threads", "batch_size", "seq_len", "precision", "step")
"""What the sweep's options vary, by the names that ``--benchmark-group-by=param:threads`` and similar options know."""

RUN = "run.json"
REPORTS = ("report.md", "report.csv", "report.html")

OPERATOR_STEPS = 2
"""Steps of each case under torch.profiler, after those that are timed."""


class WorkerClock:
    """A clock that advances by what a worker measured, and by nothing else.

    pytest-benchmark reads it before and after each round, so that its own statistics, table, JSON, histogram and
    comparison are of the worker's times.
    """

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> float:
        return self.now_ns / 1e9

    def replay(self, step_time_ns: tuple[int, ...]) -> Callable[[], None]:
        """Return a function that advances the clock by a sample per call, and by nothing after the last of them."""
        samples = iter(step_time_ns)

        def step() -> None:
            self.now_ns += next(samples, 0)

        return step


worker_clock = WorkerClock()


class Sweep:
    """One pytest session's measurements: the cases, and the files that are made of them."""

    def __init__(self, config: pytest.Config, given: Mapping[str, Any]) -> None:
        self.config = config
        self.started = datetime.now(UTC)
        self.started_s = time.perf_counter()
        self.planned = 0
        self.measured = 0
        self.interrupted: KeyboardInterrupt | None = None
        """What ended the rounds before their time."""
        self.ended_by = ""
        """The case whose failure did, if --maxfail or -x says so."""
        self.interrupts = Interrupts()
        self._cases: tuple[Case, ...] = ()
        self._rounds: list[RoundsSweep] = []
        self._prepared = False
        self._given = dict(given)
        self.options = options = SweepOptions.of(given)
        self._plan = Plan(
            rounds=options.rounds,
            order_seed=secrets.randbelow(2**31) if options.order_seed is None else options.order_seed,
            sampling=Sampling(time_s=options.sample_time, min_samples=options.min_samples),
            observing=Observing(operator_steps=0 if options.no_profile else OPERATOR_STEPS),
            precision=options.precision,
            budget_s=options.budget,
        )
        self.threads = options.threads or tuple(dict.fromkeys((1, available_cpus().max_threads)))
        check_threads(max(self.threads))
        self.report_dir = config.rootpath / options.report_dir  # itself, where it is absolute
        self.gate = None if options.baseline is None else self._gate(config.rootpath / options.baseline)
        self.verdict_text = ""
        self.written = "run.json, report.md, report.csv"
        """The files in the folder of the reports, as the terminal lists them."""
        # Every combination is a case that makes sense and can be set up here, or the sweep does not begin.
        for values in self.combinations():
            check_runtime(self.case(values).runtime)
            environment_variables(self.case(values).runtime)

    @staticmethod
    def _gate(folder: "Path") -> "Gate":
        from ntp.cli.gate import Gate  # here, so that a pytest without baselines need not wait for scipy

        return Gate(folder)

    @property
    def benchmarks(self) -> BenchmarkSession:
        session = self.config.pluginmanager.get_plugin("pytest-benchmark")
        assert isinstance(session, BenchmarkSession)
        return session

    def plan(self, planned: int, cases: Sequence[Case]) -> None:
        """Take note of how many benchmarks the session has, and of their cases, as far as these are known yet."""
        self.planned, self._cases = planned, tuple(cases)

    def prepare(self) -> None:
        """Refuse before the first case what would waste the sweep. A session that measures nothing is not checked.

        Raises:
            RecordError: the reports cannot be written, or another process writes them.
        """
        if not self.planned or self.benchmarks.disabled or self.config.option.collectonly:
            return
        if self.gate is not None and self.gate.is_empty:
            pytest.exit(f"ntp: {self.gate.nothing_there}", returncode=NOT_COMPARABLE)
        held = ExitStack()
        self.config.add_cleanup(held.close)
        for name in (RUN, *REPORTS):
            if (self.report_dir / name).is_dir():
                raise RecordError(
                    f"{self.report_dir / name} is a folder: remove it, or choose another --ntp-report-dir"
                )
        held.enter_context(sole_writer(self.report_dir / RUN))
        self._prepared = True

    def forecast(self) -> list[str]:
        """Say what is about to happen, in lines; there are none if nothing is measured."""
        if not self.planned or self.benchmarks.disabled:
            return []
        plan, cases = self._plan, "1 case" if self.planned == 1 else f"{self.planned} cases"
        rounds = "1 round" if plan.rounds == 1 else f"{plan.rounds} rounds"
        about = f"about {forecast_s(self._cases, plan):.0f} s"
        if plan.precision is not None:
            about += f", up to {plan.budget_s:.0f} s for ±{plan.precision:.2%}"
        lines = [f"ntp: {cases} in {rounds}, {about}; reports go to {os.path.relpath(self.report_dir)}"]
        return lines if self.gate is None else [*lines, *(f"ntp: {line}" for line in self.gate.forecast())]

    def combinations(self, *, largest: bool = False, **fixed: Sequence[str]) -> list[dict[str, Any]]:
        """Return all combinations of the sweep's options. A case that several of them describe is there once.

        Args:
            largest: only of its largest thread count, batch size and sequence length.
            fixed: further fields of a case (``part``, ``data``, ``optimizer``), each with the values it is to take.
        """
        options = self.options
        sizes = [self.threads, options.batch_sizes, options.seq_lens]
        if largest:
            sizes = [(max(values),) for values in sizes]
        values = itertools.product(*sizes, options.precisions, options.steps, *fixed.values())
        combinations = (dict(zip((*MATRIX, *fixed), combination, strict=True)) for combination in values)
        return list({self.case(values): values for values in combinations}.values())

    def case(self, values: Mapping[str, Any]) -> Case:
        """Return the case of one of the :meth:`combinations`."""
        return Case.of(self._given | named_step(values["step"]).model_dump(exclude_defaults=True) | dict(values))

    def start(self, case: Case, source: Source | None = None) -> PipeWorker:
        """Start a worker as a fork, which is there in a tenth of the time."""
        return self._starter(case, source or Source.here())

    @cached_property
    def _starter(self) -> WorkerStarter:
        starter = WorkerStarter(timeout_s=self.options.timeout, forks=None)
        self.config.add_cleanup(starter.stop)
        return starter

    def result(self, case: Case) -> Measurement:
        """Return what the rounds gave for a case. The first call measures the cases of the whole session.

        A case that the session did not know of gets rounds of its own. Where the rounds were left early, a benchmark
        without a result is skipped.

        Raises:
            WorkerFailed: the case failed in one of the rounds.
        """
        if not any(rounds.knows(case) for rounds in self._rounds):
            self._measure(self._cases if case in self._cases else (case,))
        rounds = next(rounds for rounds in self._rounds if rounds.knows(case))
        if case in rounds.failures:
            raise rounds.failures[case]
        if not self.has_result(case):
            why = f"{self.ended_by} failed, and the session ends with it" if self.ended_by else "it was interrupted"
            pytest.skip(f"the sweep ended before there was a result: {why}")
        return rounds.measurements[case]

    def has_result(self, case: Case) -> bool:
        """Whether a case has processes enough for a result, or has failed."""
        return any(rounds.has_result(case) for rounds in self._rounds)

    def _measure(self, cases: Sequence[Case]) -> None:
        """Measure in rounds, and write the run after each. Ctrl-C, or as many failures as are allowed, end them."""
        session_plan = self._plan.model_copy(update={"with_plain": not self._rounds})
        rounds = RoundsSweep(cases, session_plan, Bench(self.start, progress=self._progress))
        self._rounds.append(rounds)
        allowed = self.config.option.maxfail
        try:
            self._progress("importing torch")
            self._starter.prepare(rounds.runtimes)
            for _ in rounds.run(until=lambda: bool(allowed) and len(self.failures) >= allowed):
                save_run(self._record(), self.report_dir / RUN)
        except KeyboardInterrupt as stop:
            self.interrupted = stop
        finally:
            self._starter.stop()
            del self._starter
            self._progress("")
        if allowed and len(self.failures) >= allowed:
            self.ended_by = self.failures[-1].case_id

    @property
    def failures(self) -> list[Failure]:
        """The cases that gave no measurement."""
        failed = ((rounds, failure) for rounds in self._rounds for failure in rounds.failures.items())
        return [Failure.of(case.id, error) for rounds, (case, error) in failed if case in rounds.cases]

    @property
    def plain_failure(self) -> Failure | None:
        """Why there is no measurement of the plain process, if it failed."""
        errors = [(rounds.plain_case, rounds.plain_failure) for rounds in self._rounds]
        return next((Failure.of(case.id, error) for case, error in errors if case and error), None)

    def _record(self) -> Run:
        """Return the run as it stands between two rounds, when no benchmark has taken its result yet."""
        measurements = (
            measurement
            for rounds in self._rounds
            for case, measurement in rounds.measurements.items()
            if case in rounds.cases
        )
        return self._header_record().model_copy(update={"measurements": tuple(measurements)})

    @cached_property
    def peaks(self) -> MachinePeaks | None:
        """This machine's roofline: measured once, then kept in the user's cache. None if that fails."""
        try:
            return measure_peaks(self.threads, progress=self._tell)
        except WorkerFailed as error:
            self._tell(f"the roofline could not be measured: {error}")
            return None

    def _tell(self, message: str) -> None:
        """Say what takes long, if somebody is watching."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.isatty:
            reporter.write_line(f"ntp: {message}")

    def _progress(self, message: str) -> None:
        """Rewrite the line on stderr that says how far the rounds are, if somebody is watching."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{f'ntp: {message}' if message else ''}")
                sys.stderr.flush()

    def header(self) -> dict[str, Any]:
        """Return what the run's document says about the sweep as a whole, so far."""
        return self._header_record().header()

    def _header_record(self) -> Run:
        return Run(
            started=self.started.isoformat(timespec="seconds"),
            wall_time_s=round(time.perf_counter() - self.started_s, 3),
            command=("pytest", *map(str, self.config.invocation_params.args)),
            planned=self.planned,
            rounds=self._plan.rounds,
            order_seed=self._plan.order_seed,
            precision=self._plan.precision,
            budget_s=None if self._plan.precision is None else self._plan.budget_s,
            plain=next((rounds.plain for rounds in self._rounds if rounds.plain), None),
            plain_failure=self.plain_failure,
            failures=tuple(self.failures),
            peaks=self.peaks if self.measured else None,  # nobody should wait for them in vain
        )

    @cached_property
    def _machine_info(self) -> Any:
        return self.benchmarks.get_machine_info()

    @cached_property
    def _commit_info(self) -> Any:
        return self.config.hook.pytest_benchmark_generate_commit_info(config=self.config)

    def run(self) -> tuple[dict[str, Any], Run]:
        """Return all that was measured so far, as pytest-benchmark's document and as a record."""
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

        try:
            document, run = self.run()
            for name in ("report.html", *(f"{name}.svg" for name in text.PICTURES)):  # of a sweep before this one
                (self.report_dir / name).unlink(missing_ok=True)
            write_whole(self.report_dir / RUN, json.dumps(document, indent=1) + "\n")
            write_whole(self.report_dir / "report.md", text.markdown(run))
            write_whole(self.report_dir / "report.csv", text.csv(run))
            with suppress(KeyboardInterrupt):  # of somebody who does not want to wait for the charts, either
                self._draw(run)
            if failure := try_to_remember(run):
                self._warn(failure)
        except (RecordError, MachineError) as error:
            pytest.exit(f"ntp: {error.explained()}", returncode=TOOL_FAILED)
        except OSError as error:  # pytest-benchmark's, which looks at the machine
            pytest.exit(f"ntp: {MachineError.of(error).explained()}", returncode=TOOL_FAILED)

    def _warn(self, message: str) -> None:
        """Write a line to stderr."""
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            sys.stderr.write(f"ntp: {message}\n")

    def _draw(self, run: Run) -> None:
        from ntp.report import html, sweep_charts, text

        write_whole(self.report_dir / "report.html", html.page(run))
        pictures = sweep_charts.pictures(run)
        for name, picture in pictures.items():
            write_whole(self.report_dir / name, picture)
        write_whole(self.report_dir / "report.md", text.markdown(run, pictures))
        self.written = "run.json, report.html, report.md with its charts, report.csv"

    def judge(self, session: pytest.Session) -> None:
        """Judge what was measured by the baselines, if any were named, and put the verdict into the exit status.

        A session that was not to measure anything is left alone.
        """
        if self.gate is None or not self._prepared:
            return
        from ntp.cli.gate import status_of

        nothing = Run(started="", wall_time_s=0, command=(), planned=self.planned)
        verdict, self.verdict_text = self.gate.judge(self.run()[1] if self.measured or self.failures else nothing)
        session.exitstatus = status_of(
            verdict, int(session.exitstatus), workers_alone_failed=session.testsfailed == len(self.failures)
        )
