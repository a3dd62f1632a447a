"""``ntp train``: the training run."""

import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntp.case import Case, StepConfig, Workload
from ntp.cli.console import progress_bar, tell, write
from ntp.cli.options import JsonOption, ThreadsOption, takes_case

if TYPE_CHECKING:
    from ntp.core.train import StepRecord, Summary, TrainingRun


@takes_case(Workload, StepConfig)
def train(
    options: dict[str, Any],
    steps: Annotated[
        int, typer.Option(min=1, metavar="N", help="Total number of steps, including those before a resume.")
    ] = 100,
    log_every: Annotated[int, typer.Option(min=1, metavar="N", help="Print a line every N steps.")] = 10,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save checkpoints in DIR, and resume from there exactly as if never stopped."),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, metavar="N", help="Save a checkpoint every N steps.")] = 100,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a next-token model, and show its loss and its speed.

    The same command prints the same losses. Without options it trains the
    simple model on random tokens, from which nothing can be learned: the
    loss stays near log(vocab size).

    For example:

      ntp train

      ntp train --data file:book.txt --vocab-size 256 --checkpoint runs/book

      ntp train --model examples/gpt2.py:tiny --steps 20 --json
    """
    case = Case.of(options)  # --threads is torch's own business here, none of the quiet runtime's
    from ntp.core.settings import read_settings
    from ntp.core.train import TrainingRun, thread_count
    from ntp.machine.cpus import check_threads

    if threads is not None:
        check_threads(threads)

    with thread_count(threads):
        settings = read_settings()
        run = TrainingRun(case.workload, case.step, checkpoint)
        settings = _tell_changes(settings)
        _tell_resume(run, steps)
        finite = True
        try:
            with (
                progress_bar(steps, run.step) as advance,
                closing(run.run(steps, log_every, checkpoint_every)) as records,
            ):
                for record in records:
                    advance(record.step)
                    if finite and not math.isfinite(record.loss):
                        finite = False
                        tell(f"the loss of step {record.step} is {record.loss}: nothing is learned from here on")
                    if record.logged:
                        write(record.model_dump_json(exclude={"logged"}) if as_json else _step_line(record))
        except KeyboardInterrupt as stop:
            stop.add_note(f" after step {run.step} of {steps}; {_where_saved(run, checkpoint)}")
            raise
        _tell_changes(settings)
        summary = run.summary()
        write(f'{{"summary":{summary.model_dump_json()}}}' if as_json else _summary_text(summary))


def _tell_changes(before: dict[str, str]) -> dict[str, str]:
    """Say what the model's code has changed for the whole process. Returns the settings as they are now."""
    from ntp.core.settings import changed_settings, read_settings

    after = read_settings()
    for name, (old, new) in changed_settings(before, after).items():
        tell(f"the model's code has changed {name} from {old} to {new}, for the whole process")
    return after


def _where_saved(run: "TrainingRun", checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "nothing is saved: give --checkpoint DIR to save it"
    if run.saved_at is None:
        return "nothing is saved yet"
    saved = "saved" if run.saved_at == run.step else f"step {run.saved_at} is saved"
    return f"{saved} in {checkpoint}, the same command resumes from there"


def _tell_resume(run: "TrainingRun", steps: int) -> None:
    if run.resumed_at is None:
        return
    if run.resumed_at >= steps:
        tell(f"step {run.resumed_at} is already done, nothing is left to train: raise --steps {steps}")
    else:
        tell(f"resuming from step {run.resumed_at}")


def _step_line(record: "StepRecord") -> str:
    speed = f"{record.tokens_per_s:8,.0f} tokens/s   {record.step_time_ms:.1f} ms/step"
    return f"step {record.step:3d}  loss {record.loss:.4f}   {speed}"


def _summary_text(summary: "Summary") -> str:
    """Describe a whole run: time, shapes, and what the model predicts for its first batch."""
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
