"""The evidence for what ``ntp guard`` promises: record it, and make the report of it.

Run as ``python evidence/guard COMMAND`` in the repository, on a machine where nothing else runs.
"""

import json
import signal
from pathlib import Path
from typing import Annotated

import draws
import error_tables
import page
import pictures
import recordings
import typer
from recordings import CASES, CONDITIONS, FOLDER
from slower import SLOWDOWNS

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option(help="Where the recordings are kept.", show_default="reports/guard")]
Seed = Annotated[int, typer.Option(help="Of the order of turns.")]
Beside = Annotated[bool, typer.Option("--neighbour", help="Keep a busy process on the last CPU meanwhile.")]
Again = Annotated[bool, typer.Option("--again", help="Overwrite what was recorded before.")]


def _tell(message: str) -> None:
    typer.echo(message, err=True)


def _fresh(path: Path, again: bool) -> Path:
    if path.exists() and not again:
        raise typer.BadParameter(f"{path} is there already: give --again to replace it")
    return path


@app.command()
def record(
    rounds: Annotated[int, typer.Argument(min=2, help="Pairs of each cell.")] = 100,
    beside: Beside = False,
    base: Annotated[str, typer.Option(help="A commit.")] = "HEAD",
    head: Annotated[str, typer.Option(help="Another with the same code.")] = "HEAD",
    seed: Seed = 0,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record pairs of identical code, the four cells in turn. An interruption keeps what is there."""
    import measuring

    path = _fresh(recordings.path_of("identical", CONDITIONS[beside], folder), again)
    with measuring.neighbour(beside):
        measuring.record_pairs(path, rounds, base, head, Path.cwd(), seed, _tell)


@app.command()
def slowdowns(
    pairs: Annotated[int, typer.Argument(min=2, help="Pairs of each cell, for each slowdown.")] = 40,
    only: Annotated[str, typer.Option(metavar="NAMES", help=f"Of {', '.join(SLOWDOWNS)}; with commas.")] = "",
    seed: Seed = 0,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record HEAD against real slowdowns of it, one after the other."""
    import measuring

    names = [name.strip() for name in only.split(",") if name.strip()] or list(SLOWDOWNS)
    if unknown := set(names) - set(SLOWDOWNS):
        raise typer.BadParameter(f"no slowdown is called {', '.join(sorted(unknown))}")
    paths = {name: _fresh(recordings.path_of("slower", name, folder), again) for name in names}
    measuring.record_slowdowns(paths.__getitem__, names, pairs, Path.cwd(), seed, _tell)


@app.command()
def runs(
    number: Annotated[int, typer.Argument(min=1, help="How many.")] = 12,
    beside: Beside = False,
    seed: Seed = 0,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Run whole guards of identical code, ``ntp guard --base HEAD`` in a clean clone."""
    import measuring

    path = _fresh(recordings.path_of("runs", CONDITIONS[beside], folder), again)
    with measuring.neighbour(beside):
        measuring.record_runs(path, number, seed, Path.cwd(), _tell)


@app.command()
def ablation(
    pairs: Annotated[int, typer.Argument(min=2, help="Pairs of each cell in each arm.")] = 20,
    cells: Annotated[str, typer.Option(metavar="IDS", help="With commas.")] = f"{CASES[0]},{CASES[3]}",
    seed: Seed = 0,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record pairs of identical code, with one thing measured otherwise in each arm, the arms in turn."""
    import measuring

    path = _fresh(folder / "ablation.json.gz", again)
    measuring.record_ablation(path, cells.split(","), pairs, seed, Path.cwd(), _tell)


@app.command()
def tables(
    suites: Annotated[int, typer.Option(min=20, help="Guards that are resampled from each recording.")] = 1000,
    folder: Folder = FOLDER,
) -> None:
    """Make README.md, its charts and drawn.json.gz from what was recorded. The same files give the same."""
    recorded = recordings.load(folder)
    drawn = draws.draw(recorded, suites)
    recordings.write(folder / "drawn.json.gz", json.dumps(drawn))
    charts = pictures.charts(recorded, drawn)
    for name, text in charts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(page.markdown(recorded, drawn, charts), encoding="utf-8")
    _tell(f"{folder / 'README.md'}: {error_tables.headline(recorded, drawn)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was made for the time being is removed
    app()
