"""Record the evidence for what the intervals of a sweep promise, and make the report of it.

Run ``python evidence/sweep COMMAND`` in the repository, on a machine where nothing else runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.append(str(Path(__file__).parents[1]))

import recording
import runtimes
import sweep_page
from neighbour import neighbour
from recordings import FOLDER_HELP, REPORTS, Only, chosen, run, tell

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option(help=FOLDER_HELP, show_default="reports/sweeps")]


@app.command()
def record(
    number: Annotated[int, typer.Argument(min=1, help="Record this many sweeps more.")] = 12,
    beside: Annotated[bool, typer.Option("--neighbour", help="Keep a busy process on the last CPU meanwhile.")] = False,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two sweeps.")] = 540.0,
    folder: Folder = REPORTS / "sweeps",
) -> None:
    """Record default sweeps of identical code, and add them to those that are there."""
    condition = list(recording.CONDITIONS)[beside]
    with neighbour(beside):
        recording.record_sweeps(folder / "sweeps.json.gz", number, condition, pause)


@app.command("runtimes")
def record_runtimes(
    rounds: Annotated[int, typer.Argument(min=2, help="Measure every runtime in this many processes.")] = 5,
    only: Only = "",
    folder: Folder = REPORTS / "sweeps",
) -> None:
    """Record each model under every combination of wait policy, allocator and affinity, in rounds."""
    for name in chosen(only, runtimes.MODELS):
        runtimes.record(folder / "runtimes.json.gz", name, rounds)


@app.command()
def tables(folder: Folder = REPORTS / "sweeps") -> None:
    """Make README.md and its charts from the recordings. The same files give the same page."""
    for name, text in sweep_page.files(folder).items():
        (folder / name).write_text(text, encoding="utf-8")
        tell(str(folder / name))


if __name__ == "__main__":
    run(app)
