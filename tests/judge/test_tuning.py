"""From races to standings and a winner: by hand."""

import math

import pytest

from ntp.case import Case, Workload
from ntp.errors import RecordError
from ntp.judge.tuning import (
    MOST_PAIRS,
    has_won,
    incumbent,
    levers_of,
    mean_ratio,
    standings,
    wants_another_pair,
    winner,
    with_values,
)
from ntp.records.pairs import Block, Pair
from ntp.records.tuning import Lever, Race, Tuning

DEFAULT = Case.of({"threads": 2})
ONEDNN = with_values(DEFAULT, {"matmul": "onednn"})
BOTH = with_values(ONEDNN, {"optimizer": "fused"})
FUSED = with_values(DEFAULT, {"optimizer": "fused"})


def a_pair(case_id: str, ratio: float) -> Pair:
    base_ns = 1_000_000
    blocks = [
        Block(side=side, step_time_ns=(ns,)) for side, ns in (("base", base_ns), ("head", round(base_ns * ratio)))
    ]
    return Pair(case_id=case_id, seed=0, blocks=tuple(blocks))


def a_race(case: Case, against: Case, *ratios: float, purpose: str = "search", **other: object) -> Race:
    pairs = tuple(a_pair(case.id, ratio) for ratio in ratios)
    values = {"purpose": purpose, "case_id": case.id, "against": against.id, "outcome": "raced", "pairs": pairs}
    return Race.model_validate({**values, **other})


def a_tuning(*races: Race) -> Tuning:
    return Tuning(
        started="2025-01-02T03:04:05+00:00", wall_time_s=60, command=("ntp", "tune"), default=DEFAULT.id,
        levers=(Lever(field="matmul", values=("default", "onednn")),), budget_s=180, seed=0, races=races,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("log_ratios", "another"),
    [
        ([], True), ([-0.5], True), ([0.2], False), ([0.04], True), ([-0.5, -0.5], False), ([0.01, -0.02], True),
        ([0.03, 0.03], False), ([-0.01] * (MOST_PAIRS - 1), True), ([-0.01] * MOST_PAIRS, False),
    ],
)  # fmt: skip
def test_a_race_goes_on_while_it_is_open(log_ratios, another):
    assert wants_another_pair(log_ratios) is another


@pytest.mark.parametrize(
    ("log_ratios", "won"),
    [([], False), ([-0.5], False), ([-0.5, -0.5], True), ([-0.5, 0.01, 0.01], False), ([-0.001, -0.001], False),
     ([-0.03, 0.01, -0.02], True), ([0.1, 0.1], False)],
)  # fmt: skip
def test_the_winner_is_faster_on_the_whole_and_in_most_pairs(log_ratios, won):
    assert has_won(log_ratios) is won


def test_the_interval_is_that_of_t():
    interval = mean_ratio([a_pair("x", ratio) for ratio in (0.5, 0.5, 0.5)])
    assert interval == pytest.approx((0.5, 0.5, 0.5))
    wide = mean_ratio([a_pair("x", ratio) for ratio in (0.5, 0.6)])
    assert wide.value == pytest.approx(math.sqrt(0.3))
    # t of one degree of freedom: 12.706; the standard error of two is half their difference.
    assert math.log(wide.high / wide.value) == pytest.approx(12.706 * math.log(0.6 / 0.5) / 2, rel=1e-3)
    assert mean_ratio([a_pair("x", 0.5)]) is None


def test_standings_are_chained_to_the_default():
    tuning = a_tuning(a_race(ONEDNN, DEFAULT, 0.5, 0.5), a_race(BOTH, ONEDNN, 0.8, 0.8), a_race(FUSED, ONEDNN, 1.5))
    assert [ranked.case_id for ranked in standings(tuning)] == [BOTH.id, ONEDNN.id, FUSED.id, DEFAULT.id]
    assert [ranked.ratio for ranked in standings(tuning)] == pytest.approx([0.4, 0.5, 0.75, 1])


def test_who_lost_or_failed_is_no_incumbent():
    tuning = a_tuning(
        a_race(ONEDNN, DEFAULT, 0.5, 0.5),
        a_race(BOTH, ONEDNN, 0.8, 0.8, outcome="too large"),
        a_race(FUSED, ONEDNN, 1.1, 1.1),
    )
    assert incumbent(tuning) == ONEDNN.id
    assert incumbent(a_tuning()) == DEFAULT.id


def test_the_winner_with_what_its_levers_are_worth():
    tuning = a_tuning(
        a_race(ONEDNN, DEFAULT, 0.5, 0.5),
        a_race(BOTH, ONEDNN, 0.8, 0.8),
        a_race(BOTH, DEFAULT, 0.42, 0.40, 0.41, purpose="final"),
        a_race(FUSED, BOTH, 2.0, 2.0, purpose="without"),
        a_race(ONEDNN, BOTH, 1.2, 1.25, purpose="without"),
    )
    fastest = winner(tuning)
    assert fastest.case == BOTH
    assert fastest.ratio.value == pytest.approx((0.42 * 0.40 * 0.41) ** (1 / 3))
    assert [(lever.field, lever.value, lever.instead) for lever in fastest.contributions] == [
        ("matmul", "onednn", "default"),
        ("optimizer", "fused", "default"),
    ]
    assert fastest.contributions[0].ratio.value == pytest.approx(2)


def test_without_a_final_the_races_against_the_default_count():
    assert winner(a_tuning(a_race(ONEDNN, DEFAULT, 0.5, 0.5))).ratio.value == pytest.approx(0.5)
    assert winner(a_tuning(a_race(ONEDNN, DEFAULT, 0.5, 0.5), a_race(BOTH, ONEDNN, 0.8, 0.8))).ratio is None


def test_what_cannot_run_without_a_lever_says_why():
    tuning = a_tuning(
        a_race(ONEDNN, DEFAULT, 0.5, 0.5),
        a_race(DEFAULT, ONEDNN, purpose="without", outcome="failed", message="out of memory"),
    )
    (only,) = winner(tuning).contributions
    assert only.ratio is None
    assert only.message == "out of memory"


def test_levers_are_the_fields_that_differ():
    assert levers_of(BOTH, DEFAULT) == {"matmul": ("onednn", "default"), "optimizer": ("fused", "default")}
    assert levers_of(DEFAULT, DEFAULT) == {}


def test_a_search_is_read_as_it_was_written(tmp_path):
    tuning = a_tuning(a_race(ONEDNN, DEFAULT, 0.5, 0.5))
    path = tmp_path / "tune.json"
    path.write_text(tuning.model_dump_json())
    assert Tuning.load(path) == tuning


@pytest.mark.parametrize("place", ["case_id", "against"])
def test_a_search_that_races_the_model_of_somebody_else_is_refused(tmp_path, place):
    other = DEFAULT.model_copy(update={"workload": Workload(model="evil.py:make")})
    race = a_race(ONEDNN, DEFAULT, 0.5, 0.5).model_copy(update={place: other.id})
    path = tmp_path / "tune.json"
    path.write_text(a_tuning(race).model_dump_json())
    with pytest.raises(RecordError, match=r"it races evil\.py:make-.*, another workload than simple-"):
        Tuning.load(path)
