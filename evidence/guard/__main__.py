"""Record the evidence for what ``ntp guard`` promises, and make the report of it.

Run ``python evidence/guard COMMAND`` in the repository, on a machine where nothing else runs.
"""

import json
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

sys.path.append(str(Path(__file__).parents[1]))

import draws
import error_tables
import instruction_counts
import measuring
import page
import pausing
import peer_runs
import pictures
import policies
import pools
from neighbour import neighbour
from pools import CONDITIONS, FOLDER
from recordings import FOLDER_HELP, Again, Only, chosen, new_file, run, tell, write
from slower import SLOWDOWNS

from ntp.case import Case

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

SUITES = 1000
"""How many guards are resampled from each recording."""

Condition = StrEnum("Condition", {name: name for name in CONDITIONS})

Folder = Annotated[Path, typer.Option(help=FOLDER_HELP, show_default="reports/guard")]
Under = Annotated[
    Condition,
    typer.Option("--condition", help="Name the conditions; 'neighbour' keeps a busy process on the last CPU."),
]


@app.command()
def record(
    rounds: Annotated[int, typer.Argument(min=2, help="Take this many pairs of each case.")] = 100,
    condition: Under = Condition.quiet,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record pairs of identical code, alternating between the four cases. An interruption keeps what is there."""
    path = new_file(pools.path_of("identical", condition, folder), again)
    with neighbour(condition is Condition.neighbour):
        measuring.record_pairs(path, rounds)


@app.command()
def slowdowns(
    pairs: Annotated[int, typer.Argument(min=2, help="Take this many pairs of each case, for each slowdown.")] = 40,
    only: Only = "",
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record HEAD against real slowdowns of it, one after the other."""
    paths = {name: new_file(pools.path_of("slower", name, folder), again) for name in chosen(only, SLOWDOWNS)}
    measuring.record_slowdowns(paths, pairs)


@app.command()
def runs(
    number: Annotated[int, typer.Argument(min=1, help="Run this many guards.")] = 20,
    condition: Under = Condition.quiet,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Run whole guards of identical code: ``ntp guard --base HEAD`` in a clean clone."""
    path = new_file(pools.path_of("runs", condition, folder), again)
    with neighbour(condition is Condition.neighbour):
        measuring.record_runs(path, number)


@app.command()
def ablation(
    pairs: Annotated[int, typer.Argument(min=2, help="Take this many pairs of each case in each arm.")] = 20,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record pairs of identical code with one thing measured differently in each arm, alternating between the arms."""
    path = new_file(folder / "ablation.json.gz", again)
    measuring.record_ablation(path, pairs)


@app.command("pausing")
def record_pausing(
    pairs: Annotated[int, typer.Argument(min=2, help="Take this many pairs in each arm.")] = 12,
    case: Annotated[str, typer.Option(help="Pause workers of this case.")] = pools.SPINNING,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record what it costs to pause the idle side of a pair, and pairs in which it is left running."""
    path = new_file(pools.path_of("pausing", re.sub("[/:]", "-", case), folder), again)
    pausing.record(path, Case.parse(case), pairs)


@app.command("policies")
def record_policies(
    rounds: Annotated[int, typer.Argument(min=2, help="Take this many pairs of each kind.")] = 12,
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Record pairs of identical code and of a head that is 2% slower under each of OpenMP's wait policies."""
    policies.record(new_file(folder / "policies.json.gz", again), rounds)


@app.command("instructions")
def record_instructions(again: Again = False, folder: Folder = FOLDER) -> None:
    """Count the instructions of identical code and of four changes. It takes valgrind, and ten minutes."""
    instruction_counts.record(new_file(folder / "instructions.json.gz", again))


@app.command("peer")
def record_peer(
    python: Annotated[Path, typer.Argument(help="The interpreter of an environment that has benchmatrix.")],
    pairs: Annotated[int, typer.Option(min=2, help="Take this many pairs of whole pytest runs.")] = 8,
    threshold: Annotated[str, typer.Option(help="The threshold to compare with.")] = "1%",
    again: Again = False,
    folder: Folder = FOLDER,
) -> None:
    """Let benchmatrix compare the same code: a commit with itself, and with one that is 3% slower."""
    peer_runs.record(new_file(folder / "peer.json.gz", again), python, pairs, threshold)


@app.command()
def tables(folder: Folder = FOLDER) -> None:
    """Make README.md, its charts and drawn.json.gz from the recordings. The same files give the same page."""
    recorded = pools.load(folder)
    drawn = draws.draw(recorded, SUITES)
    write(folder / "drawn.json.gz", json.dumps(drawn))
    charts = pictures.charts(recorded, drawn)
    for name, text in charts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(page.markdown(recorded, drawn, charts), encoding="utf-8")
    tell(f"{folder / 'README.md'}: {error_tables.headline(recorded, drawn)}")


if __name__ == "__main__":
    run(app)
