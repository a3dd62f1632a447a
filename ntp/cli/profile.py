"""``ntp profile``: one case, explained."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ntp.case import Case, Runtime, StepConfig, Workload
from ntp.cli.console import command_line, tell_if_terminal, write
from ntp.cli.options import takes_case

_WRITTEN = ("profile.json", "profile.md", "profile.html")


@takes_case(Workload, StepConfig, Runtime)
def profile(
    options: dict[str, Any],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for the profile.")] = Path("reports/profile"),
) -> None:
    """Explain one case: what bounds its step, and what to try.

    Writes profile.md and profile.html (the answer first), profile.json,
    trace.json for ui.perfetto.dev, flame graphs and charts. Each observer
    runs on steps of its own, so that none shows up in another's results.

    For example:

      ntp profile --threads 2

      ntp profile --model examples/gpt2.py:tiny --batch-size 8 --out reports/gpt2
    """
    from ntp.machine.cpus import available_cpus, check_runtime
    from ntp.records.flame import drawings
    from ntp.records.run import check_writable, write_whole
    from ntp.records.run_file import save_run
    from ntp.records.sole_writer import sole_writer
    from ntp.report.html import page
    from ntp.report.profile import PICTURES, markdown, pictures, terminal
    from ntp.runners.bench import Bench
    from ntp.runners.profile import profile as run_profile

    case = Case.of({**options, "threads": options["threads"] or available_cpus().max_threads})
    check_runtime(case.runtime)
    check_writable(*(out / name for name in (*_WRITTEN, *PICTURES)))
    bench = Bench(progress=tell_if_terminal, command=command_line())
    run = None
    with sole_writer(out / "profile.json"):
        try:
            for run in run_profile(case, out, bench=bench):
                if not run.measurements:  # an earlier profile is worth more than the news that there is none
                    raise run.failures[-1].error()
                save_run(run, out / "profile.json")
                write_whole(out / "profile.md", markdown(run))
        except KeyboardInterrupt as stop:
            if run is not None:
                stop.add_note(f"; what was finished is in {out / 'profile.md'}")
            raise
        assert run is not None
        for name, draw in pictures(run).items():
            write_whole(out / name, draw())
        flames = drawings((measurement.observations.flame for measurement in run.measurements), out)
        write_whole(out / "profile.html", page(run, flames))
    write(terminal(run))
    write(f"Written: profile.md, profile.html and everything they show, in {out}")
    if run.failures:
        raise run.failures[-1].error()
