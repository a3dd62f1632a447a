"""``ntp compare``: runs side by side, judged if --gate is given."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntp.cli.console import command_line, show
from ntp.cli.exit_status import NOT_COMPARABLE, OF_VERDICT
from ntp.cli.options import reading, refuse_onto_input
from ntp.errors import OptionError
from ntp.parsing import names, share

if TYPE_CHECKING:
    from ntp.records.run import Run


class ComparisonFormat(StrEnum):
    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    CSV = "csv"
    HTML = "html"


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN.json...", help="Run files. The first run is the reference.")
    ],
    by: Annotated[
        str,
        typer.Option(
            metavar="FIELD", help="Compare one run within itself, by threads, precision, allocator, loss, ..."
        ),
    ] = "",
    format_: Annotated[ComparisonFormat, typer.Option("--format", help="Output format.")] = ComparisonFormat.TERMINAL,
    gate: Annotated[
        bool, typer.Option("--gate", help="Judge the second of two runs by the first, in the exit status too.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=reading(share),
            help="With --gate: smallest slowdown that counts as a regression.",
            show_default="5%",
        ),
    ] = None,
    allow: Annotated[
        Sequence[str] | None,
        typer.Option(
            metavar="NAMES",
            parser=reading(names),
            help="With --gate: counts that may rise, or patterns of them, separated by commas, as in 'aten::*,flops'.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Show runs side by side: machines, configurations, days. Judges only with --gate.

    Cases that differ only in what was varied from run to run, such as the
    allocator, share a row. Intervals are made of the processes of each case.
    Those between runs include the noise between runs of identical code, learned
    from the last complete sweeps on this machine (ntp doctor --calibrate
    measures several at once). Runs of the same machine, software and runtime
    are compared relative to the calibration kernel that each process also
    times, so that it does not matter how fast the machine was in each run.

    The gate is for those who cannot run the base again (ntp guard detects much
    smaller slowdowns). It compares operations, operators and bytes of a step
    exactly, and times where both runs are of the same machine and software.

    Exit status 0, or 4 if the runs have no case in common. With --gate: 0 pass
    or improvement, 1 regression, 2 wrong usage, 3 inconclusive, 4 not
    comparable, 5 the tool failed.

    For example:

      ntp compare reports/monday/run.json reports/latest/run.json

      ntp compare reports/latest/run.json --by threads

      ntp compare A.json B.json C.json --format html > comparison.html

      ntp compare --gate --threshold 10% reports/baselines/BASE.json reports/latest/run.json
    """
    from ntp.records.run import Run

    if not gate and (threshold is not None or allow is not None):
        raise OptionError("--threshold and --allow belong to --gate: give it, too, or leave them out")
    if by and (gate or len(runs) > 1):
        raise OptionError(f"--by compares one run within itself, without --gate (got {len(runs)} runs)")
    if len(runs) < 2 and not by:
        raise OptionError("one run alone cannot be compared: name another, or compare it within itself with --by")
    refuse_onto_input(*runs)
    loaded = [Run.load(path) for path in runs]
    if gate:
        if len(loaded) != 2:
            raise OptionError(f"--gate judges one run by another (got {len(loaded)} runs)")
        raise typer.Exit(_gate(loaded[0], loaded[1], format_, threshold, allow or ()))
    raise typer.Exit(_show(runs, loaded, by, format_))


def _show(paths: Sequence[Path], runs: Sequence["Run"], by: str, format_: ComparisonFormat) -> int:
    from ntp.cli.gate import noise_between
    from ntp.judge.compare import Column, are_normalised, columns_by
    from ntp.judge.compare import compare as compared

    columns = columns_by(runs[0], by) if by else [
        Column.of(name, run.measurements) for name, run in zip(column_names(paths), runs, strict=True)
    ]  # fmt: skip
    comparison = compared(columns, by, noise_between(*runs, normalised=not by and are_normalised(columns)))
    if format_ is ComparisonFormat.HTML:
        from ntp.report.html import comparison_page

        show(comparison_page(comparison, command_line()))
    else:
        from ntp.report.comparison import csv, report
        from ntp.report.document import FORMATS

        show(csv(comparison) if format_ is ComparisonFormat.CSV else FORMATS[format_](report(comparison)))
    return 0 if comparison.rows else NOT_COMPARABLE


def column_names(paths: Sequence[Path]) -> list[str]:
    """Name runs after their folders, or after their files; number them where names repeat."""
    short = [path.resolve().parent.name if path.stem == "run" else path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    return [f"{number}: {name}" for number, name in enumerate(short, 1)]


def _gate(base: "Run", head: "Run", format_: ComparisonFormat, threshold: float | None, allowed: Sequence[str]) -> int:
    from ntp.cli.gate import judged
    from ntp.judge.baseline import THRESHOLD
    from ntp.report.baseline import report
    from ntp.report.document import FORMATS, html

    if format_ is ComparisonFormat.CSV:
        raise OptionError(f"--gate writes {', '.join(FORMATS)} or html (got {format_.value!r})")
    verdict = judged(base, head, threshold or THRESHOLD, allowed)
    text = report(verdict)
    if format_ is ComparisonFormat.HTML:
        show(html(text, "The head against the baseline", command_line()))
    else:
        show(FORMATS[format_](text))
    return OF_VERDICT[verdict.verdict]
