"""The report as Markdown: a pure function of what was recorded and what was drawn from it."""

from collections.abc import Iterable

import error_tables as errors
import instruction_counts
import noise_tables as noise
import pausing
import peer_runs
import policies
from error_tables import Drawn
from pools import CASES, CONDITIONS, OTHERS, Recorded
from recordings import machine_words, origin
from suites import BUDGET_S

from ntp.report.markup import code, table
from ntp.report.units import UNKNOWN


def markdown(recorded: Recorded, drawn: Drawn, pictures: Iterable[str] = ()) -> str:
    """Write the whole report. ``pictures`` are the files of its charts."""
    shown = set(pictures)
    sections = [
        "# How far `ntp guard` can be trusted",
        errors.headline(recorded, drawn),
        _where(recorded),
        _INTRODUCTION.format(cases=", ".join(map(code, CASES)), budget=f"{BUDGET_S:.0f} s"),
        "## False alarms",
        errors.false_alarms(recorded, drawn),
        errors.ON_FALSE_ALARMS,
        *(_picture(f"identical-{name}.svg", f"identical code, {CONDITIONS[name]}", shown) for name in CONDITIONS),
        "## Slowdowns found",
        errors.power(recorded, drawn),
        errors.ON_POWER,
        _picture("power.svg", "how often each slowdown is found", shown),
        *_waiting(recorded),
        "## Intervals",
        errors.coverage(recorded, drawn),
        errors.ON_COVERAGE,
        "## Other tools' rules on the same times",
        errors.tools(recorded, drawn),
        errors.ON_TOOLS,
        errors.sources(),
        *_peer(recorded),
        *_instructions(recorded),
        "## Where the noise comes from",
        noise.noise(recorded),
        noise.ON_NOISE,
        noise.ablation(recorded),
        noise.ON_ABLATION,
        *_policies(recorded),
        *_pausing(recorded),
        "## What a pair is summed up by",
        *(f"{CONDITIONS[name].capitalize()}:\n\n{noise.summaries(recorded, drawn, name)}" for name in CONDITIONS),
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
    machines = dict.fromkeys(machine_words(pool.facts.get("machine")) for pool in recorded.pools.values())
    if not machines:
        return ""
    return f"Recorded on: {'; '.join(machines)}. Another machine has other noise, and its guards end differently."


def _pausing(recorded: Recorded) -> Iterable[str]:
    for document in recorded.pausing.values():
        yield f"## Pausing the idle side: {code(document['case'])}"
        yield pausing.costs(document)
        yield pausing.worth(document)
        yield pausing.ON_PAUSING


def _policies(recorded: Recorded) -> Iterable[str]:
    if recorded.policies:
        yield "## OpenMP's wait policy"
        yield policies.policies(recorded.policies)
        yield policies.ON_POLICIES


def _waiting(recorded: Recorded) -> Iterable[str]:
    if errors.WAITS in recorded.pools:
        yield "### What the report says of a step that only waits"
        yield errors.ON_WAITING
        yield errors.told(recorded.pools[errors.WAITS])


def _peer(recorded: Recorded) -> Iterable[str]:
    if recorded.peer:
        yield "## benchmatrix, really run"
        yield peer_runs.comparisons(recorded.peer)
        yield peer_runs.ON_COMPARISONS


def _instructions(recorded: Recorded) -> Iterable[str]:
    if recorded.instructions:
        yield "## Counting instructions"
        yield instruction_counts.detected(recorded.instructions)
        yield instruction_counts.ON_COUNTS


def _picture(name: str, what: str, shown: set[str]) -> str:
    return f"![{what}]({name})" if name in shown else ""


_INTRODUCTION = """\
All times were measured and none was scaled; two columns of one table are simulated, and say so. Where a table mentions
*resampled* guards, their pairs are drawn with replacement from those recorded, for each case from its own, and the
code that decides in `ntp guard` says after each pair which case needs the next one, until it is done or {budget} have
passed; each pair takes the time that it took when it was recorded. The exact 95% interval of a share (Clopper-Pearson)
follows it in parentheses. The cases are {cases}."""


def files(recorded: Recorded) -> str:
    rows = []
    for name, pool in recorded.pools.items():
        kind, facts = "identical" if name in CONDITIONS else "slower", pool.facts
        where = origin(facts["started"], facts["wall_time_s"], [facts["base"]["commit"]], facts.get("machine"))
        rows.append((code(f"{kind}-{name}.json.gz"), str(sum(map(len, pool.pairs.values()))), *where))
    for name, runs in recorded.runs.items():
        if records := [run["record"] for run in runs if run["record"]]:  # all may have failed before they kept anything
            pairs = sum(len(case["pairs"]) for record in records for case in record["cases"])
            first, took_s = records[0], sum(run["wall_time_s"] for run in runs)
            where = origin(first["started"], took_s, [first["base"]["commit"]], first["machine"])
            rows.append((code(f"runs-{name}.json.gz"), str(pairs), *where))
    if facts := recorded.ablation_facts:
        pairs = sum(len(of_case.pairs) for arm in recorded.ablation.values() for of_case in arm.values())
        where = origin(facts["started"], facts.get("wall_time_s"), [facts["commit"]], facts["machine"])
        rows.append((code("ablation.json.gz"), str(pairs), *where))
    others = {name: document for name in OTHERS if (document := getattr(recorded, name))}
    pairs_of = {name: sum(map(len, document["pairs"].values())) for name, document in recorded.pausing.items()}
    pairs_of |= {"policies": len(others.get("policies", {}).get("pairs", ()))}
    for name, document in (recorded.pausing | others).items():
        where = origin(document["started"], document["wall_time_s"], [document["commit"]], document["machine"])
        file = name if name.endswith(".json.gz") else f"{name}.json.gz"
        rows.append((code(file), str(pairs_of.get(name, UNKNOWN)), *where))
    return table(("file", "pairs", "UTC", "took", "commit", "machine"), rows) if rows else ""


_AGAIN = """\
`python evidence/guard tables` makes all tables from these files; `record`, `slowdowns`, `runs`, `ablation`, `pausing`,
`policies`, `instructions` and `peer` make the files. `drawn.json.gz` holds what was drawn at random: a test draws a
part of that again."""
