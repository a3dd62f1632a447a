"""The report as Markdown: a pure function of what was recorded and of what was drawn from it."""

from collections.abc import Iterable, Mapping
from typing import Any

import error_tables as errors
import noise_tables as noise
from error_tables import Drawn
from recordings import CASES, CONDITIONS, Recorded
from suites import BUDGET_S
from wording import CONDITION, Row, seconds

from ntp.report.markup import code, prose, table
from ntp.report.units import UNKNOWN


def markdown(recorded: Recorded, drawn: Drawn, pictures: Iterable[str] = ()) -> str:
    """The whole report. ``pictures`` are the files of the charts that there are."""
    shown = set(pictures)
    sections = [
        "# How far `ntp guard` can be trusted",
        errors.headline(recorded, drawn),
        _where(recorded),
        _INTRODUCTION.format(cases=", ".join(map(code, CASES)), budget=f"{BUDGET_S:.0f} s"),
        "## False alarms",
        errors.false_alarms(recorded, drawn),
        errors.ON_FALSE_ALARMS,
        *(_picture(f"identical-{name}.svg", f"identical code, {CONDITION[name]}", shown) for name in CONDITIONS),
        "## Slowdowns found",
        errors.power(recorded, drawn),
        errors.ON_POWER,
        _picture("power.svg", "how often each slowdown is found", shown),
        "## Intervals",
        errors.coverage(recorded, drawn),
        errors.ON_COVERAGE,
        "## Other tools' rules on the same times",
        errors.tools(recorded, drawn),
        errors.ON_TOOLS,
        errors.sources(),
        "## Where the noise comes from",
        noise.noise(recorded),
        noise.ON_NOISE,
        noise.ablation(recorded),
        noise.ON_ABLATION,
        "## What a pair is summed up by",
        *(f"{CONDITION[name].capitalize()}:\n\n{noise.summaries(recorded, drawn, name)}" for name in CONDITIONS),
        noise.ON_SUMMARIES,
        "## Longer pairs",
        noise.lengths(recorded, drawn),
        noise.ON_LENGTHS,
        "## The recordings",
        files(recorded),
        _AGAIN,
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _where(recorded: Recorded) -> str:
    machines = dict.fromkeys(_machine(pool.facts.get("machine")) for pool in recorded.pools.values())
    if not machines:
        return ""
    return f"Recorded on: {'; '.join(machines)}. Another machine has other noise, and its guards end otherwise."


def _picture(name: str, what: str, shown: set[str]) -> str:
    return f"![{what}]({name})" if name in shown else ""


_INTRODUCTION = """\
All times were measured and none was scaled; two columns of one table are simulated, and say so. Where a table speaks of
*resampled* guards, pairs are drawn with replacement from those recorded, for each cell from its own, and the code that
decides in `ntp guard` says after each which cell needs the next one, until it is done or {budget} have passed; each
pair takes the time that it took when it was recorded. What stands in parentheses after a share is its exact 95%
interval (Clopper-Pearson). The cells are {cases}."""


def files(recorded: Recorded) -> str:
    """Table: what was recorded, when, and where."""
    rows = [
        _file(
            f"{'identical' if name in CONDITIONS else 'slower'}-{name}",
            sum(map(len, pool.pairs.values())),
            pool.facts.get("started"),
            pool.facts.get("wall_time_s"),
            pool.facts["base"]["commit"],
            pool.facts.get("machine"),
        )
        for name, pool in recorded.pools.items()
    ]
    for name, runs in recorded.runs.items():
        records = [run["record"] for run in runs if run["record"]]
        if not records:  # all of them failed before they kept anything
            continue
        pairs = sum(len(cell["pairs"]) for record in records for cell in record["cases"])
        took_s = sum(run["wall_time_s"] for run in runs)
        first = records[0]
        rows.append(_file(f"runs-{name}", pairs, first["started"], took_s, first["base"]["commit"], first["machine"]))
    if facts := recorded.ablation_facts:
        pairs = sum(len(each) for arm in recorded.ablation.values() for each in arm.values())
        rows.append(_file("ablation", pairs, facts.get("started"), None, facts.get("commit"), facts.get("machine")))
    return table(("file", "pairs", "UTC", "took", "commit", "machine"), rows) if rows else ""


def _file(
    name: str,
    pairs: int,
    started: str | None,
    took_s: float | None,
    commit: str | None,
    machine: Mapping[str, Any] | None,
) -> Row:
    return (
        code(f"{name}.json.gz"),
        str(pairs),
        prose((started or UNKNOWN)[:16].replace("T", " ")),
        UNKNOWN if took_s is None else seconds(took_s),
        code((commit or UNKNOWN)[:12]),
        _machine(machine),
    )


def _machine(facts: Mapping[str, Any] | None) -> str:
    return prose(f"{facts['cpu_model']}, {facts['logical_cpus']} CPUs") if facts else UNKNOWN


_AGAIN = """\
All tables are made again from these files by `python evidence/guard tables`; `record`, `slowdowns`, `runs` and
`ablation` make the files. `drawn.json.gz` holds what was drawn at random: a test draws a part of it again."""
