"""The command line. One short function a command: parse, call, write. Results on stdout, everything else on stderr.

torch is imported inside the commands that need it: ``ntp --help`` must not wait for it.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

import ntp
from ntp.case import Case
from ntp.cli_options import (
    RUNTIME,
    STEP,
    WORKLOAD,
    AffinityOption,
    AllocatorOption,
    BatchSizeOption,
    DataOption,
    EmbedDimOption,
    HiddenDimOption,
    JsonOption,
    ModelOption,
    OptimizerOption,
    SeedOption,
    SeqLenOption,
    ThreadsOption,
    VocabSizeOption,
    WaitPolicyOption,
    WorkerThreadsOption,
    fraction,
    names,
    seconds,
)
from ntp.cli_text import step_line, summary_text
from ntp.errors import NtpError, OptionError, RecordError, WorkerFailed

if TYPE_CHECKING:
    from ntp.judge.guard import GuardVerdict
    from ntp.measure.guard_records import GuardRecord, Plan
    from ntp.measure.records import Run
    from ntp.train import TrainingRun

REGRESSION, USAGE, INCONCLUSIVE, NOT_COMPARABLE, TOOL_FAILED = 1, 2, 3, 4, 5
INTERRUPTED, BROKEN_PIPE, TERMINATED = 130, 141, 143
"""Exit statuses. The last three are the shell's for SIGINT, SIGPIPE and SIGTERM."""

# typer has its usage errors from click up to 0.25, and from a copy of its own since: this names either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="ntp",
    help=ntp.__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _ntp(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"ntp {ntp.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def train(
    model: ModelOption = WORKLOAD.model,
    vocab_size: VocabSizeOption = WORKLOAD.vocab_size,
    embed_dim: EmbedDimOption = WORKLOAD.embed_dim,
    hidden_dim: HiddenDimOption = WORKLOAD.hidden_dim,
    batch_size: BatchSizeOption = WORKLOAD.batch_size,
    seq_len: SeqLenOption = WORKLOAD.seq_len,
    data: DataOption = WORKLOAD.data,
    seed: SeedOption = WORKLOAD.seed,
    optimizer: OptimizerOption = STEP.optimizer,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Steps in all, those before a resume included.")] = 100,
    log_every: Annotated[int, typer.Option(min=1, metavar="N", help="Steps between two lines.")] = 10,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save there, and go on from what is there exactly as if never stopped."),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, metavar="N", help="Steps between two checkpoints.")] = 100,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a next-token model, and watch its loss and its speed.

    The same command prints the same losses. Without options it trains the
    simple model on random tokens, of which nothing can be learned: the loss
    stays near log(vocab size).

    For example:

      ntp train

      ntp train --data file:book.txt --vocab-size 256 --checkpoint runs/book

      ntp train --model examples/gpt2.py:tiny --steps 20 --json
    """
    case = Case.of({**locals(), "threads": 1})  # --threads is torch's own business here, none of the quiet runtime's
    from ntp.train import TrainingRun, thread_count

    with thread_count(threads):
        run = TrainingRun(case.workload, case.step, checkpoint)
        _tell_resume(run, steps)
        with _progress(steps, run.step) as advance:
            for record in run.run(steps, log_every, checkpoint_every):
                advance(record.step)
                if record.logged:
                    _write(record.model_dump_json(exclude={"logged"}) if as_json else step_line(record))
        if run.interrupted:
            _tell(f"interrupted after step {run.step} of {steps}; {_where_saved(checkpoint)}")
            raise typer.Exit(INTERRUPTED)
        summary = run.summary()
        _write(f'{{"summary":{summary.model_dump_json()}}}' if as_json else summary_text(summary))


@app.command()
def predict(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="A directory that ntp train --checkpoint wrote.")],
    prompt_ids: Annotated[str | None, typer.Option(metavar="IDS", help="The prompt as token ids: 1,2,3.")] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The prompt as text, for a model trained on bytes.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="How many tokens to predict.")] = 16,
    temperature: Annotated[
        float, typer.Option(metavar="X", help="0 takes the most probable token; 1 draws from the model's distribution.")
    ] = 0.0,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", help="Draw from the K most probable tokens alone.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="N", help="Of the draws.")] = 42,
    as_json: JsonOption = False,
) -> None:
    """Predict the tokens that follow a prompt, with a model that ntp train saved.

    Writes the new tokens alone: as ids, or as text if the prompt was text.

    For example:

      ntp predict --checkpoint runs/first --prompt-ids 1,2,3

      ntp predict --checkpoint runs/book --prompt "Call me " --temperature 0.8
    """
    from ntp.predict import as_text, generate, load_trained, parse_prompt

    ids = parse_prompt(prompt, prompt_ids)
    model, workload = load_trained(checkpoint)
    new_ids = list(generate(model, workload, ids, max_new_tokens, temperature, top_k, seed))
    text = None if prompt is None else as_text(new_ids)
    if as_json:
        _write(json.dumps({"prompt_ids": ids, "new_ids": new_ids, "text": text}))
    else:
        _write(",".join(map(str, new_ids)) if text is None else text)


@app.command()
def profile(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the profile goes.")] = Path("reports/profile"),
    model: ModelOption = WORKLOAD.model,
    vocab_size: VocabSizeOption = WORKLOAD.vocab_size,
    embed_dim: EmbedDimOption = WORKLOAD.embed_dim,
    hidden_dim: HiddenDimOption = WORKLOAD.hidden_dim,
    batch_size: BatchSizeOption = WORKLOAD.batch_size,
    seq_len: SeqLenOption = WORKLOAD.seq_len,
    data: DataOption = WORKLOAD.data,
    seed: SeedOption = WORKLOAD.seed,
    optimizer: OptimizerOption = STEP.optimizer,
    threads: WorkerThreadsOption = None,
    allocator: AllocatorOption = RUNTIME.allocator,
    wait_policy: WaitPolicyOption = RUNTIME.wait_policy,
    affinity: AffinityOption = RUNTIME.affinity,
) -> None:
    """Explain one case: what bounds its step, and what to try.

    Writes profile.md (the answer first), profile.json, trace.json for
    ui.perfetto.dev, flame graphs and charts. Every observer looks at steps of
    its own, so that none is part of another's picture.

    For example:

      ntp profile --threads 2

      ntp profile --model examples/gpt2.py:tiny --batch-size 8 --out reports/gpt2
    """
    from ntp.campaign.profile import profile as campaign
    from ntp.measure.cpus import available_cpus, check_threads
    from ntp.measure.records import write_whole
    from ntp.measure.runfile import document_of, text_of
    from ntp.report.profile import markdown, pictures, terminal

    case = Case.of({**locals(), "threads": threads or available_cpus().max_threads})
    check_threads(case.runtime.threads)
    run = None
    for run in campaign(case, out, command=("ntp", *sys.argv[1:]), progress=_tell_if_terminal):
        write_whole(out / "profile.json", text_of(document_of(run)))
        write_whole(out / "profile.md", markdown(run))
    assert run is not None
    for name, draw in pictures(run).items():
        write_whole(out / name, draw())
    _write(terminal(run))
    _write(f"Written: profile.md and all that it shows, in {out}")
    if run.failures:
        raise WorkerFailed(run.failures[-1].message, run.failures[-1].stderr_tail)


class FailOn(StrEnum):
    """What else than a regression can fail a guard."""

    IMPROVEMENT = "improvement"


@app.command()
def guard(
    base: Annotated[str | None, typer.Option(metavar="REF", help="The commit to compare with.")] = None,
    head: Annotated[
        str,
        typer.Option(metavar="REF", help="What is compared: a commit, or 'worktree', the files as they are."),
    ] = "worktree",
    cases: Annotated[
        str,
        typer.Option(
            metavar="IDS",
            help="Ids of cases, separated by commas.",
            show_default="a small step and a large, on 1 thread and on all",
        ),
    ] = "",
    model: ModelOption = WORKLOAD.model,
    threshold: Annotated[
        float, typer.Option(metavar="SHARE", parser=fraction, help="What counts as slower.", show_default="1%")
    ] = 0.01,
    budget: Annotated[
        float, typer.Option(metavar="TIME", parser=seconds, help="When to stop at last.", show_default="300s")
    ] = 300.0,
    allow: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Counts that may rise, separated by commas: 'aten::copy_,peak_tensor_bytes'.",
            show_default="none",
        ),
    ] = "",
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Fail if the head is faster, too: for teams that pin.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the order of turns.")] = 0,
    json_file: Annotated[
        Path, typer.Option("--json", metavar="FILE", help="Keep every count and every sample there.")
    ] = Path("reports/latest/guard.json"),
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge again what --json kept, and measure nothing.")
    ] = None,
) -> None:
    """Say whether the head trains more slowly than the base, with evidence for either.

    First it counts exactly what a step of each does: operations, operators,
    bytes. Then pairs of fresh processes, one of each side, run in turn on the
    same CPUs, until the interval of the slowdown lies on one side of the
    threshold or the budget is spent. The sides are commits of the repository
    that you are in: of ntp, or of your own, with --model from its files.

    Exit status: 0 pass or improvement, 1 regression, 2 wrong usage,
    3 inconclusive, 4 not comparable, 5 a worker or the tool failed.

    For example:

      ntp guard --base main

      ntp guard --base v1.2 --model model.py:make --threshold 2% --json guard.json

      ntp guard --replay guard.json
    """
    from ntp.campaign.guard import guard as campaign
    from ntp.judge.guard import verdict_on
    from ntp.measure.guard_records import GuardRecord
    from ntp.report.guard import markdown, terminal

    if replay is not None and base is None:
        record = GuardRecord.load(replay)
    elif base is not None and replay is None:
        plan = _guard_plan(names(cases), model, threshold, budget)
        with _status() as progress, _sigterm_as_exit():
            settings = {"budget_s": budget, "seed": seed, "allowed": names(allow), "command": ("ntp", *sys.argv[1:])}
            record = _kept(campaign(plan, base, head, **settings, progress=progress), json_file)  # type: ignore[arg-type]
    else:
        raise OptionError("give --base REF to measure, or --replay FILE to judge what was measured before")
    try:
        verdict = verdict_on(record)
    except (ValueError, KeyError) as error:
        raise RecordError(f"{replay} cannot be judged ({error}): give what --json wrote, as it wrote it") from error
    sys.stdout.write(terminal(record, verdict))
    if summary_file := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(summary_file), markdown(record, verdict))
    for cell in record.cells:
        if cell.stderr_tail:
            typer.echo(f"{cell.case_id}, the last lines of its worker:\n{cell.stderr_tail.rstrip()}", err=True)
    raise typer.Exit(_guard_status(verdict, fail_on))


def _guard_plan(ids: Sequence[str], model: str, threshold: float, budget_s: float) -> "Plan":
    from ntp.campaign.guard import default_cases
    from ntp.judge.guard import plan_of
    from ntp.measure.cpus import available_cpus, check_threads

    if ids and model != WORKLOAD.model:
        raise OptionError(f"--model {model} is for the default cases, --cases names its own: give one of the two")
    cases = [Case.parse(each) for each in ids] or default_cases(model, (1, available_cpus().max_threads))
    for case in cases:
        check_threads(case.runtime.threads)
        if Path(case.workload.model).is_absolute():
            raise OptionError(f"{case.workload.model} is one file for both sides: give its path inside the repository")
    return plan_of(tuple(dict.fromkeys(case.id for case in cases)), threshold, budget_s)


def _kept(records: "Generator[GuardRecord, None, None]", json_file: Path) -> "GuardRecord":
    """The last of the records, each of which takes the place of the one before it on the disk."""
    from ntp.judge.guard import summary, verdict_on
    from ntp.measure.records import write_whole

    record = None
    try:
        with closing(records):
            for record in records:
                write_whole(json_file, record.text(summary(verdict_on(record))))
    except (KeyboardInterrupt, SystemExit):
        if record is not None:
            _tell(f"interrupted; what was measured is kept, ntp guard --replay {json_file} judges it")
        raise
    assert record is not None
    return record


def _guard_status(verdict: "GuardVerdict", fail_on: FailOn | None) -> int:
    if verdict.failures and verdict.verdict != "regression":
        return TOOL_FAILED
    if verdict.verdict == "improvement" and fail_on is FailOn.IMPROVEMENT:
        return REGRESSION
    return {"regression": REGRESSION, "inconclusive": INCONCLUSIVE, "not comparable": NOT_COMPARABLE}.get(
        verdict.verdict, 0
    )


class ReportFormat(StrEnum):
    """What a run can be made into."""

    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN.json", help="A run that a sweep wrote.")],
    format_: Annotated[ReportFormat, typer.Option("--format", help="What to make of it.")] = ReportFormat.MARKDOWN,
) -> None:
    """Make a report of a run, the same as was written beside it.

    For example:

      ntp report reports/latest/run.json

      ntp report reports/latest/run.json --format csv > run.csv
    """
    from ntp.measure.records import Run
    from ntp.report.text import FORMATS

    sys.stdout.write(FORMATS[format_.value](Run.load(run)))


class ComparisonFormat(StrEnum):
    """What a comparison can be written as."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE.json", help="The run to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD.json", help="The run that is compared.")],
    format_: Annotated[ComparisonFormat, typer.Option("--format", help="How to write it.")] = ComparisonFormat.TERMINAL,
    gate: Annotated[bool, typer.Option("--gate", help="Judge the head, and let the exit status say so.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SHARE", parser=fraction, help="With --gate: what counts as slower.", show_default="5%"),
    ] = None,
    allow: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="With --gate: counts that may rise, separated by commas, or patterns of them: 'aten::*'.",
            show_default="none",
        ),
    ] = "",
) -> None:
    """Show two runs side by side: two machines, two configurations, two days. Judges only with --gate.

    The gate is for those who cannot run the base again (ntp guard can tell far
    less): operations, operators and bytes of a step exactly, times where both
    runs are of this machine and software and ntp doctor --calibrate has
    measured the noise between runs.

    Exit status 0, or 4 if the runs have no case in common. With --gate: 0 pass
    or improvement, 1 regression, 2 wrong usage, 3 inconclusive, 4 not
    comparable, 5 the tool failed.

    For example:

      ntp compare reports/monday/run.json reports/latest/run.json

      ntp compare --gate --threshold 10% reports/baselines/BASE.json reports/latest/run.json
    """
    from ntp.measure.records import Run

    if not gate and (threshold is not None or allow):
        raise OptionError("--threshold and --allow are the gate's: give --gate with them")
    runs = Run.load(base), Run.load(head)
    raise typer.Exit(_gate(*runs, format_, threshold, names(allow)) if gate else _show(*runs, format_))


def _show(base: "Run", head: "Run", format_: ComparisonFormat) -> int:
    from ntp.judge.compare import compare as compared
    from ntp.report.comparison import FORMATS

    comparison = compared(base, head)
    sys.stdout.write(FORMATS[format_.value](comparison))
    return 0 if comparison.rows else NOT_COMPARABLE


def _gate(base: "Run", head: "Run", format_: ComparisonFormat, threshold: float | None, allowed: Sequence[str]) -> int:
    from ntp.gate import EXIT_STATUS, judged
    from ntp.judge.baseline import THRESHOLD
    from ntp.report.baseline import FORMATS

    verdict = judged(base, head, threshold or THRESHOLD, allowed)
    sys.stdout.write(FORMATS[format_.value](verdict))
    return EXIT_STATUS[verdict.verdict]


@app.command()
def baseline(
    run: Annotated[Path, typer.Argument(metavar="RUN.json", help="A run that a sweep wrote.")],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the baselines are kept.")] = Path(
        "reports/baselines"
    ),
) -> None:
    """Make a run the baseline of its machine and software, for pytest --ntp-baseline.

    Takes the place of the baseline that was there. A run with a failure, or
    one that was interrupted, is refused.

    For example:

      ntp baseline reports/latest/run.json
    """
    from ntp.measure.baselines import save_baseline
    from ntp.measure.records import Run

    stored = Run.load(run)
    path = save_baseline(stored, folder)
    count = len(stored.measurements)
    _write(f"Written: {path}, the baseline of {count} case{'' if count == 1 else 's'} on this machine and software")


@app.command()
def doctor(
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure this machine's peaks anew.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure the noise between runs of identical code, and nothing else.")
    ] = False,
    runs: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="With --calibrate: processes a case.", show_default="5")
    ] = None,
    cases: Annotated[
        str,
        typer.Option(
            metavar="IDS",
            help="With --calibrate: ids of cases, separated by commas, or RUN.json for all cases of that run.",
            show_default="the training steps of a sweep",
        ),
    ] = "",
) -> None:
    """Say what this machine is, what makes its timings noisy, and what can be done about it.

    Its peaks, of matrix products and memory, are measured the first time (a
    quarter of a minute) and kept in the user's cache. With --calibrate, each
    case is measured in several fresh processes instead (8 s a process, about)
    and their spread is kept there: what runs are compared by with a baseline.

    For example:

      ntp doctor

      ntp doctor --calibrate --cases reports/latest/run.json
    """
    if calibrate:
        if refresh:
            raise OptionError("--refresh measures peaks, --calibrate the noise between runs: give one of the two")
        _calibrate(names(cases), runs)
    elif runs is not None or cases:
        raise OptionError("--runs and --cases are for the calibration: give --calibrate with them")
    else:
        _examine(refresh)


def _examine(refresh: bool) -> None:
    from ntp.measure.cpus import available_cpus
    from ntp.measure.doctor import examine
    from ntp.measure.roofline import measure_peaks
    from ntp.measure.warnings import warnings_about
    from ntp.report.doctor import doctor as render

    _tell_if_terminal("looking at the machine for a second, and at torch")
    environment = examine()
    threads = dict.fromkeys((1, available_cpus().max_threads))
    try:
        peaks = measure_peaks(list(threads), refresh=refresh, software=environment.software, progress=_tell_if_terminal)
    except WorkerFailed as exc:
        _tell(f"no peaks: {_one_line(str(exc))}")
        peaks = None
    sys.stdout.write(render(environment, warnings_about(environment), peaks))


def _calibrate(wanted: Sequence[str], runs: int | None) -> None:
    from ntp.campaign.calibrate import RUNS, default_cases
    from ntp.campaign.calibrate import calibrate as campaign
    from ntp.judge.baseline import noise_of
    from ntp.measure.cpus import available_cpus, check_threads
    from ntp.report.calibration import terminal

    named = [case for each in wanted for case in _cases_named(each)]
    cases = list(dict.fromkeys(named if wanted else default_cases((1, available_cpus().max_threads))))
    if not cases:
        raise OptionError(f"--cases: there is no case in {', '.join(wanted)}")
    for case in cases:
        check_threads(case.runtime.threads)
    calibration = None
    try:
        with _status() as progress, closing(campaign(cases, runs or RUNS, progress=progress)) as calibrations:
            for each in calibrations:
                calibration = each
    except KeyboardInterrupt:
        _tell("interrupted; the table shows what was finished")
        raise
    finally:
        if calibration is not None:
            sys.stdout.write(terminal([noise_of(case) for case in calibration.cases]))


def _cases_named(text: str) -> list[Case]:
    """The case of an id, or all cases of a run file."""
    try:
        return [Case.parse(text)]
    except OptionError:
        if not text.endswith(".json"):
            raise
    from ntp.measure.records import Run

    return [measurement.case for measurement in Run.load(Path(text)).measurements]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: what can be mended is one line on stderr, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8")  # as the files are, in every locale
    try:
        status = app(arguments, prog_name="ntp", standalone_mode=False)
        sys.stdout.flush()
    except NtpError as exc:
        return _fail(exc)
    except _UsageError as exc:
        return _refuse(exc)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return _leave_pipe()
    except SystemExit as exc:  # typer's own answer to a broken pipe
        return _leave_pipe() if isinstance(exc.__context__, BrokenPipeError) else _exit_status(exc)
    except Exception:  # noqa: BLE001  (a fault of ntp's own: keep the traceback, but not Python's exit status 1)
        traceback.print_exc()
        return TOOL_FAILED
    return status if isinstance(status, int) else 0


def _fail(exc: NtpError) -> int:
    _tell(f"error: {_one_line(str(exc))}")
    if not isinstance(exc, WorkerFailed):
        return USAGE
    if exc.stderr_tail:
        typer.echo(exc.stderr_tail.rstrip(), err=True)
    return TOOL_FAILED


def _refuse(exc: Exception) -> int:
    cause = exc.__cause__
    given = f" (got {cause.errors()[0]['input']!r})" if isinstance(cause, ValidationError) else ""
    message = exc.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]
    _tell(f"error: {_one_line(message)}{given}; ntp --help shows what there is")
    return USAGE


def _leave_pipe() -> int:
    """Nobody reads stdout any more: point it nowhere, so that Python's last flush doesn't complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return BROKEN_PIPE


def _exit_status(exc: SystemExit) -> int:
    return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else TOOL_FAILED


def _write(result: str) -> None:
    print(result, flush=True)  # noqa: T201  (typer.echo would write past the progress bar, onto its line)


def _tell(message: str) -> None:
    typer.echo(f"ntp: {message}", err=True)


def _tell_if_terminal(message: str) -> None:
    if sys.stderr.isatty():
        _tell(message)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _where_saved(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "nothing is saved, --checkpoint DIR would do so"
    return f"saved in {checkpoint}, the same command goes on from there"


def _tell_resume(run: "TrainingRun", steps: int) -> None:
    if run.resumed_at is None:
        return
    if run.resumed_at >= steps:
        _tell(f"step {run.resumed_at} is already done: nothing to train, raise --steps {steps} to go on")
    else:
        _tell(f"going on from step {run.resumed_at}")


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        raise RecordError(f"{path} cannot be written ({error.strerror}): mend or unset GITHUB_STEP_SUMMARY") from error


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let ``kill`` unwind the stack as Ctrl-C does, so that what was made for the time being is removed."""

    def leave(_number: int, _frame: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """A line on stderr that is written anew, if that is a terminal; gives the function that does so."""
    from rich.console import Console

    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with Console(stderr=True).status("starting") as status:
        yield status.update


@contextmanager
def _progress(steps: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, if that is a terminal; gives the function that moves it to a step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
        redirect_stdout=sys.stdout.isatty(),  # otherwise the bar would draw the results that go to a file or pipe
    ) as progress:
        task = progress.add_task("training", total=steps, completed=done)
        yield lambda step: progress.update(task, completed=step)
