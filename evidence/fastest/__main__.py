"""Record how fast a training step can be on this CPU, and make the report of it.

Run ``python evidence/fastest COMMAND`` in the repository, on a machine where nothing else runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.append(str(Path(__file__).parents[1]))

import attempts
import findings
import races
import racing
import searching
from comparisons import COMPARISONS, SPACES
from recordings import FOLDER_HELP, Again, Only, chosen, new_file, run, tell

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option(help=FOLDER_HELP, show_default="reports/fastest")]


@app.command()
def pairs(
    number: Annotated[int, typer.Argument(min=2, help="Take this many pairs of each comparison.")] = 7,
    only: Only = "",
    again: Annotated[bool, typer.Option("--again", help="Replace these comparisons where the file has them.")] = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Race the fastest steps against the plain loop, torch.compile and JAX. An interruption keeps what is there."""
    racing.record_pairs(new_file(folder / "pairs.json.gz", again), chosen(only, COMPARISONS), number)


@app.command()
def compiling(
    number: Annotated[int, typer.Argument(min=2, help="Take this many pairs of each case.")] = 5,
    again: Again = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Race compiled steps against eager ones. Each is compiled without any cache."""
    racing.record_compiling(new_file(folder / "compiling.json.gz", again), number)


@app.command("attempts")
def record_attempts(
    number: Annotated[int, typer.Argument(min=2, help="Run this many processes of each precision.")] = 8,
    rounds: Annotated[int, typer.Option(min=10, help="Take this many steps of each attempt in each process.")] = 40,
    again: Again = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Record what was tried to make the fastest exact step faster still, each attempt against the step as it is."""
    attempts.record_attempts(new_file(folder / "attempts.json.gz", again), number, rounds)


@app.command()
def peaks(again: Again = False, folder: Folder = races.FOLDER) -> None:
    """Measure this machine's peak, to see how much of it a step reaches. This takes a quarter of a minute."""
    racing.record_peaks(new_file(folder / "peaks.json.gz", again))


@app.command()
def search(
    workload: Annotated[str, typer.Argument(metavar="|".join(SPACES), help="Workload to train.")],
    again: Again = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Measure every case of a space, and let ntp tune search the same space with a fifth of the pairs.

    With --again, cases that were measured already are kept: only the search is repeated.
    """
    for name in chosen(workload, SPACES):
        path = new_file(folder / f"search-{name}.json.gz", again)
        searching.record_search(path, name)


@app.command()
def tables(folder: Folder = races.FOLDER) -> None:
    """Make README.md and its chart from the recordings. The same files give the same page."""
    recorded = races.load(folder)
    for name, text in findings.files(recorded).items():
        (folder / name).write_text(text, encoding="utf-8")
    tell(f"{folder / 'README.md'}: {findings.headline(recorded)}")


if __name__ == "__main__":
    run(app)
