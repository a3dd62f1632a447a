"""The records: what they derive, what they refuse, and that they survive a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.records.observations import (
    FlopCount,
    FlopShare,
    LiveBytes,
    MemoryProfile,
    Operator,
    OperatorProfile,
    PhaseMemory,
    PhaseSamples,
    PhaseTimes,
    TensorBytes,
)

names = st.text(max_size=20)
counts = st.integers(0, 2**60)
times_ns = st.integers(1, 2**50)
amounts = st.floats(0, 1e18)
operators = st.builds(
    Operator,
    name=names,
    phase=names,
    input_shapes=names,
    calls_per_step=amounts,
    self_time_ns_per_step=amounts,
    allocated_bytes_per_step=amounts,
    moved_bytes_per_step=amounts,
    flops_per_step=amounts,
)
tensor_bytes = st.builds(TensorBytes, **dict.fromkeys(TensorBytes.model_fields, counts))


@st.composite
def phase_times(draw):
    steps = draw(st.integers(1, 5))
    samples = st.lists(times_ns, min_size=steps, max_size=steps).map(tuple)
    phases = draw(st.lists(st.builds(PhaseSamples, phase=names, time_ns=samples), min_size=1, max_size=4))
    return PhaseTimes(phases=tuple(phases), instrumented_step_ns=draw(samples), bare_step_ns=draw(samples))


@st.composite
def memory_profiles(draw):
    peak = draw(tensor_bytes)
    lower = st.builds(LiveBytes, time_ns=counts, live_bytes=st.integers(0, peak.total_bytes))
    timeline = [*draw(st.lists(lower, max_size=5)), LiveBytes(time_ns=0, live_bytes=peak.total_bytes)]
    phase = st.builds(PhaseMemory, phase=names, peak_bytes=counts, live_bytes=counts)
    return MemoryProfile(
        baseline=draw(tensor_bytes),
        peak=peak,
        peak_phase=draw(names),
        phases=tuple(draw(st.lists(phase, max_size=3))),
        timeline=tuple(timeline),
    )


@st.composite
def operator_profiles(draw):
    pairs = draw(st.lists(st.tuples(times_ns, times_ns), min_size=1, max_size=4))
    profiled_step_ns, bare_step_ns = zip(*pairs, strict=True)
    return OperatorProfile(
        operators=tuple(draw(st.lists(operators, max_size=4))),
        largest_by_shape=tuple(draw(st.lists(operators, max_size=4))),
        profiled_step_ns=profiled_step_ns,
        bare_step_ns=bare_step_ns,
    )


flop_shares = st.lists(st.builds(FlopShare, name=names, flops=counts), max_size=4).map(tuple)
flop_counts = st.builds(FlopCount, phases=flop_shares, operators=flop_shares)


@given(record=st.one_of(phase_times(), operator_profiles(), flop_counts, memory_profiles()))
def test_a_record_comes_back_from_json_as_it_went(record):
    again = type(record).model_validate_json(record.model_dump_json())
    assert again == record
    assert hash(again) == hash(record)


def example_phase_times(**changes):
    values = {
        "phases": (PhaseSamples(phase="forward", time_ns=(30, 10, 20)), PhaseSamples(phase="loss", time_ns=(6, 4, 2))),
        "instrumented_step_ns": (40, 20, 30),
        "bare_step_ns": (20, 16, 30),
    }
    return PhaseTimes(**(values | changes))


def test_phases_have_medians_and_shares():
    times = example_phase_times()
    assert times.median_ns == {"forward": 20, "loss": 4}
    assert times.share == pytest.approx({"forward": 60 / 90, "loss": 12 / 90})
    assert times.coverage == pytest.approx(72 / 90)


def test_the_cost_is_the_median_over_pairs():
    assert example_phase_times().cost == pytest.approx(20 / 16 - 1)  # of the ratios 2, 1.25 and 1


@pytest.mark.parametrize("field", ["instrumented_step_ns", "bare_step_ns"])
def test_samples_that_do_not_pair_are_refused(field):
    with pytest.raises(ValidationError, match="each pair of steps"):
        example_phase_times(**{field: (1, 2)})


def example_operator(self_time_ns):
    return Operator(
        name="aten::mm",
        phase="forward",
        calls_per_step=1,
        self_time_ns_per_step=self_time_ns,
        allocated_bytes_per_step=0,
        moved_bytes_per_step=0,
        flops_per_step=0,
    )


def example_operator_profile(bare_step_ns):
    return OperatorProfile(
        operators=(example_operator(30), example_operator(10)),
        largest_by_shape=(),
        profiled_step_ns=(90, 60, 50),
        bare_step_ns=bare_step_ns,
    )


def test_operators_have_shares_and_the_profiler_its_overhead():
    profile = example_operator_profile(bare_step_ns=(40, 50, 900))
    assert [profile.share(operator) for operator in profile.operators] == [0.75, 0.25]
    assert profile.overhead == pytest.approx(60 / 50 - 1)  # of the ratios 2.25, 1.2 and 0.06


def test_profiled_steps_without_a_bare_one_are_refused():
    with pytest.raises(ValidationError, match="one bare step before it"):
        example_operator_profile(bare_step_ns=(40, 50))


def test_flops_add_up_over_operators():
    operators = (FlopShare(name="aten::mm", flops=4), FlopShare(name="aten::bmm", flops=3))
    assert FlopCount(phases=(), operators=operators).total_flops == 7


def test_every_kind_of_tensor_counts():
    kinds = TensorBytes.model_fields
    assert TensorBytes(**{kind: 10**place for place, kind in enumerate(kinds)}).total_bytes == int("1" * len(kinds))


def test_a_peak_that_is_not_the_timelines_is_refused():
    point = LiveBytes(time_ns=0, live_bytes=7)
    parts = TensorBytes(parameters=3, activations=4)
    values = {"baseline": parts, "peak_phase": "forward", "phases": (), "timeline": (point,)}
    assert MemoryProfile(peak=parts, **values).peak_bytes == 7
    with pytest.raises(ValidationError, match="add up to the timeline's maximum"):
        MemoryProfile(peak=TensorBytes(parameters=3), **values)
