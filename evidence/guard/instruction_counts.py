"""What counting instructions detects: identical code, and small changes that no clock could find."""

import json
import time
from pathlib import Path
from typing import Any

import slower
from recordings import ROOT, Provenance, provenance, seconds, tell, write

from ntp.case import Case
from ntp.judge.guard import MAX_MORE_INSTRUCTIONS
from ntp.records.guard import Instructions
from ntp.report.markup import code, table
from ntp.worker.callgrind import count_instructions, small
from ntp.worker.sources import Source

IDENTICAL = "identical"
CASE = "simple-b8-s64-t1"
REPEATS = 2
"""How often each is counted: a count that does not repeat proves nothing."""


def record(path: Path) -> None:
    document = Provenance(**provenance()).model_dump(mode="json")
    counts: dict[str, list[dict[str, Any]]] = {}
    started_s = time.perf_counter()
    with slower.clone(ROOT) as base, slower.clone(ROOT) as changed:
        commit = slower.git(changed, "rev-parse", "HEAD")
        for name in (IDENTICAL, *slower.COUNTED):
            if name != IDENTICAL:
                slower.commit(changed, name, commit)
            sources = {"base": Source.of(base), "head": Source.of(changed)}
            for _ in range(REPEATS):
                count_started_s = time.perf_counter()
                counted = count_instructions(small(Case.parse(CASE)), sources)  # type: ignore[arg-type]
                took_s = round(time.perf_counter() - count_started_s, 1)
                counts.setdefault(name, []).append({"took_s": took_s, "counted": counted.model_dump(mode="json")})
            document["wall_time_s"] = round(time.perf_counter() - started_s, 1)
            write(path, json.dumps({**document, "counts": counts}))
            tell(f"{path.name}: {name}")


def detected(document: dict[str, Any]) -> str:
    rows = []
    for name, entries in document["counts"].items():
        counts = [Instructions.model_validate(entry["counted"]) for entry in entries]
        ratios = [counted.head / counted.base for counted in counts]
        found = [ratio > 1 + MAX_MORE_INSTRUCTIONS for ratio in ratios]
        what = "changes nothing" if name == IDENTICAL else slower.COUNTED[name].what
        rows.append(
            (
                f"{code(name)}: {what}",
                f"{counts[0].base:,}",
                ", ".join(f"{ratio - 1:+.4%}" for ratio in ratios),
                "yes" if all(found) else "no" if not any(found) else "sometimes",
                seconds(sum(entry["took_s"] for entry in entries) / len(entries)),
            )
        )
    return table(("every step", "instructions", "more, each time", "found", "took"), rows)


ON_COUNTS = f"""\
`ntp guard --instructions` counts the instructions of one small step of either side with valgrind's callgrind. More than
{MAX_MORE_INSTRUCTIONS:.1%} is a finding. The case is `{small(Case.parse(CASE)).id}`; both sides are counted at the same
time."""
