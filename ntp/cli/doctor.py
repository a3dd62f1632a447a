"""``ntp doctor``: the machine, what disturbs it, and how much runs of identical code differ on it."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from ntp.case import Case, check_trusted
from ntp.cli.console import show, status_line, tell, tell_if_terminal
from ntp.cli.options import reading
from ntp.errors import OptionError, WorkerFailed
from ntp.lines import one_line
from ntp.parsing import names


def doctor(
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure this machine's peaks again.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the noise between runs of identical code, and nothing else.")
    ] = False,
    runs: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="With --calibrate: how many sweeps.", show_default="5")
    ] = None,
    cases: Annotated[
        Sequence[str] | None,
        typer.Option(
            metavar="IDS",
            parser=reading(names),
            help="With --calibrate: case ids, separated by commas, or RUN.json for all cases of that run.",
            show_default="the training steps of a sweep",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="With --cases RUN.json: your own model that its cases train. Its code is run.",
            show_default="simple",
        ),
    ] = None,
    environments: Annotated[
        bool, typer.Option("--environments", help="List the environments that ntp race has made, and nothing else.")
    ] = False,
    remove: Annotated[
        str, typer.Option(metavar="NAME", help="With --environments: remove this one, or 'all'.", show_default="none")
    ] = "",
) -> None:
    """Say what this machine is, what makes its timings noisy, and what can be done about it.

    Times a small step in ntp's quiet runtime and in that of a plain process,
    for a quarter of a minute. The machine's peaks, of matrix products and
    memory, are measured the first time (as long again) and kept in the user's
    cache. With --calibrate, whole sweeps are measured instead (about a minute
    and a half each), and remembered there, as every complete sweep is: how far
    they lie from each other decides what differs when runs are compared, or
    judged by a baseline.

    For example:

      ntp doctor

      ntp doctor --calibrate --cases reports/latest/run.json

      ntp doctor --environments --remove all
    """
    if environments:
        if calibrate or refresh or runs is not None or cases is not None or model is not None:
            raise OptionError("--environments measures nothing: leave out the options of measurements")
        _environments(remove)
    elif remove:
        raise OptionError("--remove belongs to --environments: give it, too, or leave it out")
    elif calibrate:
        if refresh:
            raise OptionError("--refresh measures peaks, --calibrate the noise between runs: give only one of the two")
        _calibrate(cases or (), runs, model)
    elif runs is not None or cases is not None or model is not None:
        raise OptionError("--runs, --cases and --model belong to --calibrate: give it, too, or leave them out")
    else:
        _examine(refresh)


def _examine(refresh: bool) -> None:
    from ntp.judge.warnings import untested_torch, warnings_about
    from ntp.machine.cpus import available_cpus
    from ntp.machine.examine import examine
    from ntp.machine.software import tested_with
    from ntp.report.doctor import doctor as render
    from ntp.runners.bench import Bench
    from ntp.runners.disturbance import spreads
    from ntp.runners.roofline import measure_peaks

    tell_if_terminal("examining the machine and torch")
    environment = examine()
    most = available_cpus().max_threads
    try:
        varying = spreads(most, bench=Bench(progress=tell_if_terminal))
    except WorkerFailed as exc:
        tell(f"no step could be timed: {one_line(str(exc))}")
        varying = None
    threads = list(dict.fromkeys((1, most)))
    try:
        peaks = measure_peaks(threads, refresh=refresh, software=environment.software, progress=tell_if_terminal)
    except WorkerFailed as exc:
        tell(f"the peaks could not be measured: {one_line(str(exc))}")
        peaks = None
    warnings = (*untested_torch(environment.software.torch, tested_with("torch")), *warnings_about(environment))
    show(render(environment, warnings, peaks, varying))


def _calibrate(wanted: Sequence[str], runs: int | None, model: str | None) -> None:
    from ntp.judge.baseline import noises_of
    from ntp.machine.cpus import available_cpus, check_runtime
    from ntp.report.calibration import report
    from ntp.report.document import terminal
    from ntp.runners.calibrate import RUNS, default_cases
    from ntp.runners.calibrate import calibrate as run_calibration

    named = [case for text in wanted for case in _cases_named(text, model)]
    cases = list(dict.fromkeys(named if wanted else default_cases((1, available_cpus().max_threads))))
    if not cases:
        raise OptionError(f"--cases: there is no case in {', '.join(wanted)}")
    if model is not None and model not in {case.workload.model for case in named}:
        raise OptionError(f"--model: no case of {', '.join(wanted) or 'a sweep'} uses {model!r}: leave it out")
    for case in cases:
        check_runtime(case.runtime)
    calibration = None
    try:
        with (
            status_line() as progress,
            closing(run_calibration(cases, runs or RUNS, progress=progress)) as calibrations,
        ):
            for so_far in calibrations:
                calibration = so_far
    except KeyboardInterrupt as stop:
        if calibration is not None:
            stop.add_note("; the table shows what was finished")
        raise
    finally:
        if calibration is not None:
            show(terminal(report(noises_of(calibration))))


def _cases_named(text: str, model: str | None) -> list[Case]:
    """Return the case of an id, or all cases of a run file. These must use ntp's model or the one that was named."""
    try:
        return [Case.parse(text)]
    except OptionError:
        if not text.endswith(".json"):
            raise
    from ntp.records.run import Run

    cases = [measurement.case for measurement in Run.load(Path(text)).measurements]
    for case in cases:
        check_trusted(case.workload.model, model, f"a case in {text}")
    return cases


def _environments(remove: str) -> None:
    from ntp.report.document import terminal
    from ntp.report.environments import report
    from ntp.worker.environments import environments
    from ntp.worker.environments import remove as remove_environments

    if remove:
        for made in remove_environments(remove):
            tell(f"removed {made.folder}")
    sized = [(made.name, made.torch, made.requirements, made.size_bytes()) for made in environments()]
    show(terminal(report(sized)))
