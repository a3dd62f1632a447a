"""``ntp tune``: the fastest case of a workload on this machine."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ntp.case import Case, Workload
from ntp.cli.comparing import keep
from ntp.cli.console import command_line, status_line, write
from ntp.cli.options import MAX_THREADS, OrderSeedOption, reading, takes_case
from ntp.errors import OptionError
from ntp.parsing import seconds, size_bytes


@takes_case(Workload)
def tune(
    options: dict[str, Any],
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_THREADS, metavar="N", help="Use exactly N threads.", show_default="1 and up to all CPUs"
        ),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Try only steps that compute what the plain fp32 step does: nothing in bf16."),
    ] = False,
    budget: Annotated[
        float, typer.Option(metavar="TIME", parser=reading(seconds), help="Time budget.", show_default="180s")
    ] = 180.0,
    memory_limit: Annotated[
        int | None,
        typer.Option(
            metavar="SIZE",
            parser=reading(size_bytes),
            help="Peak memory allowed per process, as in 2GiB.",
            show_default="none",
        ),
    ] = None,
    order_seed: OrderSeedOption = 0,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Keep every race in FILE. If it exists, resume the search in it.")
    ] = Path("reports/latest/tune.json"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over, even if the file holds an earlier search.")
    ] = False,
) -> None:
    """Find the fastest way to train a model on this machine.

    Tries how the step computes (loss, matrix library, precision, optimizer,
    torch.compile) together with how the machine is set up (threads, allocator,
    affinity, huge pages). Each candidate alternates with the best so far, in
    fresh processes, so that a noisy machine is noisy for both. Shows what each
    lever is worth, and what to write for the same effect elsewhere.

    For example:

      ntp tune

      ntp tune --model examples/gpt2.py:tiny --batch-size 8 --seq-len 64 --exact

      ntp tune --budget 10min --memory-limit 2GiB
    """
    from ntp.judge.tuning import winner
    from ntp.machine.cpus import available_cpus, check_runtime
    from ntp.machine.runtime import environment_variables
    from ntp.records.run import check_writable, write_whole
    from ntp.records.sole_writer import sole_writer
    from ntp.records.tuning import Tuning
    from ntp.report.document import markdown, terminal
    from ntp.report.tuning import report as report_of
    from ntp.runners.bench import forking
    from ntp.runners.levers import machine_levers
    from ntp.runners.tune import tune as run_tune
    from ntp.worker.driver import cpus_for

    default = Case.of({**options, "threads": threads or available_cpus().max_threads})
    check_runtime(default.runtime)
    check_writable(out)
    report = out.with_suffix(".md")
    if os.path.realpath(out) == os.path.realpath(report):
        raise OptionError(f"--out {out} is the file of the report: choose another name, as in tune.json")
    if report.is_file() and not out.exists():
        raise OptionError(f"{report} would be replaced by the report of --out {out}: choose another name")
    check_writable(report)
    with sole_writer(out), status_line() as progress, forking(progress, command_line()) as bench:
        tuning = keep(
            run_tune(
                default,
                machine_levers(exact=exact, threads=threads),
                budget_s=budget,
                memory_limit_bytes=memory_limit,
                seed=order_seed,
                earlier=Tuning.load(out) if out.is_file() and not fresh else None,
                bench=bench,
            ),
            out,
            lambda tuning: {"fastest": winner(tuning).case.id},
            f"the same command resumes from {out}",
            ends_early=True,
        )
    if tuning is None:
        raise OptionError(f"no race fits into {budget:g} s: raise --budget")
    fastest = winner(tuning)
    runtime = fastest.case.runtime
    text = report_of(tuning, fastest, environment_variables(runtime), cpus_for(runtime))
    write_whole(report, markdown(text))
    write(terminal(text))
