"""Counts of both sides: equal or not, in both directions, in words, and those that are allowed to rise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.judge.counts import Change, changes, counts_of, not_counted, regressions
from ntp.records.pairs import Counts

MIB = 2**20
BASE = Counts(
    parameters=1_543_144,
    flops=19_000_000_000,
    operators=(("aten::add_", 3), ("aten::mm", 6)),
    allocated_bytes=100 * MIB,
    peak_tensor_bytes=90 * MIB,
)

NAMES = ("aten::add_", "aten::copy_", "aten::mm", "aten::zero_")
SIZES = st.integers(0, 2)
COUNTS = st.builds(
    Counts,
    parameters=SIZES,
    flops=SIZES,
    operators=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 3)).map(
        lambda calls: tuple(sorted(calls.items()))
    ),
    allocated_bytes=SIZES,
    peak_tensor_bytes=SIZES,
)


def but(**other):
    return BASE.model_copy(update=other)


def test_a_single_one_more_or_less_is_seen():
    for name in ("parameters", "flops", "allocated_bytes", "peak_tensor_bytes"):
        value = getattr(BASE, name)
        (more,) = changes(BASE, but(**{name: value + 1}))
        (less,) = changes(BASE, but(**{name: value - 1}))
        assert (more, more.worse) == ((name, value, value + 1), True)
        assert (less, less.worse) == ((name, value, value - 1), False)


def test_an_operator_that_is_new_gone_or_called_more_often():
    head = but(operators=(("aten::copy_", 2), ("aten::mm", 7)))
    differing = changes(BASE, head)
    assert differing == (("aten::add_", 3, 0), ("aten::copy_", 0, 2), ("aten::mm", 6, 7))
    assert [change.worse for change in differing] == [False, True, True]


def test_sizes_come_before_operators():
    head = Counts(parameters=1, flops=1, operators=(("aten::add_", 3),), allocated_bytes=1, peak_tensor_bytes=1)
    names = [change.name for change in changes(BASE, head)]
    assert names == ["parameters", "flops", "peak_tensor_bytes", "allocated_bytes", "aten::mm"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Change("aten::copy_", 0, 2), "+2 aten::copy_ a step"),
        (Change("aten::copy_", 2, 0), "-2 aten::copy_ a step"),
        (Change("aten::mm", 6, 6.5), "+0.5 aten::mm a step"),
        (Change("peak_tensor_bytes", 90 * MIB, 106 * MIB), "+16 MiB peak tensor memory"),
        (Change("peak_tensor_bytes", 106 * MIB, 90 * MIB), "-16 MiB peak tensor memory"),
        (Change("allocated_bytes", 0, 1.5 * MIB), "+1.5 MiB allocated a step"),
        (Change("allocated_bytes", 0, 4), "+4 bytes allocated a step"),
        (Change("allocated_bytes", 12_345 * MIB, 0), "-12,345 MiB allocated a step"),
        (Change("flops", 0, 4_294_967_296), "+4.29 GFLOP a step"),
        (Change("flops", 1000, 0), "-1,000 FLOP a step"),
        (Change("parameters", 1_000_000, 1_001_024), "+1,024 parameters"),
    ],
)
def test_a_change_in_words(change, words):
    assert str(change) == words


def test_only_what_rises_and_is_not_allowed_by_name_is_a_regression():
    differing = changes(BASE, but(flops=1, peak_tensor_bytes=91 * MIB, operators=(("aten::copy_", 2), ("aten::mm", 7))))
    assert [change.name for change in regressions(differing, ())] == ["peak_tensor_bytes", "aten::copy_", "aten::mm"]
    assert [change.name for change in regressions(differing, ["aten::copy_", "flops"])] == [
        "peak_tensor_bytes",
        "aten::mm",
    ]
    assert regressions(differing, ["peak_tensor_bytes", "aten::copy_", "aten::mm"]) == ()
    assert len(regressions(differing, ["aten", "peak"])) == 3, "a part of a name allows nothing"


@pytest.mark.parametrize(
    ("allowed", "left"),
    [
        (["aten::*"], ["parameters", "peak_tensor_bytes"]),
        (["*_bytes"], ["parameters", "aten::_foreach_add_", "aten::copy_"]),
        (["aten::_foreach_*", "aten::copy?"], ["parameters", "peak_tensor_bytes"]),
        (["aten::[!c]*"], ["parameters", "peak_tensor_bytes", "aten::copy_"]),
        (["ATEN::*", "Parameters"], ["parameters", "peak_tensor_bytes", "aten::_foreach_add_", "aten::copy_"]),
        (["aten::copy", "ten::copy_"], ["parameters", "peak_tensor_bytes", "aten::_foreach_add_", "aten::copy_"]),
        (["*"], []),
    ],
)
def test_a_pattern_allows_all_whose_whole_name_it_matches(allowed, left):
    head = but(
        parameters=BASE.parameters + 1,
        peak_tensor_bytes=91 * MIB,
        operators=(("aten::_foreach_add_", 1), ("aten::add_", 3), ("aten::copy_", 2), ("aten::mm", 6)),
    )
    assert [change.name for change in regressions(changes(BASE, head), allowed)] == left


@given(COUNTS, COUNTS, st.lists(st.sampled_from([*NAMES, "aten::*", "*_bytes", "flops", "parameters", "x"])))
def test_what_is_allowed_or_no_more_than_before_is_never_a_regression(base, head, allowed):
    differing = regressions(changes(base, head), allowed)
    assert all(change.worse and change.name not in allowed for change in differing)
    assert not ("aten::*" in allowed and any(change.name.startswith("aten::") for change in differing))
    assert regressions(differing, ()) == differing


@given(COUNTS, COUNTS)
def test_the_other_way_round_every_change_is_reversed(base, head):
    there, back = changes(base, head), changes(head, base)
    assert [(change.name, change.head, change.base) for change in there] == list(back)
    assert all(change.worse is not reverse.worse for change, reverse in zip(there, back, strict=True))
    assert all(str(change)[0] == "-+"[change.worse] for change in there)
    assert bool(there) is (base != head)


@given(COUNTS)
def test_equal_counts_do_not_differ(counts):
    assert changes(counts, counts.model_copy(deep=True)) == ()


def test_the_counts_of_a_measurement_are_those_of_its_observers(make_measurement, make_observations):
    observations = make_observations()
    counts = counts_of(make_measurement(observations=observations, parameters=7))
    assert counts == Counts(
        parameters=7,
        flops=observations.flops.total_flops,
        operators=tuple(sorted(observations.operators.calls_per_step.items())),
        allocated_bytes=sum(operator.allocated_bytes_per_step for operator in observations.operators.operators),
        peak_tensor_bytes=observations.memory.peak_bytes,
    )
    assert dict(counts.operators)["aten::mm"] == 6, "of all phases together"
    assert all(name.startswith("aten::") for name, _ in counts.operators)
    unobserved = counts_of(make_measurement(parameters=7))
    assert (unobserved.parameters, unobserved.missing) == (7, COUNTED)


COUNTED = ("flops", "operators", "allocated_bytes", "peak_tensor_bytes")


@pytest.mark.parametrize("name", COUNTED)
def test_a_count_that_one_side_lacks_is_not_compared_and_all_others_are(name):
    less = but(**{name: None})
    other = Counts(parameters=1, flops=1, operators=(("aten::copy_", 1),), allocated_bytes=1, peak_tensor_bytes=1)
    whole = [change.name for change in changes(BASE, other)]
    for base, head in ((less, other), (other, less)):
        assert not_counted(base, head) == (name,)
        missing = {"aten::add_", "aten::copy_", "aten::mm"} if name == "operators" else {name}
        assert {change.name for change in changes(base, head)} == {*whole} - missing
    assert not_counted(BASE, other) == ()
