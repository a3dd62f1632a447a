"""A run as Markdown for GitHub: for a pull request, a README, an archive."""

import shlex
from collections.abc import Collection, Sequence

from ntp.records.environment import Git, Machine, Software
from ntp.records.run import Failure, Run
from ntp.report.columns import Table
from ntp.report.facts import hardware_facts, software_facts
from ntp.report.markup import code, fenced, prose, table
from ntp.report.sentences import (
    answer,
    failure_message,
    grouped,
    machine_lines,
    noise_line,
    plain_lines,
    time_line,
)
from ntp.report.sweep_columns import GROWTHS, PARTS, STEPS, WHY
from ntp.report.tables import Tables, surroundings, tables_of

_HOW_TO_READ = """\
- Each case is measured in several **processes**: one in each round, in random order. **Step time** is the geometric
  mean over the processes of their median steps, each after a warm-up, adjusted to how fast the machine was meanwhile:
  each process also times a calibration kernel. Its **95% interval** is made of the processes by Student's t, with one
  spread for the whole steps of one runtime: it says how well this run knows the step time. Another run differs by more;
  the answer says by how much. A single process has no interval, however many steps it took.
- **p95** is the 95th percentile of all step times: one step in twenty takes longer.
- **tokens/s** is batch size x sequence length / step time.
- **Speed-up** is the step time of the same case with one thread divided by this one's; **efficiency** is the speed-up
  divided by the number of threads. Both need that case in the same run. Their intervals are of ratios within the run.
- **Processes x steps**: how many processes were measured, and how many steps of each (of the median process).
- **Cannot be told apart**: the 95% interval of the ratio of the two cases includes 1.
- **Of peak** is the rate of the step's matrix products, as a share of the fastest fp32 product measured on this machine
  with as many threads. **FLOP/byte** and **bound by** are known where operators were profiled.
- **Phases** (forward, loss, backward, optimizer, rest) are shares of the step's time, measured in a separate pass.
- **Peak tensors** is the most memory that torch's allocator had handed out at any moment of a step.
- **Peak RSS** is the largest resident size of any of the processes: interpreter, libraries, model and activations.
- **Faults** are minor page faults per step of the process that had the fewest: pages, mostly of 4 KiB, that the kernel
  had to map.
- A case is named after its model, batch size (b), sequence length (s) and threads (t), followed by whatever differs
  from the defaults.
"""

_GROWTH_NOTE = """\
Grows as: the exponent of the power law that fits best, with its 95% interval, which is wide where no power law fits.
At the end: the exponent between the two largest sizes."""

PICTURES = {
    "throughput": "Tokens a second",
    "scaling": "Thread scaling",
    "processes": "Where the noise is",
    "samples": "Step times",
    "faults": "Page faults",
    "phases": "Phases of a step",
    "roofline": "Roofline",
    "memory": "Memory",
}
"""Titles of a sweep's charts, by the names of their files."""


def markdown(run: Run, pictures: Collection[str] = ()) -> str:
    """The whole report: the answer, tables, failures, warnings, the machine, and how to read it.

    Args:
        run: what was measured.
        pictures: names of the files beside the report, which embeds those that are charts of a sweep.
    """
    tables = tables_of(run)
    shown = [f"![{title}]({name}.svg)" for name, title in PICTURES.items() if f"{name}.svg" in pictures]
    sections = [
        f"# Training step times, {prose(run.started)}",
        "\n\n".join(f"**{line}**" for line in answer(run, tables, code)),
        _plain(run, tables),
        table_text(Table(STEPS, tables.steps, "Whole steps")),
        noise_line(tables),
        table_text(Table(WHY, tables.why, "Why")),
        "\n\n".join(("## In pictures", *shown)) if shown else "",
        table_text(Table(GROWTHS, tables.growths, "Growth"), _GROWTH_NOTE),
        table_text(Table(PARTS, tables.parts, "Parts of a step")),
        _failures(run.failures),
        _warnings(tables),
        _roofline(run),
        f"## Where the time went\n\n{time_line(tables.time)}" if run.measurements else "",
        *(_surroundings(*place) for place in surroundings(run)),
        f"## Command\n\n{fenced(shlex.join(run.command))}",
        f"## How to read this\n\n{_HOW_TO_READ.rstrip()}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _plain(run: Run, tables: Tables) -> str:
    sentence, lines = plain_lines(run, tables, code, prose)
    return "\n\n".join(filter(None, (sentence, fenced("\n".join(lines)) if lines else "")))


def table_text(section: Table, note: str = "") -> str:
    """A table, if it has rows, below its title, and a note."""
    section = section.in_format("markdown")
    cells = [[column.in_markdown(row) for column in section.columns] for row in section.rows]
    title = f"## {prose(section.title)}" if section.title else ""
    parts = [title, table([prose(title) for title in section.titles], cells), note]
    return "\n\n".join(filter(None, parts)) if section.rows else ""


def _failures(failures: Sequence[Failure]) -> str:
    items = []
    for failure in failures:
        tail = f"\n\n{fenced(failure.stderr_tail)}" if failure.stderr_tail.strip() else ""
        items.append(f"{code(failure.case_id)}: {prose(failure_message(failure))}{tail}")
    return "\n\n".join(["## Failed cases", *items]) if items else ""


def _warnings(tables: Tables) -> str:
    sections = []
    for warning, messages in grouped(tables):
        cases = "\n".join(f"- {code(case_id)}: {prose(message)}" for case_id, message in messages)
        sections.append(f"**{warning.kind}**: {prose(warning.advice)}\n\n{cases}")
    return "\n\n".join(["## Warnings", *sections]) if sections else ""


def _roofline(run: Run) -> str:
    # The title keeps this list apart from that of the warnings.
    lines = [f"- {prose(line)}" for line in machine_lines(run.peaks)]
    return "\n".join(["## Roofline", "", *lines]) if lines else ""


def _surroundings(machine: Machine, software: Software, git: Git) -> str:
    facts = [
        (name, prose(text))
        for name, text in (*hardware_facts(machine), *software_facts(software), ("Commit", _commit(git)))
        if text
    ]
    return f"## Machine\n\n{table(('', ''), facts)}"


def _commit(git: Git) -> str | None:
    if git.commit is None:
        return None
    branch = f" ({git.branch})" if git.branch else ""
    return f"{git.commit[:12]}{branch}{', with uncommitted changes' if git.dirty else ''}"
