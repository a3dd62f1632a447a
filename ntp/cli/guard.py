"""``ntp guard``: whether the head trains more slowly than the base."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntp.case import Case
from ntp.cli.comparing import check_has_sides, check_out, judged, keep, tell_job, tell_last_lines
from ntp.cli.console import command_line, show, status_line
from ntp.cli.exit_status import OF_VERDICT, REGRESSION, TOOL_FAILED
from ntp.cli.options import DEFAULT_MODEL, ModelOption, OrderSeedOption, reading, refuse_onto_input
from ntp.errors import OptionError
from ntp.parsing import names, seconds, share

if TYPE_CHECKING:
    from ntp.judge.guard import GuardVerdict
    from ntp.records.guard import Plan


class FailOn(StrEnum):
    IMPROVEMENT = "improvement"


def guard(
    base: Annotated[str | None, typer.Option(metavar="REF", help="Commit to compare with.")] = None,
    head: Annotated[
        str,
        typer.Option(metavar="REF", help="Commit to judge, or 'worktree' for the files as they are."),
    ] = "worktree",
    cases: Annotated[
        Sequence[str] | None,
        typer.Option(
            metavar="IDS",
            parser=reading(names),
            help="Case ids, separated by commas.",
            show_default="a small step and a large, on 1 thread and on all",
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    threshold: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            parser=reading(share),
            help="Smallest slowdown that counts as a regression.",
            show_default="1%",
        ),
    ] = 0.01,
    wall_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            parser=reading(share),
            help="The same on the wall clock, waiting included; on one thread a third of it.",
            show_default="3 x --threshold",
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option(metavar="TIME", parser=reading(seconds), help="Time budget.", show_default="300s")
    ] = 300.0,
    allow: Annotated[
        Sequence[str] | None,
        typer.Option(
            metavar="NAMES",
            parser=reading(names),
            help="Counts that may rise, or patterns of them, separated by commas, as in 'aten::*,flops'.",
            show_default="none",
        ),
    ] = None,
    setup: Annotated[
        str,
        typer.Option(metavar="COMMAND", help="Shell command to run first in each side's folder.", show_default="none"),
    ] = "",
    link: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Path of the work tree to share with the checkouts, which hold only what git tracks. Repeatable.",
            show_default="none",
        ),
    ] = None,
    instructions: Annotated[
        bool,
        typer.Option("--instructions", help="Also count the instructions of a small step, with valgrind."),
    ] = False,
    fail_on: Annotated[FailOn | None, typer.Option("--fail-on", help="Also fail on an improvement.")] = None,
    order_seed: OrderSeedOption = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Keep every count and every sample in FILE.")] = Path(
        "reports/latest/guard.json"
    ),
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Judge again what --out kept, without measuring.")
    ] = None,
) -> None:
    """Tell whether the head trains more slowly than the base, with evidence either way.

    First it counts exactly what a step of each does: operations, operators,
    bytes. Then pairs of fresh processes, one of each side, take steps at the
    same time or in turn until the interval of the slowdown lies on one side of
    the threshold or the budget is spent. The sides are commits of the
    repository that you are in: ntp's own, or yours, with --model naming one of
    its files.

    Exit status: 0 pass or improvement, 1 regression, 2 wrong usage,
    3 inconclusive, 4 not comparable, 5 a worker or the tool failed.

    For example:

      ntp guard --base main

      ntp guard --base v1.2 --model model.py:make --threshold 2% --out guard.json

      ntp guard --replay guard.json
    """
    from ntp.judge.guard import summary, verdict_on
    from ntp.records.guard import GuardRecord
    from ntp.records.sole_writer import sole_writer
    from ntp.report.document import markdown, terminal
    from ntp.report.guard import report
    from ntp.runners.bench import forking
    from ntp.runners.guard import Sides
    from ntp.runners.guard import guard as run_guard
    from ntp.worker.callgrind import check_valgrind, count_instructions

    if replay is not None and base is None:
        refuse_onto_input(replay)
        record = GuardRecord.load(replay)
    elif base is not None and replay is None:
        check_out(out)
        if instructions:
            check_valgrind()
        plan = _guard_plan(cases or (), model, threshold, budget, wall_threshold)
        sides = Sides(base, head, links=link or (), setup=setup)
        with sole_writer(out), status_line() as progress, forking(progress, command_line()) as bench:
            run = run_guard(
                plan,
                sides,
                bench=bench,
                budget_s=budget,
                seed=order_seed,
                allowed=allow or (),
                count_instructions=count_instructions if instructions else None,
            )
            kept = keep(run, out, lambda record: summary(verdict_on(record)), f"ntp guard --replay {out} judges it")
            assert kept is not None  # it counts, or says why not, whatever the budget
            record = kept
    else:
        raise OptionError("give --base REF to measure, or --replay FILE to judge what was measured before")
    verdict = judged(verdict_on, record, replay)
    text = report(record, verdict)
    tell_job(markdown(text))
    show(terminal(text))
    tell_last_lines((guarded.case_id, guarded.stderr_tail) for guarded in record.cases)  # most often, all fail of one
    raise typer.Exit(_guard_status(verdict, fail_on))


def _guard_plan(
    ids: Sequence[str], model: str, threshold: float, budget_s: float, wall_threshold: float | None
) -> "Plan":
    from ntp.judge.guard import plan_of
    from ntp.machine.cpus import available_cpus, check_runtime
    from ntp.runners.guard import default_cases

    if ids and model != DEFAULT_MODEL:
        raise OptionError(f"--model {model} is for the default cases, --cases names its own: give only one of the two")
    cases = [Case.parse(case_id) for case_id in ids] or default_cases(model, (1, available_cpus().max_threads))
    for case in cases:
        check_runtime(case.runtime)
        check_has_sides(case)
    return plan_of(tuple(dict.fromkeys(case.id for case in cases)), threshold, budget_s, wall_threshold)


def _guard_status(verdict: "GuardVerdict", fail_on: FailOn | None) -> int:
    if verdict.failures and verdict.verdict != "regression":
        return TOOL_FAILED
    if verdict.verdict == "improvement" and fail_on is FailOn.IMPROVEMENT:
        return REGRESSION
    return OF_VERDICT[verdict.verdict]
