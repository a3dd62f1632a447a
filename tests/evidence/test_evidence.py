"""The committed pages of evidence are what the recordings make, and the simulated loop is the guard's loop."""

import inspect
import json
import math
import re
import sys
from pathlib import Path

import pytest

sys.path += [
    str(Path(__file__).parents[2] / folder)
    for folder in ("evidence", "evidence/guard", "evidence/fastest", "evidence/sweep", "evidence/race")
]

import draws
import findings
import measuring  # noqa: F401  (no test records anything: what the recorders import must be there)
import page
import pictures
import pools
import raced_page
import races
import racing  # noqa: F401
import searching  # noqa: F401
import suites
import sweep_page
from recordings import REPORTS, read

from ntp.cli import guard as cli
from ntp.judge.guard import verdict_on

pytestmark = pytest.mark.long


def guard_files(folder):
    """Make the page and its charts. What was drawn at random is drawn again only in part, for that takes minutes."""
    recorded, drawn = pools.load(folder), json.loads(read(folder / "drawn.json.gz"))
    again = draws.draw(recorded, 1)
    assert beginning(drawn, again) == again
    charts = pictures.charts(recorded, drawn)
    (dots,) = re.findall("mark-symbol role-mark.*?</g>", charts["identical-quiet.svg"], re.DOTALL)
    assert dots.count("<path") == dots.count(' fill="#') == sum(map(len, recorded.pools["quiet"].pairs.values()))
    return {"README.md": page.markdown(recorded, drawn, charts), **charts}


def beginning(more, fewer):
    """Cut every text and list in the draws of many suites to the length that it has in those of fewer."""
    if isinstance(fewer, dict):
        return {key: beginning(more[key], value) for key, value in fewer.items()}
    return more[: len(fewer)]


def fastest_files(folder):
    return findings.files(races.load(folder))


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("guard", guard_files),
        ("fastest", fastest_files),
        ("sweeps", sweep_page.files),
        ("race", raced_page.files),
    ],
)
def test_the_committed_page_is_what_the_recordings_make(name, files):
    made, folder = files(REPORTS / name), REPORTS / name
    assert {path.name for path in folder.iterdir() if path.suffix in (".md", ".svg")} == set(made)
    for file, text in made.items():
        committed = (folder / file).read_text(encoding="utf-8")
        assert words(committed) == words(text) if file.endswith(".svg") else committed == text


def words(svg):
    """Return what a picture says. Where exactly it says so changes with the version of the library that draws."""
    return re.findall(r">([^<>]+)<", svg) + re.findall(r'aria-label="([^"]*)"', svg)


@pytest.mark.parametrize(("scale", "budget_s"), [(1, math.inf), (3, math.inf), (3, 112.5)])
def test_the_simulated_loop_is_the_guards_loop(make_guarded, make_guard_record, scale, budget_s):
    plan, defaults = suites.usual_plan(), inspect.signature(cli.guard).parameters
    assert (defaults["threshold"].default, defaults["budget"].default) == (suites.THRESHOLD, suites.BUDGET_S)
    cases = [make_guarded(case_id, 0.003 * i, plan.max_pairs, scale) for i, case_id in enumerate(plan.cases)]
    record = make_guard_record(*cases, max_pairs=plan.max_pairs)
    assert record.plan == plan
    pool = pools.pool_of("quiet", record.model_dump(mode="json"))
    ratios = suites.guarded_log_ratios(pool, plan)
    taken = dict.fromkeys(plan.cases, 0)
    outcome = suites.run(plan, ratios, pool.pair_s, budget_s)
    while True:
        so_far = [case.model_copy(update={"pairs": case.pairs[: taken[case.case_id]]}) for case in record.cases]
        verdict = verdict_on(record.model_copy(update={"cases": tuple(so_far)}))
        assert suites.next_case(plan, ratios, taken)[0] == verdict.next_case
        if verdict.next_case is None or sum(taken.values()) == outcome.pairs:
            break
        taken[verdict.next_case] += 1
    assert (outcome.verdict, outcome.pairs) == (verdict.verdict, sum(taken.values()))
    assert outcome.ratios == tuple(case.first.ratio for case in verdict.cases)
    assert (verdict.next_case is None) == (budget_s == math.inf)
    assert outcome.elapsed_s <= budget_s
