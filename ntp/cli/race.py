"""``ntp race``: which of several ways to train is the fastest here."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ntp.case import Runtime, Workload
from ntp.cli.comparing import check_has_sides, check_out, judged, keep, tell_job, tell_last_lines
from ntp.cli.console import command_line, show, status_line
from ntp.cli.exit_status import INCONCLUSIVE, REGRESSION, TOOL_FAILED
from ntp.cli.options import OrderSeedOption, reading, refuse_onto_input, takes_case
from ntp.contestants import contestants as read_contestants
from ntp.errors import OptionError
from ntp.parsing import names, seconds, share

if TYPE_CHECKING:
    from ntp.judge.race import RaceVerdict
    from ntp.records.race import RaceRecord

FEWEST, MOST = 2, 8
"""How many contestants a race has."""


class RaceFormat(StrEnum):
    TERMINAL = "terminal"
    MARKDOWN = "markdown"
    HTML = "html"


@takes_case(Workload, Runtime)
def race(
    options: dict[str, Any],
    contestants: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONTESTANT...", help="Settings joined by commas, as in threads=2,allocator=jemalloc."),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=reading(share),
            help="Contestants known to be this close share a place.",
            show_default="1%",
        ),
    ] = 0.01,
    budget: Annotated[
        float, typer.Option(metavar="TIME", parser=reading(seconds), help="Time budget.", show_default="120s")
    ] = 120.0,
    expect: Annotated[
        str, typer.Option(metavar="fastest=NAME", help="Fail unless this contestant wins.", show_default="nothing")
    ] = "",
    with_: Annotated[
        Sequence[str] | None,
        typer.Option(
            "--with",
            metavar="REQUIREMENTS",
            parser=reading(names),
            help="What the environments of torch==VERSION hold besides, separated by commas, as in 'transformers'.",
            show_default="none",
        ),
    ] = None,
    order_seed: OrderSeedOption = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Keep every count and every sample in FILE.")] = Path(
        "reports/latest/race.json"
    ),
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge again what --out kept, without measuring.")
    ] = None,
    format_: Annotated[RaceFormat, typer.Option("--format", help="Output format.")] = RaceFormat.TERMINAL,
) -> None:
    """Race two to eight ways to train against each other, and rank them.

    A contestant is written as settings joined by commas: threads=2,
    allocator=jemalloc, step=deduplicated+fused. It may also name code
    (commit=v1.2), another interpreter with its libraries
    (python=old/bin/python), or a torch (torch==2.14.1), for which an
    environment is made once and kept. What it does not name, it has from the
    options. Pairs of fresh processes decide: each contestant meets the leader,
    slower ones drop out.

    Exit status: 0; with --expect, 1 if that contestant does not win, and 3 if
    it may; 2 wrong usage, 5 fewer than two contestants can be run.

    For example:

      ntp race threads=1 threads=2

      ntp race allocator=glibc allocator=glibc-tuned --batch-size 8

      ntp race commit=v1.2 commit=HEAD --model model.py:make

      ntp race torch==2.13.0 torch==2.14.1 --budget 5min
    """
    from ntp.judge.race import verdict_on
    from ntp.records.race import RaceRecord
    from ntp.report.document import FORMATS, markdown
    from ntp.report.race import page, report

    if replay is not None and not contestants:
        refuse_onto_input(replay)
        record = RaceRecord.load(replay)
        expected = _expected(expect, [one.name for one in record.contestants])
    elif contestants and replay is None:
        if not FEWEST <= len(contestants) <= MOST:
            raise OptionError(f"a race has {FEWEST} to {MOST} contestants: name that many (got {len(contestants)})")
        record, expected = _raced(contestants, options, precision, budget, expect, with_ or (), order_seed, out)
    else:
        raise OptionError("name two contestants or more, or give --replay FILE to judge what was measured before")
    verdict = judged(verdict_on, record, replay)
    text = report(record, verdict)
    tell_job(markdown(text))
    show(page(record, verdict) if format_ is RaceFormat.HTML else FORMATS[format_](text))
    tell_last_lines((one.name, one.stderr_tail) for one in record.contestants)
    raise typer.Exit(_status(verdict, expected))


def _raced(
    texts: Sequence[str],
    options: dict[str, Any],
    precision: float,
    budget_s: float,
    expect: str,
    requirements: Sequence[str],
    seed: int,
    out: Path,
) -> "tuple[RaceRecord, str]":
    """Race them. Returns the record, and the contestant that is expected to win."""
    from ntp.judge.race import summary, verdict_on
    from ntp.machine.cpus import available_cpus, check_runtime
    from ntp.records.sole_writer import sole_writer
    from ntp.runners.bench import forking
    from ntp.runners.race import race as run_race

    wanted = read_contestants(texts, {**options, "threads": options["threads"] or available_cpus().max_threads})
    expected = _expected(expect, [one.name for one in wanted])
    if requirements and not any(one.torch for one in wanted):
        raise OptionError("--with is for the environments of contestants such as torch==2.13.0: leave it out")
    for one in wanted:
        check_runtime(one.case.runtime)
        if one.commit:
            check_has_sides(one.case)
    check_out(out)
    with sole_writer(out), status_line() as progress, forking(progress, command_line()) as bench:
        run = run_race(
            wanted, bench=bench, precision=precision, budget_s=budget_s, seed=seed, requirements=requirements
        )
        record = keep(run, out, lambda record: summary(verdict_on(record)), f"ntp race --replay {out} judges it")
    assert record is not None  # it counts, or says why not, whatever the budget
    return record, expected


def _expected(text: str, known: Sequence[str]) -> str:
    if not text:
        return ""
    what, _, name = text.partition("=")
    if what != "fastest" or name not in known:
        raise OptionError(f"--expect {text}: write fastest=NAME, where NAME is one of {', '.join(known)}")
    return name


def _status(verdict: "RaceVerdict", expected: str) -> int:
    if len(verdict.running) < FEWEST:
        return TOOL_FAILED
    if not expected or verdict.winner == expected:
        return 0
    may_win = not verdict.decided and any((place.name, place.place) == (expected, 1) for place in verdict.places)
    return INCONCLUSIVE if may_win else REGRESSION
