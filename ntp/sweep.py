"""A sweep under pytest: its cases, the rounds in which they are measured, and the result of each."""

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from pytest_benchmark.session import BenchmarkSession
from pytest_benchmark.utils import safe_dumps

from ntp.case import Case
from ntp.cli.exit_status import NOT_COMPARABLE, TOOL_FAILED
from ntp.errors import MachineError, NtpError, RecordError, WorkerFailed
from ntp.interrupts import Interrupts
from ntp.judge.between_runs import run_noise
from ntp.machine.cache import load_kept
from ntp.records.calibration import Calibration, fingerprints
from ntp.records.peaks import MachinePeaks
from ntp.records.run import Failure, Measurement, NoiseBetweenRuns, Run
from ntp.runners.bench import Bench
from ntp.runners.calibrate import try_to_remember
from ntp.runners.roofline import measure_peaks
from ntp.runners.sweep import Plan, RoundsSweep, forecast_s
from ntp.sweep_cases import SweepCases
from ntp.sweep_files import SweepFiles
from ntp.sweep_options import SweepOptions
from ntp.sweep_progress import ProgressLine, tell_uncaptured
from ntp.worker.driver import Observing, PipeWorker, Sampling
from ntp.worker.pairs import WorkerStarter
from ntp.worker.sources import Source

if TYPE_CHECKING:
    from pathlib import Path

    from ntp.cli.gate import Gate

OPERATOR_STEPS = 2
"""Steps of each case under torch.profiler, after those that are timed."""


class Sweep:
    """One pytest session's measurements, and the files that are made of them.

    Attributes:
        planned: how many benchmarks the session has.
        measured: how many have taken their result.
        interrupted: what ended the rounds before their time, Ctrl-C or another signal.
        verdict_text: what the baselines say, if any were named.
    """

    def __init__(self, config: pytest.Config, given: Mapping[str, Any]) -> None:
        self.config = config
        self.started = datetime.now(UTC)
        self.started_s = time.perf_counter()
        self.planned = 0
        self.measured = 0
        self.interrupted: KeyboardInterrupt | None = None
        self.interrupts = Interrupts()
        self._cases: tuple[Case, ...] = ()
        self._rounds: list[RoundsSweep] = []
        self._ended_by = "an error ended it"
        """Why the rounds ended before their time, if they did."""
        self._prepared = False
        self.options = options = SweepOptions.of(given)
        self._plan = Plan(
            rounds=options.rounds,
            order_seed=secrets.randbelow(2**31) if options.order_seed is None else options.order_seed,
            sampling=Sampling(time_s=options.sample_time, min_samples=options.min_samples),
            observing=Observing(operator_steps=0 if options.no_profile else OPERATOR_STEPS),
            precision=options.precision,
            budget_s=options.budget,
        )
        self.cases = SweepCases(given, options)
        self.files = SweepFiles(config.rootpath / options.report_dir)  # itself, where it is absolute
        self.gate = None if options.baseline is None else self._gate(config.rootpath / options.baseline)
        self.verdict_text = ""

    @staticmethod
    def _gate(folder: "Path") -> "Gate":
        from ntp.cli.gate import Gate  # here, so that a pytest without baselines need not wait for scipy

        return Gate(folder)

    @property
    def benchmarks(self) -> BenchmarkSession:
        session = self.config.pluginmanager.get_plugin("pytest-benchmark")
        assert isinstance(session, BenchmarkSession)
        return session

    def plan(self, cases: Sequence[Case | None]) -> None:
        """Take note of the session's benchmarks: the case of each, or None where it is not known yet."""
        self.planned, self._cases = len(cases), tuple(case for case in cases if case is not None)

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
        held.enter_context(self.files.held())
        self._prepared = True

    def forecast(self) -> list[str]:
        """Say what is about to happen, in lines; there are none if nothing is measured."""
        if not self.planned or self.benchmarks.disabled:
            return []
        plan, cases = self._plan, "1 case" if self.planned == 1 else f"{self.planned} cases"
        rounds = "1 round" if plan.rounds == 1 else f"{plan.rounds} rounds"
        about_s = forecast_s(self._cases, plan)
        about = f"about {about_s:.0f} s"
        if plan.precision is not None and plan.budget_s > about_s:
            about += f", up to {plan.budget_s:.0f} s for ±{plan.precision:.2%}"
        elif plan.precision is not None:
            about += f", and none more for ±{plan.precision:.2%}: the budget is only {plan.budget_s:.0f} s"
        lines = [f"ntp: {cases} in {rounds}, {about}; reports go to {os.path.relpath(self.files.folder)}"]
        return lines if self.gate is None else [*lines, *(f"ntp: {line}" for line in self.gate.forecast())]

    def start(self, case: Case) -> PipeWorker:
        """Start a worker outside the rounds."""
        return self._starter(case, Source.here())

    @cached_property
    def _starter(self) -> WorkerStarter:
        starter = self._new_starter()
        self.config.add_cleanup(starter.stop)
        return starter

    def _new_starter(self) -> WorkerStarter:
        return WorkerStarter(timeout_s=self.options.timeout, forks=None)

    def result(self, case: Case) -> Measurement:
        """Return what the rounds gave for a case. The first call measures the cases of the whole session.

        A case that the session did not know of gets rounds of its own. Where the rounds were left early, a benchmark
        without a result is skipped.

        Raises:
            WorkerFailed: the case failed in one of the rounds.
        """
        rounds = next((rounds for rounds in self._rounds if rounds.knows(case)), None)
        if rounds is None and self.interrupted is None:
            rounds = self._measure(self._cases if case in self._cases else (case,))
        if rounds is None or not rounds.has_result(case):
            pytest.skip(f"the sweep ended before there was a result: {self._ended_by}")
        if case in rounds.failures:
            raise rounds.failures[case]
        return rounds.measurements[case]

    def has_result(self, case: Case) -> bool:
        """Whether a case has processes enough for a result, or has failed."""
        return any(rounds.has_result(case) for rounds in self._rounds)

    def _measure(self, cases: Sequence[Case]) -> RoundsSweep:
        """Measure in rounds, and write the run after each. Ctrl-C, or as many failures as are allowed, end them."""
        plan = self._plan.model_copy(update={"with_plain": cases is self._cases})
        starter, line = self._new_starter(), ProgressLine(self.config)
        rounds = RoundsSweep(cases, plan, Bench(starter, progress=line.show))
        self._rounds.append(rounds)
        try:
            with line, starter:
                line.show("importing torch")
                with suppress(WorkerFailed):  # each of its cases says so when its turn comes
                    starter.prepare(rounds.runtimes, rounds.source)
                for _ in rounds.run(until=self._has_failed_enough):
                    self.files.save(self._record())
                if self._has_failed_enough():
                    self._ended_by = f"{self.failures[-1].case_id} failed, and the session ends with it"
        except KeyboardInterrupt as stop:
            self.interrupted, self._ended_by = stop, "it was interrupted"
        except RecordError as error:
            _exit(error)
        return rounds

    def _has_failed_enough(self) -> bool:
        """Whether pytest is going to end the session because of these failures: -x or --maxfail."""
        session, allowed = self.config.pluginmanager.get_plugin("session"), self.config.option.maxfail
        failed = len(self._rounds[-1].failures) + (session.testsfailed if session else 0)
        return bool(allowed) and failed >= allowed

    @property
    def without_result(self) -> str:
        """Say which cases are not reported because the rounds ended too early. Empty if there are none."""
        rounds = self._rounds[-1] if self._rounds else None
        left = [case.id for rounds in self._rounds for case in rounds.cases if not rounds.has_result(case)]
        if rounds is None or not left:
            return ""
        ended = f"The sweep ended in round {max(1, rounds.round)} of {self._plan.rounds}: {self._ended_by}."
        needed = "1 process" if rounds.needed == 1 else f"{rounds.needed} processes"
        if not any(map(self.has_result, self._cases)):
            return f"{ended} Nothing is reported, because a result needs {needed} and no case has as many yet."
        return f"{ended} These cases are not reported, because a result needs {needed}: {', '.join(left)}."

    @property
    def failures(self) -> list[Failure]:
        """The cases that gave no measurement."""
        failed = (failure for rounds in self._rounds for failure in rounds.failures.items())
        return [Failure.of(case.id, error) for case, error in failed]

    def _record(self) -> Run:
        """Return the run as it stands between two rounds, when no benchmark has taken its result yet."""
        measurements = tuple(measured for rounds in self._rounds for measured in rounds.measurements.values())
        return self._header_record().model_copy(update={"measurements": measurements})

    @cached_property
    def peaks(self) -> MachinePeaks | None:
        """This machine's roofline: measured once, then kept in the user's cache. None if that fails."""
        environments = (measured.environment for rounds in self._rounds for measured in rounds.measurements.values())
        try:
            here = next(environments)  # which is there already, and would take an import of torch to read again
            return measure_peaks(self.cases.threads, progress=self._tell, machine=here.machine, software=here.software)
        except WorkerFailed as error:
            self._tell(f"the roofline could not be measured: {error}")
            return None

    @cached_property
    def _noise(self) -> NoiseBetweenRuns:
        """How much runs differ, by what this machine remembers of those before this one."""
        measured = next(measured for rounds in self._rounds for measured in rounds.measurements.values())
        return NoiseBetweenRuns(**run_noise(load_kept(Calibration, *fingerprints(measured)))._asdict())

    def _tell(self, message: str) -> None:
        """Say what takes long, if somebody is watching."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.isatty:
            reporter.write_line(f"ntp: {message}")

    def header(self) -> dict[str, Any]:
        """Return what the run's document says about the sweep as a whole, so far."""
        return self._header_record().header()

    def _header_record(self) -> Run:
        plan = self._plan
        plain_failures = ((rounds.plain_case, rounds.plain_failure) for rounds in self._rounds)
        return Run(
            started=self.started.isoformat(timespec="seconds"),
            wall_time_s=round(time.perf_counter() - self.started_s, 3),
            command=("pytest", *map(str, self.config.invocation_params.args)),
            planned=self.planned,
            rounds=plan.rounds,
            order_seed=plan.order_seed,
            precision=plan.precision,
            budget_s=None if plan.precision is None else plan.budget_s,
            plain=next((rounds.plain for rounds in self._rounds if rounds.plain), None),
            plain_failure=next((Failure.of(case.id, error) for case, error in plain_failures if case and error), None),
            noise=self._noise if self.measured else None,
            failures=tuple(self.failures),
            # Nobody should wait for them in vain, or after Ctrl-C.
            peaks=self.peaks if self.measured and self.interrupted is None else None,
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
        try:
            document, run = self.run()
            self.files.write(document, run)
            if failure := try_to_remember(run):
                tell_uncaptured(self.config, failure)
        except (RecordError, MachineError) as error:
            _exit(error)
        except OSError as error:  # pytest-benchmark's, which looks at the machine
            _exit(MachineError.of(error))

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


def _exit(error: NtpError) -> NoReturn:
    """End the session: not by a failed test, which would look like a regression."""
    pytest.exit(f"ntp: {error.explained()}", returncode=TOOL_FAILED)
