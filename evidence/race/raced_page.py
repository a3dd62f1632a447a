"""The report of recorded races as Markdown: a pure function of the recordings."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raced import EQUALS, load, record_of
from recordings import Row, origin
from scipy.special import betaincinv

from ntp.judge.race import verdict_on
from ntp.report.document import markdown
from ntp.report.markup import code, prose, table
from ntp.report.race import report


def files(folder: Path) -> dict[str, str]:
    recorded = load(folder)
    races = {name.removesuffix(".json.gz"): document["race"] for name, document in recorded.items() if name != EQUALS}
    sections = ["# Races", _INTRODUCTION, table(("race", "what it said"), list(_answers(races)))]
    if EQUALS in recorded:
        sections += _equals(recorded[EQUALS])
    for name, race in races.items():
        sections += _race(name, race)
    sections += ["## The recordings", _files(recorded)]
    return {"README.md": "\n\n".join(sections) + "\n"}


_INTRODUCTION = """\
Whole races as a user runs them, each with its command and what it said. `python evidence/race record` and `equals 100`
recorded them, `tables` made this page. Another machine has other winners. [What the columns
mean](../../docs/race.md#what-a-race-says)."""


def _answers(races: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for name, race in races.items():
        record = record_of(race)
        yield name, prose(report(record, verdict_on(record)).answer[0] if record else race["stderr"].strip())


def _race(name: str, race: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}"
    yield f"```bash\n{shlex.join(['ntp', 'race', *race['arguments']])}\n```"
    record = record_of(race)
    if record is None:
        yield f"Status {race['status']}: {code(race['stderr'].strip())}"
        return
    said = markdown(report(record, verdict_on(record))._replace(heading="", legend=""))
    yield said.replace("\n## ", "\n### ").strip()


def _equals(document: dict[str, Any]) -> Iterator[str]:
    yield "## A case against itself"
    verdicts = [verdict_on(record) for race in document["races"] if (record := record_of(race))]
    named = sum(verdict.winner is not None for verdict in verdicts)
    ties = sum(verdict.decided and verdict.winner is None for verdict in verdicts)
    races = len(verdicts)
    low = float(betaincinv(named, races - named + 1, 0.025)) if named else 0.0
    high = float(betaincinv(named + 1, races - named, 0.975)) if named < races else 1.0
    command = code(shlex.join(["ntp", "race", *document["races"][0]["arguments"]]))
    yield (
        f"**Of {races} races of a case against itself, {named} named a winner ({named / races:.1%}, {low:.1%} to "
        f"{high:.1%}), {ties} said that they are equally fast, and {races - named - ties} were left open.** Each had "
        f"20 s; every other one was of two threads. The command: {command}."
    )


def _files(recorded: dict[str, dict[str, Any]]) -> str:
    rows = [
        (code(name), *origin(document["started"], _took_s(document), [document["commit"]], document["machine"]))
        for name, document in recorded.items()
    ]
    return table(("file", "UTC", "took", "commit", "machine"), rows)


def _took_s(document: dict[str, Any]) -> float:
    return document["race"]["wall_time_s"] if "race" in document else document["wall_time_s"]
