"""Record races, and races between equals, and make the report of them.

Run ``python evidence/race COMMAND`` in the repository, on a machine where nothing else runs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.append(str(Path(__file__).parents[1]))

import raced
import raced_page
from recordings import FOLDER_HELP, Only, chosen, run, tell

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path, typer.Option(help=FOLDER_HELP, show_default="reports/race")]


@app.command()
def record(only: Only = "", folder: Folder = raced.FOLDER) -> None:
    """Run the races of the report, and keep what they write. Those of torch versions make environments (gigabytes)."""
    for name in chosen(only, raced.RACES):
        raced.record(folder, name)


@app.command()
def equals(
    number: Annotated[int, typer.Argument(min=1, help="Run this many races more.")] = 100,
    folder: Folder = raced.FOLDER,
) -> None:
    """Race a case against itself, again and again: how often is a winner named?"""
    raced.record_equals(folder, number)


@app.command()
def tables(folder: Folder = raced.FOLDER) -> None:
    """Make README.md from the recordings. The same files give the same page."""
    for name, text in raced_page.files(folder).items():
        (folder / name).write_text(text, encoding="utf-8")
        tell(str(folder / name))


if __name__ == "__main__":
    run(app)
