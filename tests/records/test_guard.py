"""The guard's record: what is written comes back, what is not one is refused in a line."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.errors import RecordError
from ntp.records.environment import Machine, Software
from ntp.records.guard import GuardedCase, GuardRecord, Instructions, Metric, Plan
from ntp.records.pairs import Block, Counts, Pair, Side

SIDE = Side(ref="main", commit="0123456789abcdef" * 2)
RECORD = GuardRecord(
    started="2025-01-02T03:04:05+00:00",
    wall_time_s=1.5,
    command=("ntp", "guard"),
    base=SIDE,
    head=SIDE,
    plan=Plan(cases=("simple-b2-s4-t1",)),
    budget_s=60,
    seed=1,
    cases=(GuardedCase(case_id="simple-b2-s4-t1"),),
)

TIMES = st.floats(0, 1e9)
NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=()), max_size=20)


def tuples(items, **sizes):
    return st.lists(items, max_size=3, **sizes).map(tuple)


@st.composite
def pairs(draw):
    sides = draw(st.permutations(["base", "head"] * draw(st.integers(1, 3))))
    times_ns = tuples(st.integers(10**4, 10**12), min_size=1)
    cpu_ns = tuples(NUMBERS)
    blocks = tuple(
        Block(side=side, step_time_ns=draw(times_ns), step_cpu_ns=draw(cpu_ns), shared=draw(st.booleans()))
        for side in sides
    )
    return Pair(case_id=draw(TEXT), seed=draw(NUMBERS), blocks=blocks)


PAIRS = pairs()
COUNTS = st.builds(
    Counts,
    parameters=NUMBERS,
    flops=NUMBERS,
    operators=tuples(st.tuples(TEXT, TIMES)),
    allocated_bytes=TIMES,
    peak_tensor_bytes=NUMBERS,
)
CASES = st.builds(
    GuardedCase,
    case_id=TEXT,
    base=st.none() | COUNTS,
    head=st.none() | COUNTS,
    pairs=tuples(PAIRS),
    base_failure=TEXT,
    failure=TEXT,
    stderr_tail=TEXT,
    wall_time_s=TIMES,
)
SOFTWARE = st.none() | st.builds(Software, torch=st.none() | TEXT)
SIDES = st.builds(Side, ref=TEXT, commit=TEXT, dirty=st.booleans(), software=SOFTWARE)
SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True)
INSTRUCTIONS = st.builds(Instructions, case_id=TEXT, base=st.integers(1, 2**63 - 1), head=st.integers(1, 2**63 - 1))
GUARDED = st.builds(Metric, name=TEXT, threshold=SHARES)


@st.composite
def records(draw):
    cases = draw(st.lists(CASES, min_size=1, max_size=3, unique_by=lambda case: case.case_id).map(tuple))
    min_pairs = draw(st.integers(2, 10))
    plan = Plan(
        cases=tuple(case.case_id for case in cases),
        metrics=draw(st.lists(GUARDED, min_size=1, max_size=3, unique_by=lambda metric: metric.name).map(tuple)),
        alpha=draw(st.floats(1e-6, 0.5, exclude_max=True)),
        min_pairs=min_pairs,
        max_pairs=min_pairs + draw(st.integers(0, 10)),
    )
    record = st.builds(
        GuardRecord,
        schema_version=st.just(GuardRecord.model_fields["schema_version"].default),
        started=TEXT,
        wall_time_s=TIMES,
        command=tuples(TEXT),
        base=SIDES,
        head=SIDES,
        plan=st.just(plan),
        budget_s=st.floats(0, 1e9, exclude_min=True),
        seed=NUMBERS,
        allowed=tuples(TEXT),
        machine=st.none() | st.builds(Machine, cpu_model=st.none() | TEXT),
        cases=st.just(cases),
        instructions=tuples(INSTRUCTIONS),
        instructions_failure=TEXT,
    )
    return draw(record)


VERDICT = {"verdict": "pass", "cases": [{"case": "simple-b2-s4-t1", "metrics": []}]}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("records") / "guard.json"


def refusal(file):
    """The one line that says why the file is refused."""
    with pytest.raises(RecordError) as refused:
        GuardRecord.load(file)
    message = str(refused.value)
    assert message.startswith(f"{file} ")
    assert "\n" not in message
    return message.removeprefix(f"{file} ")


@given(record=records())
def test_what_is_written_comes_back_with_or_without_its_verdict(file, record):
    text = record.text(VERDICT)
    assert json.loads(text)["verdict"] == VERDICT
    for written in (text, record.model_dump_json()):
        file.write_text(written, encoding="utf-8")
        assert GuardRecord.load(file) == record


def test_what_is_written_is_json_that_others_can_read():
    text = RECORD.text(VERDICT)
    assert text.endswith("}\n")
    document = json.loads(text)
    assert list(document)[:2] == ["verdict", "schema_version"]
    assert document["plan"]["metrics"] == [{"name": "wall", "threshold": 0.01}]


@given(record=records(), share=st.floats(0, 1, exclude_max=True))
def test_half_a_file_is_refused(file, record, share):
    whole = record.text(VERDICT).strip().encode()
    file.write_bytes(whole[: int(share * len(whole))])
    assert refusal(file).endswith("give a file written with --out")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe\x00", "is not text"),
        (b"[]", "is not a guard record: the file: "),
        (b"7", "is not a guard record: the file: "),
        (b"{}", "is not a guard record: schema_version: Field required"),
        (b'{"machine_info": {}, "benchmarks": [], "ntp": {"schema_version": 2}}', "schema_version: Field required"),
        (b'{"schema_version": 2, "benchmarks": []}', "is not a guard record: started: Field required"),
        (b"[" * 100_000, "Invalid JSON"),
    ],
)
def test_a_foreign_file_is_refused(file, content, why):
    file.write_bytes(content)
    assert why in refusal(file)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("plan", "metrics", 0, "threshold"), 0),
        (("plan", "metrics", 0, "threshold"), 1),
        (("plan", "metrics"), []),
        (("plan", "cases"), []),
        (("plan", "alpha"), 0.5),
        (("plan", "min_pairs"), 1),
        (("plan", "max_pairs"), 4.5),
        (("plan", "surprise"), 1),
        (("budget_s",), 0),
        (("cases",), []),
        (("head", "software"), "torch"),
        (("machine",), {"cpus": 2}),
        (("cases", 0, "pairs"), [{"case_id": "x", "seed": 1, "blocks": []}]),
        (("cases", 0, "surprise"), 1),
        (("head", "dirty"), "perhaps"),
    ],
)
def test_a_field_that_cannot_be_is_named(file, where, value):
    document = RECORD.model_dump(mode="json")
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    file.write_text(json.dumps(document))
    assert refusal(file).startswith(f"is not a guard record: {'.'.join(map(str, where))}")


HALF_COUNTED = {"parameters": 1, "flops": None, "operators": None, "allocated_bytes": 3, "peak_tensor_bytes": 4}


@pytest.mark.parametrize(
    ("where", "value", "why"),
    [
        (("cases", 0, "case_id"), "simple-b8-s4-t1", "the plan is for simple-b2-s4-t1, the cases are others"),
        (("plan", "cases"), ["simple-b8-s4-t1"], "the plan is for simple-b8-s4-t1, the cases are others"),
        (("plan", "cases"), ["simple-b2-s4-t1", "x"], "the plan is for simple-b2-s4-t1, x, the cases are others"),
        (("plan", "cases"), ["x", "x"], "'x' is named 2 times"),
        (("cases", 0, "head"), HALF_COUNTED, "a guard counts all of a step, but these are missing: flops, operators"),
        (("plan", "max_pairs"), 4, "at most 4 pairs are fewer than the 5 of the first look"),
    ],
)
def test_a_plan_and_cases_that_do_not_belong_together_are_refused(file, where, value, why):
    document = RECORD.model_dump(mode="json")
    inner = document
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    file.write_text(json.dumps(document))
    assert why in refusal(file)


def test_the_cases_are_those_of_the_plan_in_its_order():
    one, other = GuardedCase(case_id="simple-b2-s4-t1"), GuardedCase(case_id="simple-b8-s4-t1")
    planned = {**dict(RECORD), "plan": Plan(cases=(one.case_id, other.case_id))}
    assert GuardRecord(**{**planned, "cases": (one, other)}).cases == (one, other)
    for cases in ((other, one), (one,), (one, other, one)):
        with pytest.raises(ValidationError, match="the cases are others"):
            GuardRecord(**{**planned, "cases": cases})


@pytest.mark.parametrize("other", [{}, {"a_field_of_the_future": 1}])
def test_another_version_is_named_whatever_else_it_has(file, other):
    file.write_text(json.dumps({**RECORD.model_dump(mode="json"), **other, "schema_version": 99}))
    assert refusal(file) == "has schema version 99, this ntp reads 2: upgrade ntp"


def test_a_file_that_cannot_be_read(tmp_path):
    assert (
        refusal(tmp_path / "missing.json")
        == "cannot be read (No such file or directory): give a file written with --out"
    )
    assert refusal(tmp_path).startswith("cannot be read (Is a directory)")


@given(PAIRS)
def test_a_pairs_rounds_are_the_blocks_of_both_sides_in_order(pair):
    rounds = iter(pair.rounds)
    waiting = {"base": [], "head": []}
    for block in pair.blocks:
        waiting[block.side].append(block)
        if all(waiting.values()):
            assert next(rounds) == (waiting["base"].pop(0), waiting["head"].pop(0))
    assert next(rounds, None) is None


@pytest.mark.parametrize("sides", [["base", "base"], ["head", "head"], ["base", "head", "head"]])
def test_a_pair_in_which_a_side_has_missed_a_round_is_refused(sides):
    blocks = tuple(Block(side=side, step_time_ns=(1,)) for side in sides)
    with pytest.raises(ValidationError, match=f"{sides.count('base')} blocks of the base and {sides.count('head')} of"):
        Pair(case_id="x", seed=0, blocks=blocks)


@pytest.mark.parametrize("time_ns", [0, -1])
def test_a_step_takes_some_time(time_ns):
    with pytest.raises(ValidationError, match="step_time_ns"):
        Block(side="base", step_time_ns=(1, time_ns))


@given(PAIRS)
def test_a_pairs_samples_are_those_of_a_side_in_order(pair):
    base, head = list(pair.samples("base")), list(pair.samples("head"))
    for block in (block for block in pair.blocks if not block.shared):
        mine = base if block.side == "base" else head
        assert [mine.pop(0) for _ in block.step_time_ns] == list(block.step_time_ns)
    assert (base, head) == ([], [])


@pytest.mark.parametrize(
    "options",
    [
        {"cases": ()},
        {"cases": ("a", "a")},
        {"metrics": ()},
        {"metrics": (Metric(name="q25"), Metric(name="q25", threshold=0.02))},
        {"min_pairs": 1},
        {"min_pairs": 9, "max_pairs": 8},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"power": 1.0},
    ],
)
def test_plans_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        Plan(**{"cases": ("a",)} | options)


@pytest.mark.parametrize("threshold", [0, -0.01, 1, math.nan])
def test_thresholds_that_are_none_are_refused(threshold):
    with pytest.raises(ValidationError):
        Metric(name="q25", threshold=threshold)


@given(SHARES)
def test_the_limits_are_the_threshold_as_log_ratios(threshold):
    faster, slower = Metric(name="q25", threshold=threshold).log_limits
    assert (math.exp(faster), math.exp(slower)) == pytest.approx((1 - threshold, 1 + threshold))


def test_a_block_has_a_sample_and_a_pair_two_blocks():
    with pytest.raises(ValidationError, match="step_time_ns"):
        Block(side="base", step_time_ns=())
    with pytest.raises(ValidationError, match="blocks"):
        Pair(case_id="x", seed=0, blocks=(Block(side="base", step_time_ns=(1,)),))
