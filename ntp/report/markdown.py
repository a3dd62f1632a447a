"""A run as Markdown, as GitHub renders it: for a pull request, a README, an archive."""

import re
import shlex
from collections.abc import Sequence

from tabulate import tabulate

from ntp.measure.environment import Git, Machine, Software
from ntp.measure.records import Failure, Run
from ntp.report.facts import hardware_facts, software_facts
from ntp.report.sentences import answer, failure_message, grouped, time_line
from ntp.report.tables import Tables, surroundings, tables_of
from ntp.report.units import duration, durations, ratio, share, significant, size

_HOW_TO_READ = """\
- **Step time** is the median over the timed steps of one process, after a warm-up. Its **95% interval** is made of
  order statistics and assumes no distribution. It speaks of the steps of that process alone: another process, another
  hour or another machine differ by more, often by several percent. Do not tell two runs apart by it.
- **p95** is the 95th percentile of the step times: one step in twenty takes longer.
- **tokens/s** is batch size x sequence length / median step time.
- **Speed-up** is the median step time of the same case with one thread over this one's; **efficiency** is the speed-up
  over the number of threads. Both need that case in the same run.
- **Peak RSS** is the largest resident size of the process: interpreter, libraries, model and activations.
- **Faults** are minor page faults a step: pages, mostly of 4 KiB, that were mapped anew.
- A case's name is its model, batch size (b), sequence length (s) and threads (t), and then what differs from the
  defaults.
"""


def markdown(run: Run) -> str:
    """All that a run says: the answer, the tables, what failed, what casts doubt, the machine, how to read it."""
    tables = tables_of(run)
    sections = [
        f"# Training step times, {_prose(run.started)}",
        "\n\n".join(f"**{line}**" for line in answer(run, tables, _code)),
        _steps(tables),
        _parts(tables),
        _failures(run.failures),
        _warnings(tables),
        f"## Where the time went\n\n{time_line(tables.time)}" if run.measurements else "",
        *(_surroundings(*each) for each in surroundings(run)),
        f"## Command\n\n{_fenced(shlex.join(run.command))}",
        f"## How to read this\n\n{_HOW_TO_READ.rstrip()}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _steps(tables: Tables) -> str:
    headers = (
        *("case", "step time", "95% interval", "p95", "tokens/s", "95% interval"),
        *("speed-up", "efficiency", "peak RSS", "faults", "steps"),
    )
    rows = [
        (
            _code(row.case.id),
            duration(row.step_time_ns.value),
            durations(row.step_time_ns.low, row.step_time_ns.high),
            duration(row.step_time_p95_ns),
            significant(row.tokens_per_s.value),
            f"{significant(row.tokens_per_s.low)} to {significant(row.tokens_per_s.high)}",
            ratio(row.speed_up),
            share(row.efficiency),
            size(row.peak_rss_bytes),
            significant(row.minor_page_faults_per_step),
            f"{row.samples:,}",
        )
        for row in tables.steps
    ]
    return f"## Whole steps\n\n{_table(headers, rows)}" if rows else ""


def _parts(tables: Tables) -> str:
    headers = ("case", "time", "95% interval", "p95", "of the step", "steps")
    rows = [
        (
            _code(row.case.id),
            duration(row.part_time_ns.value),
            durations(row.part_time_ns.low, row.part_time_ns.high),
            duration(row.part_time_p95_ns),
            share(row.share_of_step),
            f"{row.samples:,}",
        )
        for row in tables.parts
    ]
    return f"## Parts of a step\n\n{_table(headers, rows)}" if rows else ""


def _failures(failures: Sequence[Failure]) -> str:
    items = []
    for failure in failures:
        tail = f"\n\n{_fenced(failure.stderr_tail)}" if failure.stderr_tail.strip() else ""
        items.append(f"{_code(failure.case_id)}: {_prose(failure_message(failure))}{tail}")
    return "\n\n".join(["## Failed cases", *items]) if items else ""


def _warnings(tables: Tables) -> str:
    sections = []
    for warning, seen in grouped(tables):
        cases = "\n".join(f"- {_code(case_id)}: {_prose(message)}" for case_id, message in seen)
        sections.append(f"**{warning.kind}**: {_prose(warning.advice)}\n\n{cases}")
    return "\n\n".join(["## Warnings", *sections]) if sections else ""


def _surroundings(machine: Machine, software: Software, git: Git) -> str:
    known = [
        (name, _prose(text))
        for name, text in (*hardware_facts(machine), *software_facts(software), ("Commit", _commit(git)))
        if text
    ]
    return f"## Machine\n\n{_table(('', ''), known)}"


def _commit(git: Git) -> str | None:
    if git.commit is None:
        return None
    branch = f" ({git.branch})" if git.branch else ""
    return f"{git.commit[:12]}{branch}{', with uncommitted changes' if git.dirty else ''}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already. A pipe would end its cell, even within a code span."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    alignment = ["left"] + ["right" if len(headers) > 2 else "left"] * (len(headers) - 1)
    return tabulate(escaped, headers, tablefmt="pipe", disable_numparse=True, colalign=alignment)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _prose(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([\\`*_\[\]<>#~&$])", r"\\\1", _printable(" ".join(text.split())))


def _code(text: str) -> str:
    """A code span. One that holds backticks is fenced by more of them."""
    line = _printable(" ".join(text.split()))
    ticks = "`" * (1 + _longest_run(line))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def _fenced(text: str) -> str:
    """A code block. One that holds fences has longer ones around it."""
    ticks = "`" * max(3, 1 + _longest_run(text))
    lines = (_printable(line.expandtabs()) for line in text.strip("\n").splitlines())
    return "\n".join([f"{ticks}text", *lines, ticks])


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)
