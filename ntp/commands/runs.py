"""``ntp report``, ``ntp compare`` and ``ntp baseline``: what can be done with runs that were measured."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntp.cli_options import fraction, names
from ntp.console import write
from ntp.errors import OptionError
from ntp.exit_status import NOT_COMPARABLE, OF_VERDICT

if TYPE_CHECKING:
    from ntp.measure.records import Run


class ReportFormat(StrEnum):
    """What a run can be made into."""

    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


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


class ComparisonFormat(StrEnum):
    """What a comparison can be written as."""

    TERMINAL = "terminal"
    MARKDOWN = "markdown"


def compare(
    base: Annotated[Path, typer.Argument(metavar="BASE.json", help="The run to compare with.")],
    head: Annotated[Path, typer.Argument(metavar="HEAD.json", help="The run that is compared.")],
    format_: Annotated[ComparisonFormat, typer.Option("--format", help="How to write it.")] = ComparisonFormat.TERMINAL,
    gate: Annotated[bool, typer.Option("--gate", help="Judge the head, and let the exit status say so.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SHARE", parser=fraction, help="With --gate: what counts as slower.", show_default="5%"),
    ] = None,
    allow: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="With --gate: counts that may rise, separated by commas, or patterns of them: 'aten::*'.",
            show_default="none",
        ),
    ] = "",
) -> None:
    """Show two runs side by side: two machines, two configurations, two days. Judges only with --gate.

    The gate is for those who cannot run the base again (ntp guard can tell far
    less): operations, operators and bytes of a step exactly, times where both
    runs are of this machine and software and ntp doctor --calibrate has
    measured the noise between runs.

    Exit status 0, or 4 if the runs have no case in common. With --gate: 0 pass
    or improvement, 1 regression, 2 wrong usage, 3 inconclusive, 4 not
    comparable, 5 the tool failed.

    For example:

      ntp compare reports/monday/run.json reports/latest/run.json

      ntp compare --gate --threshold 10% reports/baselines/BASE.json reports/latest/run.json
    """
    from ntp.measure.records import Run

    if not gate and (threshold is not None or allow):
        raise OptionError("--threshold and --allow are the gate's: give --gate with them")
    runs = Run.load(base), Run.load(head)
    raise typer.Exit(_gate(*runs, format_, threshold, names(allow)) if gate else _show(*runs, format_))


def _show(base: "Run", head: "Run", format_: ComparisonFormat) -> int:
    from ntp.judge.compare import compare as compared
    from ntp.report.comparison import FORMATS

    comparison = compared(base, head)
    sys.stdout.write(FORMATS[format_.value](comparison))
    return 0 if comparison.rows else NOT_COMPARABLE


def _gate(base: "Run", head: "Run", format_: ComparisonFormat, threshold: float | None, allowed: Sequence[str]) -> int:
    from ntp.gate import judged
    from ntp.judge.baseline import THRESHOLD
    from ntp.report.baseline import FORMATS

    verdict = judged(base, head, threshold or THRESHOLD, allowed)
    sys.stdout.write(FORMATS[format_.value](verdict))
    return OF_VERDICT[verdict.verdict]


def baseline(
    run: Annotated[Path, typer.Argument(metavar="RUN.json", help="A run that a sweep wrote.")],
    folder: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the baselines are kept.")] = Path(
        "reports/baselines"
    ),
) -> None:
    """Make a run the baseline of its machine and software, for pytest --ntp-baseline.

    Takes the place of the baseline that was there. A run with a failure, or
    one that was interrupted, is refused.

    For example:

      ntp baseline reports/latest/run.json
    """
    from ntp.measure.baselines import save_baseline
    from ntp.measure.records import Run

    stored = Run.load(run)
    path = save_baseline(stored, folder)
    count = len(stored.measurements)
    write(f"Written: {path}, the baseline of {count} case{'' if count == 1 else 's'} on this machine and software")
