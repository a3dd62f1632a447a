"""How fast a training step can be on this CPU: record it, and make the report of it.

Run as ``python evidence/fastest COMMAND`` in the repository, on a machine where nothing else runs.
"""

import json
import signal
from pathlib import Path
from typing import Annotated

import findings
import races
import typer
from comparisons import COMPARISONS, SPACES

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option(help="Where the recordings are kept.", show_default="reports/fastest")]
Again = Annotated[bool, typer.Option("--again", help="Overwrite what was recorded before.")]


def _tell(message: str) -> None:
    typer.echo(message, err=True)


def _fresh(path: Path, again: bool) -> Path:
    if path.exists() and not again:
        raise typer.BadParameter(f"{path} is there already: give --again to replace it")
    return path


@app.command()
def pairs(
    number: Annotated[int, typer.Argument(min=2, help="Pairs of each comparison.")] = 7,
    only: Annotated[str, typer.Option(metavar="NAMES", help=f"Of {', '.join(COMPARISONS)}; with commas.")] = "",
    seed: Annotated[int, typer.Option(help="Of the order of turns.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Take these anew, where the file has some already.")] = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Race the fastest steps against the plain loop, torch.compile and JAX. An interruption keeps what is there."""
    import racing

    names = [name.strip() for name in only.split(",") if name.strip()] or list(COMPARISONS)
    if unknown := set(names) - set(COMPARISONS):
        raise typer.BadParameter(f"no comparison is called {', '.join(sorted(unknown))}")
    racing.record_pairs(_fresh(folder / "pairs.json.gz", again), names, number, seed, _tell)


@app.command()
def compiling(
    number: Annotated[int, typer.Argument(min=2, help="Pairs of each case.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the order of turns.")] = 0,
    again: Again = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Race compiled steps against eager ones, each compiled anew, nothing kept from before."""
    import racing

    racing.record_compiling(_fresh(folder / "compiling.json.gz", again), number, seed, _tell)


@app.command()
def peaks(again: Again = False, folder: Folder = races.FOLDER) -> None:
    """Measure this machine's peak, to see how much of it a step reaches. Takes a quarter of a minute."""
    import racing

    racing.record_peaks(_fresh(folder / "peaks.json.gz", again), _tell)


@app.command()
def search(
    workload: Annotated[str, typer.Argument(metavar="|".join(SPACES), help="What is trained.")],
    rounds: Annotated[int, typer.Option(min=1, help="Pairs of each case.")] = 2,
    finals: Annotated[int, typer.Option(min=2, help="Pairs of the search's winner and the best of all.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the order of cases and turns.")] = 0,
    again: Again = False,
    folder: Folder = races.FOLDER,
) -> None:
    """Measure every case of a space, and let ntp tune search the same space with a fifth of the pairs.

    With --again, cases that were measured already are kept: the search alone is made anew.
    """
    import searching

    if workload not in SPACES:
        raise typer.BadParameter(f"no workload is called {workload!r}: take {' or '.join(SPACES)}")
    path = _fresh(folder / f"search-{workload}.json.gz", again)
    searching.record_search(path, workload, rounds, finals, seed, _tell)


@app.command()
def tables(folder: Folder = races.FOLDER) -> None:
    """Make README.md and its chart from what was recorded."""
    recorded = races.load(folder)
    for name, text in findings.files(recorded).items():
        (folder / name).write_text(text, encoding="utf-8")
    _tell(f"{folder / 'README.md'}: {json.dumps(findings.headline(recorded))}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    app()
