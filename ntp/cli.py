"""The command line. One short function a command: parse, call, write. Results on stdout, everything else on stderr.

torch is imported inside the commands that need it: ``ntp --help`` must not wait for it.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

import ntp
from ntp.case import StepConfig, Workload, option_errors
from ntp.errors import NtpError, WorkerFailed

if TYPE_CHECKING:
    from ntp.train import StepRecord, Summary, TrainingRun

USAGE, TOOL_FAILED, INTERRUPTED, BROKEN_PIPE = 2, 5, 130, 141
"""Exit statuses. The last two are the shell's for SIGINT and SIGPIPE; 1 is left to a regression found."""

# typer has its usage errors from click up to 0.25, and from a copy of its own since: this names either.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="ntp",
    help=ntp.__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

# The options of a case, for every command that takes one.
_WORKLOAD, _STEP = Workload(), StepConfig()
_PANEL = "What is trained"
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SPEC",
        rich_help_panel=_PANEL,
        help="'simple', 'package.module:factory' or 'path/to/file.py:factory'. A factory gets those of vocab_size, "
        "embed_dim, hidden_dim and seq_len that it names.",
    ),
]
VocabSizeOption = Annotated[int, typer.Option("--vocab-size", metavar="V", rich_help_panel=_PANEL, help="Token ids.")]
EmbedDimOption = Annotated[int, typer.Option("--embed-dim", metavar="E", rich_help_panel=_PANEL, help="Width.")]
HiddenDimOption = Annotated[
    int, typer.Option("--hidden-dim", metavar="H", rich_help_panel=_PANEL, help="Width of the hidden layer.")
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", metavar="B", rich_help_panel=_PANEL, help="Sequences in a step.")
]
SeqLenOption = Annotated[
    int, typer.Option("--seq-len", metavar="T", rich_help_panel=_PANEL, help="Predicted positions of a sequence.")
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SPEC",
        rich_help_panel=_PANEL,
        help="'uniform' random ids, 'zipf' or 'zipf:EXPONENT' (realistic frequencies), or 'file:PATH': a text file as "
        "bytes, or a .bin file of uint16 tokens (uint32 if V > 65536).",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", rich_help_panel=_PANEL, help="Of weights and data.")]
OptimizerOption = Annotated[
    str, typer.Option("--optimizer", metavar="KIND", help="AdamW's kernels: 'default', 'foreach' or 'fused'.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, max=1024, help="torch's threads.", show_default="torch's choice"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]


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
    model: ModelOption = _WORKLOAD.model,
    vocab_size: VocabSizeOption = _WORKLOAD.vocab_size,
    embed_dim: EmbedDimOption = _WORKLOAD.embed_dim,
    hidden_dim: HiddenDimOption = _WORKLOAD.hidden_dim,
    batch_size: BatchSizeOption = _WORKLOAD.batch_size,
    seq_len: SeqLenOption = _WORKLOAD.seq_len,
    data: DataOption = _WORKLOAD.data,
    seed: SeedOption = _WORKLOAD.seed,
    optimizer: OptimizerOption = _STEP.optimizer,
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
    with option_errors():
        workload = Workload(
            model=model,
            vocab_size=vocab_size,
            embed_dim=embed_dim,
            hidden_dim=hidden_dim,
            batch_size=batch_size,
            seq_len=seq_len,
            data=data,
            seed=seed,
        )
        config = StepConfig.model_validate({"optimizer": optimizer})
    from ntp.train import TrainingRun, thread_count

    with thread_count(threads):
        run = TrainingRun(workload, config, checkpoint)
        _tell_resume(run, steps)
        with _progress(steps, run.step) as advance:
            for record in run.run(steps, log_every, checkpoint_every):
                advance(record.step)
                if record.logged:
                    _write(record.model_dump_json(exclude={"logged"}) if as_json else _step_line(record))
        if run.interrupted:
            _tell(f"interrupted after step {run.step} of {steps}; {_where_saved(checkpoint)}")
            raise typer.Exit(INTERRUPTED)
        summary = run.summary()
        _write(f'{{"summary":{summary.model_dump_json()}}}' if as_json else _summary_text(summary))


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


@app.command()
def doctor() -> None:
    """Say what this machine is, what makes its timings noisy, and what can be done about it.

    For example:

      ntp doctor
    """
    from ntp.measure.doctor import examine
    from ntp.measure.warnings import warnings_about
    from ntp.report.doctor import doctor as render

    _tell_if_terminal("looking at the machine for a second, and at torch")
    environment = examine()
    sys.stdout.write(render(environment, warnings_about(environment)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: what can be mended is one line on stderr, no traceback."""
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
    _tell(f"error: {_one_line(exc.format_message())}{given}; ntp --help shows what there is")  # type: ignore[attr-defined]
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


def _step_line(record: "StepRecord") -> str:
    speed = f"{record.tokens_per_s:8,.0f} tokens/s   {record.step_time_ms:.1f} ms/step"
    return f"step {record.step:3d}  loss {record.loss:.4f}   {speed}"


def _summary_text(summary: "Summary") -> str:
    lines = [
        f"input {summary.input_shape} {summary.input_dtype}, logits {summary.logits_shape} {summary.logits_dtype}, "
        f"parameters {summary.parameters:,}",
        "greedy prediction of the first batch, row 0:",
        f"  input      {_columns(summary.input_ids)}",
        f"  target     {_columns(summary.target_ids)}",
        f"  predicted  {_columns(summary.predicted_ids)}",
    ]
    if summary.step_time_ms is not None:
        speed = f"{summary.tokens_per_s:,.0f} tokens/s, {summary.step_time_ms:.1f} ms/step"
        lines.insert(0, f"{summary.steps} steps, {summary.total_time_s:.2f} s in all, {speed}")
    return "\n".join(lines)


def _columns(ids: Sequence[int]) -> str:
    return " ".join(f"{i:5d}" for i in ids)
