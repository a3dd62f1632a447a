"""A race as text: a golden one of each kind, and what is told besides; and its page."""

import math
from pathlib import Path

import pytest

from ntp.judge.race import verdict_on
from ntp.records.endings import Ending
from ntp.records.environment import Software
from ntp.records.pairs import Block, Counts, Pair
from ntp.records.race import Contestant, Duel, RacePlan, RaceRecord
from ntp.report.document import markdown, terminal
from ntp.report.race import page, report
from ntp.report.terminal import WIDTH

GOLDEN = Path(__file__).parent / "golden" / "race"
NOISE = (0.001, -0.002, 0.0015, 0.0005, -0.001, 0.0, 0.002, -0.0015, 0.001, -0.0015)
STEP_NS = 12_000_000
COUNTS = Counts(
    parameters=1_037_568,
    flops=25_000_000,
    operators=(("aten::addmm", 4.0), ("aten::copy_", 2.0), ("aten::mm", 6.0)),
    allocated_bytes=9_000_000.0,
    peak_tensor_bytes=30_000_000,
)
MORE = COUNTS.model_copy(update={"operators": (("aten::addmm", 4.0), ("aten::clone", 3.0), ("aten::mm", 6.0))})


def pair(case_id, log_ratio, **endings):
    times_ns = {"base": STEP_NS, "head": round(STEP_NS * math.exp(log_ratio))}
    blocks = [Block(side=side, step_time_ns=(time_ns,)) for side, time_ns in times_ns.items()] * 8
    states = tuple({"base": Ending(anonymous_bytes=2**28), "head": Ending(anonymous_bytes=2**29), **endings}.items())
    return Pair(case_id=case_id, seed=0, blocks=tuple(blocks), endings=states)


def duel(base, head, log_ratio, count=6, scale=1.0, *, ending=None):
    endings = {"head": ending} if ending else {}
    pairs = tuple(pair("simple-b8-s64-t2", log_ratio + scale * noise, **endings) for noise in NOISE[:count])
    return Duel(base=base, head=head, pairs=pairs, wall_time_s=4.0 * count)


def record_of(names, *duels, plan=None, **changes):
    contestants = tuple(
        Contestant(**{"name": name, "case_id": "simple-b8-s64-t2", "counts": COUNTS, **changes.get(name, {})})
        for name in names
    )
    return RaceRecord(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=3.0 + sum(one.wall_time_s for one in duels),
        command=("ntp", "race", *names),
        plan=RacePlan(**(plan or {})),
        budget_s=60,
        seed=0,
        contestants=contestants,
        duels=duels,
    )


JEMALLOC, GLIBC, TUNED = "allocator=jemalloc", "allocator=glibc", "allocator=glibc-tuned"
OLD, NEW = "torch==2.13.0", "torch==2.14.1"
ALLOCATORS = (GLIBC, TUNED, JEMALLOC)

EXAMPLES = {
    "winner": record_of(ALLOCATORS, duel(GLIBC, TUNED, -0.05), duel(TUNED, JEMALLOC, 0.12)),
    "tied": record_of(ALLOCATORS, duel(GLIBC, TUNED, 0.001, 10), duel(GLIBC, JEMALLOC, 0.12)),
    "open": record_of(ALLOCATORS, duel(GLIBC, TUNED, -0.01, 5, 9.0), duel(GLIBC, JEMALLOC, 0.12, 2)),
    "torch": record_of(
        (OLD, NEW),
        duel(OLD, NEW, 0.031),
        **{
            OLD: {"interpreter": OLD, "software": Software(torch="2.13.0+cpu", python="CPython 3.11.9")},
            NEW: {"interpreter": NEW, "software": Software(torch="2.14.1", python="CPython 3.11.9"), "counts": MORE},
        },
    ),
    "failed": record_of(
        (GLIBC, JEMALLOC),
        **{JEMALLOC: {"failure": "simple-b8-s64-t2-jemalloc: jemalloc is not installed", "counts": None}},
    ),
}


def text_of(record):
    return terminal(report(record, verdict_on(record)))


def shown(record):
    return " ".join(text_of(record).split())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_text_is_the_one_that_was_looked_at(name):
    # Where a change is meant: look at the new text as a reader would, then write it to the file.
    assert text_of(EXAMPLES[name]) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    again = RaceRecord.model_validate_json(EXAMPLES[name].model_dump_json())
    assert text_of(again) == text_of(EXAMPLES[name])


def test_there_is_an_example_of_each_golden_text_and_the_other_way_round():
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.txt" for name in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_line_is_too_long(name):
    assert max(map(len, text_of(EXAMPLES[name]).splitlines())) <= WIDTH


def test_what_casts_doubt_on_a_contestant_is_told_with_its_name():
    record = record_of(ALLOCATORS[:2], duel(GLIBC, TUNED, 0.1, ending=Ending(loss=math.nan)))
    assert f"- {TUNED}: loss-not-finite: the loss is nan; " in shown(record)
    assert "loss-not-finite" not in shown(EXAMPLES["winner"])


def test_before_the_first_look_there_is_no_ratio():
    text = shown(record_of(ALLOCATORS[:2], duel(GLIBC, TUNED, 0.1, 2)))
    assert text.startswith(
        f"Not decided: {GLIBC} and {TUNED} cannot all be told apart (2 pairs of processes in 11.0 s)."
    )


def test_a_ratio_beyond_all_bounds_is_shown():
    text = text_of(record_of(ALLOCATORS[:2], duel(GLIBC, TUNED, 5.0, 3, 400.0), plan={"min_pairs": 2}))
    assert max(map(len, text.splitlines())) <= WIDTH


def test_markdown_and_the_page_say_the_same_as_the_terminal():
    record = EXAMPLES["torch"]
    verdict = verdict_on(record)
    answer = report(record, verdict).answer[0]
    text, html = markdown(report(record, verdict)), page(record, verdict)
    assert text.startswith(f"# The race\n\n**{answer}**\n\n| contestant ")
    assert answer in html
    assert (
        "a step of torch==2.14.1 differs from one of torch==2.13.0: +3 aten::clone a step, -2 aten::copy_ a step"
        in html
    )
    assert "time per token, relative to torch==2.13.0" in html
    assert page(EXAMPLES["failed"], verdict_on(EXAMPLES["failed"])).startswith("<!doctype html>")


def test_steps_that_do_the_same_are_said_to():
    same = "a step of each does exactly the same"
    assert same in shown(EXAMPLES["winner"])
    assert same not in shown(EXAMPLES["torch"])
    uncounted = {TUNED: {"counts": COUNTS.model_copy(update={"flops": None})}}
    assert same not in shown(record_of(ALLOCATORS[:2], **uncounted))
