"""``ntp train`` and ``ntp predict``: the training run, and what comes of it."""

import json
import math
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntp.case import MAX_NUMBER, Case, StepConfig, Workload
from ntp.cli.console import progress_bar, tell, write
from ntp.cli.options import JsonOption, ThreadsOption, takes_case
from ntp.cli.text import step_line, summary_text

if TYPE_CHECKING:
    from ntp.core.train import TrainingRun


@takes_case(Workload, StepConfig)
def train(
    options: dict[str, Any],
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
                        write(record.model_dump_json(exclude={"logged"}) if as_json else step_line(record))
        except KeyboardInterrupt as stop:
            stop.add_note(f" after step {run.step} of {steps}; {_where_saved(run, checkpoint)}")
            raise
        _tell_changes(settings)
        summary = run.summary()
        write(f'{{"summary":{summary.model_dump_json()}}}' if as_json else summary_text(summary))


def _tell_changes(before: dict[str, str]) -> dict[str, str]:
    """Say what the model's code has changed for the whole process. Returns the settings as they are now."""
    from ntp.core.settings import changed_settings, read_settings

    after = read_settings()
    for name, (old, new) in changed_settings(before, after).items():
        tell(f"the model's code has changed {name} from {old} to {new}, for the whole process")
    return after


def _where_saved(run: "TrainingRun", checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "nothing is saved, --checkpoint DIR would do so"
    if run.saved_at is None:
        return "nothing is saved yet"
    saved = "saved" if run.saved_at == run.step else f"step {run.saved_at} is saved"
    return f"{saved} in {checkpoint}, the same command goes on from there"


def _tell_resume(run: "TrainingRun", steps: int) -> None:
    if run.resumed_at is None:
        return
    if run.resumed_at >= steps:
        tell(f"step {run.resumed_at} is already done: nothing to train, raise --steps {steps} to go on")
    else:
        tell(f"going on from step {run.resumed_at}")


def predict(
    checkpoint: Annotated[Path, typer.Option(metavar="DIR", help="A directory that ntp train --checkpoint wrote.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="The model's spec, if it is your own: its code is run, which a checkpoint alone cannot have done.",
            show_default="simple",
        ),
    ] = None,
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
    seed: Annotated[int, typer.Option(min=0, max=MAX_NUMBER, metavar="N", help="Of the draws.")] = 42,
    as_json: JsonOption = False,
) -> None:
    """Predict the tokens that follow a prompt, with a model that ntp train saved.

    Writes the new tokens alone: as ids, or as text if the prompt was text.

    For example:

      ntp predict --checkpoint runs/first --prompt-ids 1,2,3

      ntp predict --checkpoint runs/book --prompt "Call me " --temperature 0.8

      ntp predict --checkpoint runs/gpt2 --model examples/gpt2.py:tiny --prompt-ids 1
    """
    from ntp.core.predict import as_text, generate, load_trained, parse_prompt

    ids = parse_prompt(prompt, prompt_ids)
    trained, workload = load_trained(checkpoint, model)
    new_ids = list(generate(trained, workload, ids, max_new_tokens, temperature, top_k, seed))
    text = None if prompt is None else as_text(new_ids)
    if as_json:
        write(json.dumps({"prompt_ids": ids, "new_ids": new_ids, "text": text}))
    else:
        write(",".join(map(str, new_ids)) if text is None else text)
