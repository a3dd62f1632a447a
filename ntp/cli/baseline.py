"""``ntp baseline``: a run as the baseline of its machine and software."""

from pathlib import Path
from typing import Annotated

import typer

from ntp.cli.console import write


def baseline(
    run: Annotated[Path, typer.Argument(metavar="RUN.json", help="Run file written by a sweep.")],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory for the baselines.")] = Path(
        "reports/baselines"
    ),
) -> None:
    """Make a run the baseline of its machine and software, for pytest --ntp-baseline.

    Replaces the earlier baseline, if there is one. A run with a failure, or
    one that was interrupted, is refused.

    For example:

      ntp baseline reports/latest/run.json
    """
    from ntp.records.baselines import save_baseline
    from ntp.records.run import Run

    stored = Run.load(run)
    path = save_baseline(stored, folder)
    count = len(stored.measurements)
    write(f"Written: {path}, the baseline of {count} case{'' if count == 1 else 's'} on this machine and software")
