"""The guard's record: what is written comes back, what is not one is refused in a line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.errors import RecordError
from ntp.measure.guard_records import SCHEMA_VERSION, Block, Cell, Counts, GuardRecord, Pair, Side

SIDE = Side(ref="main", commit="0123456789abcdef" * 2)
RECORD = GuardRecord(
    started="2025-01-02T03:04:05+00:00",
    wall_time_s=1.5,
    command=("ntp", "guard"),
    base=SIDE,
    head=SIDE,
    threshold=0.05,
    budget_s=60,
    seed=1,
    cells=(Cell(case_id="simple-b2-s4-t1"),),
)

TIMES = st.floats(0, 1e9)
NUMBERS = st.integers(0, 2**60)
TEXT = st.text(max_size=20)


def tuples(items, **sizes):
    return st.lists(items, max_size=3, **sizes).map(tuple)


BLOCKS = st.builds(Block, side=st.sampled_from(["base", "head"]), step_time_ns=tuples(NUMBERS, min_size=1))
PAIRS = st.builds(Pair, case_id=TEXT, seed=st.integers(), blocks=tuples(BLOCKS, min_size=2))
COUNTS = st.builds(
    Counts,
    parameters=NUMBERS,
    flops=NUMBERS,
    operators=tuples(st.tuples(TEXT, TIMES)),
    allocated_bytes=TIMES,
    peak_tensor_bytes=NUMBERS,
)
CELLS = st.builds(
    Cell,
    case_id=TEXT,
    base=st.none() | COUNTS,
    head=st.none() | COUNTS,
    pairs=tuples(PAIRS),
    base_failure=TEXT,
    failure=TEXT,
    wall_time_s=TIMES,
)
SIDES = st.builds(Side, ref=TEXT, commit=TEXT, dirty=st.booleans())
RECORDS = st.builds(
    GuardRecord,
    schema_version=st.just(SCHEMA_VERSION),
    started=TEXT,
    wall_time_s=TIMES,
    command=tuples(TEXT),
    base=SIDES,
    head=SIDES,
    threshold=st.floats(0, 1, exclude_min=True, exclude_max=True),
    budget_s=st.floats(0, 1e9, exclude_min=True),
    seed=st.integers(),
    allowed=tuples(TEXT),
    cells=tuples(CELLS, min_size=1),
)


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


@given(record=RECORDS)
def test_what_is_written_comes_back(file, record):
    file.write_text(record.model_dump_json(), encoding="utf-8")
    assert GuardRecord.load(file) == record


@given(record=RECORDS, share=st.floats(0, 1, exclude_max=True))
def test_half_a_file_is_refused(file, record, share):
    whole = record.model_dump_json().encode()
    file.write_bytes(whole[: int(share * len(whole))])
    assert refusal(file).endswith("give what --json wrote")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe\x00", "is no text"),
        (b"[]", "is no guard's record: the file: "),
        (b"7", "is no guard's record: the file: "),
        (b"{}", "is no guard's record: schema_version: Field required"),
        (b'{"machine_info": {}, "benchmarks": [], "ntp": {"schema_version": 1}}', "schema_version: Field required"),
        (b'{"schema_version": 1, "benchmarks": []}', "is no guard's record: started: Field required"),
        (b"[" * 100_000, "Invalid JSON"),
    ],
)
def test_a_foreign_file_is_refused(file, content, why):
    file.write_bytes(content)
    assert why in refusal(file)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("threshold",), 0),
        (("threshold",), 1),
        (("budget_s",), 0),
        (("cells",), []),
        (("cells", 0, "pairs"), [{"case_id": "x", "seed": 1, "blocks": []}]),
        (("cells", 0, "surprise"), 1),
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
    assert refusal(file).startswith(f"is no guard's record: {'.'.join(map(str, where))}")


@pytest.mark.parametrize("other", [{}, {"a_field_of_the_future": 1}])
def test_another_version_is_named_whatever_else_it_has(file, other):
    file.write_text(json.dumps({**RECORD.model_dump(mode="json"), **other, "schema_version": 2}))
    assert refusal(file) == "has schema version 2, this ntp reads 1: upgrade ntp"


def test_a_file_that_cannot_be_read(tmp_path):
    assert refusal(tmp_path / "missing.json") == "cannot be read (No such file or directory): give what --json wrote"
    assert refusal(tmp_path).startswith("cannot be read (Is a directory)")


@given(PAIRS)
def test_a_pairs_samples_are_those_of_a_side_in_order(pair):
    base, head = list(pair.samples("base")), list(pair.samples("head"))
    for block in pair.blocks:
        mine = base if block.side == "base" else head
        assert [mine.pop(0) for _ in block.step_time_ns] == list(block.step_time_ns)
    assert (base, head) == ([], [])


def test_a_block_has_a_sample_and_a_pair_two_blocks():
    with pytest.raises(ValidationError, match="step_time_ns"):
        Block(side="base", step_time_ns=())
    with pytest.raises(ValidationError, match="blocks"):
        Pair(case_id="x", seed=0, blocks=(Block(side="base", step_time_ns=(1,)),))
