"""The places of a race, from pairs made by hand and drawn at random."""

import json
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.race import summary, verdict_on
from ntp.records.pairs import Block, Pair
from ntp.records.race import Contestant, Duel, RacePlan, RaceRecord

NOISE = (0.001, -0.002, 0.0015, 0.0005, -0.001, 0.0, 0.002, -0.0015, 0.001, -0.0015)
STEP_NS = 10_000_000_000
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h")


def pair(log_ratio):
    times_ns = {"base": STEP_NS, "head": round(STEP_NS * math.exp(log_ratio))}
    blocks = [Block(side=side, step_time_ns=(time_ns,)) for side, time_ns in times_ns.items()] * 4
    return Pair(case_id="simple-b2-s4-t1", seed=0, blocks=tuple(blocks))


def record_of(names, duels=(), failed=(), **plan):
    return RaceRecord(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=1,
        command=("ntp", "race"),
        plan=RacePlan(**plan),
        budget_s=60,
        seed=0,
        contestants=tuple(
            Contestant(name=name, case_id="simple-b2-s4-t1", failure="died" if name in failed else "") for name in names
        ),
        duels=tuple(
            Duel(base=base, head=head, pairs=tuple(pair(log_ratio + noise) for noise in NOISE[:count]))
            for base, head, log_ratio, count in duels
        ),
    )


def raced(log_times, sd, rng, **plan):
    """Run a race whose pairs are drawn from these truths, by the rule itself."""
    names = NAMES[: len(log_times)]
    truths = dict(zip(names, log_times, strict=True))
    record = record_of(names, **plan)
    while duel := verdict_on(record).next_duel:
        base, head = duel
        duels = {frozenset((one.base, one.head)): one for one in record.duels}
        before = duels.get(frozenset(duel), Duel(base=base, head=head))
        drawn = pair(truths[before.head] - truths[before.base] + rng.gauss(0, sd))
        duels[frozenset(duel)] = before.model_copy(update={"pairs": (*before.pairs, drawn)})
        record = record.model_copy(update={"duels": tuple(duels.values())})
    return verdict_on(record)


def test_before_the_first_look_nothing_is_known_and_all_meet_the_first_named():
    verdict = verdict_on(record_of("abc", [("a", "b", -0.5, 2)]))
    assert (verdict.winner, verdict.decided, verdict.next_duel) == (None, False, ("a", "c"))
    assert [(place.place, place.relation) for place in verdict.places] == [(1, None), (1, "open"), (1, "open")]


def test_who_is_slower_has_lost_and_the_ratio_is_to_the_first():
    verdict = verdict_on(record_of("ab", [("a", "b", 0.1, 5)]))
    assert (verdict.winner, verdict.decided, verdict.next_duel, verdict.detectable) == ("a", True, None, None)
    first, second = verdict.places
    assert (first.name, first.place, first.relation, first.ratio) == ("a", 1, None, None)
    assert (second.name, second.place, second.relation, second.pairs) == ("b", 2, "slower", 5)
    assert second.ratio.value == pytest.approx(math.exp(0.1), rel=1e-3)
    assert second.ratio.low > 1


def test_who_is_faster_leads_and_the_others_meet_it():
    verdict = verdict_on(record_of("abc", [("a", "b", -0.1, 5), ("a", "c", 0.0, 3)]))
    assert verdict.places[0].name == "b"
    # c was as fast as the one that b has beaten: by way of it, c is slower than b.
    assert {place.name: place.relation for place in verdict.places} == {"b": None, "a": "slower", "c": "slower"}


def test_who_is_within_the_precision_shares_the_place():
    verdict = verdict_on(record_of("ab", [("a", "b", 0.0, 10)]))
    assert (verdict.winner, verdict.decided) == (None, True)
    assert [(place.place, place.relation) for place in verdict.places] == [(1, None), (1, "tied")]


def test_a_difference_below_the_precision_is_none_however_sure():
    duels = [("a", "b", 0.004, 10)]
    assert verdict_on(record_of("ab", duels)).places[1].relation == "tied"
    assert verdict_on(record_of("ab", duels, precision=0.001)).winner == "a"


def test_a_step_of_more_tokens_may_take_longer():
    record = record_of("ab", [("a", "b", math.log(2), 10)])
    larger = record.contestants[1].model_copy(update={"case_id": "simple-b8-s4-t1"})
    verdict = verdict_on(record.model_copy(update={"contestants": (record.contestants[0], larger)}))
    assert verdict.winner == "b"
    assert verdict.places[1].ratio.value == pytest.approx(2, rel=1e-3)


def test_who_is_slower_than_one_that_was_beaten_is_compared_by_way_of_it():
    verdict = verdict_on(record_of("abc", [("a", "c", 0.2, 5), ("a", "b", -0.1, 5)]))
    assert [place.name for place in verdict.places] == ["b", "a", "c"]
    assert verdict.places[2].ratio.value == pytest.approx(math.exp(0.3), rel=1e-3)
    assert verdict.decided


def test_losers_meet_each_other_only_if_their_places_are_open():
    far_apart = [("a", "b", 0.1, 5), ("a", "c", 0.3, 5)]
    assert verdict_on(record_of("abc", far_apart)).next_duel is None
    close = [("a", "b", 0.1, 5), ("a", "c", 0.101, 5)]
    assert verdict_on(record_of("abc", close, precision=0.0001)).next_duel == ("b", "c")


def test_those_that_failed_come_last_and_are_met_by_nobody():
    verdict = verdict_on(record_of("abc", [("a", "c", 0.1, 5)], failed="b"))
    assert [(place.name, place.place, place.relation) for place in verdict.places] == [
        ("a", 1, None), ("c", 2, "slower"), ("b", None, None),
    ]  # fmt: skip
    assert verdict.winner == "a"
    assert verdict_on(record_of("ab", failed="ab")).running == ()
    alone = verdict_on(record_of("ab", failed="a"))
    assert ([place.name for place in alone.running], alone.winner, alone.next_duel) == (["b"], None, None)


def test_a_race_that_may_not_go_on_says_what_it_could_have_told_apart():
    verdict = verdict_on(record_of("ab", [("a", "b", 0.0, 5)], precision=0.0001, max_pairs=5))
    assert (verdict.decided, verdict.next_duel) == (False, None)
    assert 1 < verdict.detectable < 1.02


@pytest.mark.parametrize("contestants", [2, 4])
def test_equals_have_a_winner_in_one_race_of_twenty_at_most(contestants):
    rng = random.Random(1)
    winners = sum(raced([0.0] * contestants, 0.01, rng).winner is not None for _ in range(200))
    assert winners <= 18, "5% of 200, and chance"


def test_the_truth_is_found():
    rng = random.Random(2)
    for _ in range(20):
        verdict = raced([0.3, 0.0, 0.1, 0.05], 0.01, rng)
        assert verdict.winner == "b"
        assert [place.name for place in verdict.places] == ["b", "d", "c", "a"]
        assert [place.place for place in verdict.places] == [1, 2, 3, 4]


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=6), st.integers(0, 2**32))
def test_whatever_is_raced_the_places_are_in_order_and_it_ends(log_times, seed):
    verdict = raced(log_times, 0.005, random.Random(seed), max_pairs=6)
    assert verdict.next_duel is None
    numbers = [place.place for place in verdict.places]
    assert numbers[0] == 1
    assert all(before <= after for before, after in pairwise(numbers))
    assert sorted(place.name for place in verdict.places) == sorted(NAMES[: len(log_times)])


def test_the_summary_is_plain_values():
    plain = summary(verdict_on(record_of("ab", [("a", "b", 0.1, 5)])))
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["winner"], plain["decided"]) == ("a", True)
    assert [place["contestant"] for place in plain["places"]] == ["a", "b"]
