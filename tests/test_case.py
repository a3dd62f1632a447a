import json
import os
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.case import Case, Frozen, Runtime, StepConfig, Workload, named_step, option_errors, step_levers
from ntp.errors import OptionError

# Bytes that are not UTF-8 are what Python makes of them in a path.
PATHS = st.binary(min_size=1).map(lambda path: os.fsdecode(path.replace(b"\0", b"0")))
MODELS = st.just("simple") | st.one_of(
    st.from_regex(r"[^\s:\0][^:\0]*:[A-Za-z_]\w*", fullmatch=True),
    PATHS.map(lambda path: f"m{path.replace(':', '_')}.py:make"),
)
EXPONENTS = st.decimals(0, 100, allow_nan=False, places=3).map(lambda value: f"{value:f}")
DATA = st.one_of(st.sampled_from(["uniform", "zipf"]), EXPONENTS.map("zipf:{}".format), PATHS.map("file:{}".format))


def any_of(model: type[Frozen]) -> st.SearchStrategy[Any]:
    """Values of every field, those that are added later included."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, info in model.model_fields.items():
        if info.annotation is int:
            fields[name] = st.integers(1, 2**63 - 1)
        elif name in {"model", "data"}:
            fields[name] = {"model": MODELS, "data": DATA}[name]
        else:
            fields[name] = st.sampled_from(get_args(info.annotation))
    return st.fixed_dictionaries(fields).map(lambda values: model.model_construct(**values))


def combinable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Those that may go together."""

    def accepted(value: Frozen) -> bool:
        try:
            return type(value).model_validate(value.model_dump()) == value
        except ValidationError:
            return False

    return values.filter(accepted)


CASES = st.builds(
    Case,
    workload=any_of(Workload).map(lambda workload: Workload.model_validate(workload.model_dump())),
    step=combinable(any_of(StepConfig)),
    runtime=combinable(any_of(Runtime)),
)


@given(CASES)
@example(Case(workload=Workload(model="a-b/c d-t2.py:make", data="file:-fused-data-v5\n/é%2D.txt")))
def test_an_id_names_its_case_and_no_other(case: Case):
    assert Case.parse(case.id) == case
    assert hash(Case.parse(case.id)) == hash(case)


@given(CASES, CASES)
def test_different_cases_have_different_ids(one: Case, other: Case):
    assert (one.id == other.id) == (one == other)


@given(CASES)
def test_a_case_comes_back_from_json_whatever_bytes_its_paths_have(case: Case):
    text = case.model_dump_json()
    assert Case.model_validate_json(text) == case
    assert Case.model_validate_json(text.encode()) == case
    assert Case.model_validate(json.loads(json.dumps(case.model_dump(mode="json")))) == case


@pytest.mark.parametrize("text", ["", '{"workload": ', "[" * 100_000, '{"workload": 1}', "[]"])
def test_what_is_no_json_of_a_case_is_a_validation_error(text: str):
    with pytest.raises(ValidationError):
        Case.model_validate_json(text)


@given(CASES)
def test_an_id_is_one_word(case: Case):
    assert not any(character.isspace() for character in case.id)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (Case(), "simple-b32-s128-t1"),
        (Case(runtime=Runtime(threads=2)), "simple-b32-s128-t2"),
        (
            Case(workload=Workload(batch_size=8, seq_len=64, data="zipf:1.10"), step=StepConfig(optimizer="fused")),
            "simple-b8-s64-t1-zipf:1.1-fused",
        ),
        (Case(workload=Workload(vocab_size=50257, seed=7)), "simple-b32-s128-t1-v50257-seed7"),
        (Case(workload=Workload(model="my-models/gpt.py:tiny")), "my%2Dmodels/gpt.py:tiny-b32-s128-t1"),
        (Case(workload=Workload(part="forward")), "simple-b32-s128-t1-forward"),
        (Case(runtime=Runtime(allocator="glibc", affinity="free")), "simple-b32-s128-t1-glibc-free"),
        (
            Case(step=StepConfig(precision="bf16-matmul", compile="model")),
            "simple-b32-s128-t1-bf16-matmul-compile:model",
        ),
        (Case(runtime=Runtime(interop_threads=2, denormals="flushed")), "simple-b32-s128-t1-interop2-flushed"),
    ],
)
def test_ids_are_stable_and_name_only_what_differs(case: Case, expected: str):
    assert case.id == expected


@pytest.mark.parametrize(
    "text",
    ["", "simple", "simple-b32-s128", "simple-b0-s128-t1", "simple-b32-s128-t1-nonsense", "simple-b32-s128-t1-v-fused",
     "b-ad-b32-s128-t1", "nocolon-b32-s128-t1"],
)  # fmt: skip
def test_what_is_no_id_is_refused(text: str):
    with pytest.raises(OptionError):
        Case.parse(text)


@pytest.mark.parametrize(
    "options",
    [
        {"vocab_size": 0}, {"batch_size": -1}, {"seq_len": 0}, {"seed": -1}, {"seed": 2**63}, {"part": "all"},
        {"model": "complex"}, {"model": ":factory"}, {"model": "module:not a name"}, {"model": "module:"},
        {"data": "normal"}, {"data": "file:"}, {"data": "file:a\0b"}, {"model": "a\0.py:make"},
        {"model": "\ud800:make"}, {"data": "zipf:-1"}, {"data": "zipf:x"}, {"dropout": 0.1},
    ],
)  # fmt: skip
def test_a_workload_that_makes_no_sense_is_refused_in_one_line(options: dict[str, Any]):
    with pytest.raises(OptionError) as caught, option_errors():
        Workload(**options)
    (name, value), message = next(iter(options.items())), str(caught.value)
    assert message.startswith(name.replace("_", "-"))
    assert repr(value) in message
    assert "\n" not in message


def test_the_ways_to_write_one_exponent_are_one_workload():
    assert Workload(data="zipf") == Workload(data="zipf:1") == Workload(data="zipf:1.00")


def test_a_case_cannot_be_changed():
    with pytest.raises(ValidationError):
        Case().workload.seed = 1  # type: ignore[misc]


def test_tokens_counts_the_predicted_positions():
    assert Workload(batch_size=8, seq_len=64).tokens == 512


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "٣"])
def test_numbers_that_python_or_torch_could_not_hold_are_refused(number: str) -> None:
    for text in (f"simple-b{number}-s1-t1", f"simple-b1-s1-t1-seed{number}"):
        with pytest.raises(OptionError, match="is not a case id"):
            Case.parse(text)


@given(CASES)
def test_a_case_of_its_own_fields_is_itself(case: Case):
    fields = case.workload.model_dump() | case.step.model_dump() | case.runtime.model_dump()
    assert Case.of(fields) == case


def test_no_two_groups_have_a_field_of_the_same_name():
    names = [name for group in (Workload, StepConfig, Runtime) for name in group.model_fields]
    assert len(set(names)) == len(names)


def test_what_is_not_given_has_its_default_and_what_is_no_field_is_passed_over():
    assert Case.of({}) == Case()
    options = {"threads": 2, "optimizer": "fused", "batch_size": 8, "steps": 100, "out": "reports", "workload": None}
    assert Case.of(options) == Case.parse("simple-b8-s128-t2-fused")


@pytest.mark.parametrize(
    "options",
    [{"threads": 0}, {"threads": None}, {"optimizer": "sgd"}, {"batch_size": "many"}, {"model": "a\nb"}, {"data": 7}],
)
def test_a_refused_field_is_named_in_one_line(options: dict[str, Any]):
    with pytest.raises(OptionError) as caught:
        Case.of({**options, "seq_len": 8})
    (name, value), message = next(iter(options.items())), str(caught.value)
    assert message.startswith(f"{name.replace('_', '-')}: ")
    assert message.endswith(f"(got {value!r})")
    assert "\n" not in message


@given(combinable(any_of(StepConfig)))
def test_every_step_has_a_name_made_of_its_levers(step: StepConfig):
    pulled = Case(step=step).id.removeprefix("simple-b32-s128-t1").removeprefix("-")
    levers = [lever for lever in step_levers() if f"-{lever}-" in f"-{pulled}-"]
    if "bf16-matmul" in levers:
        levers = [lever for lever in levers if lever != "bf16"]
    assert named_step("+".join(levers) or "eager") == step


@pytest.mark.parametrize("name", ["", "magic", "eager+onednn", "onednn+", "thp", "onednn+glibc", "v50", "uniform"])
def test_what_is_no_step_is_refused(name: str):
    with pytest.raises(
        OptionError, match=r"no step is named .* levers joined by '\+': bf16, bf16-matmul, onednn, chunked, "
    ):
        named_step(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onednn+bf16", "onednn is for fp32 products: leave it out, precision bf16 uses oneDNN anyway"),
        ("bf16-matmul+onednn", "onednn is for fp32 products"),
        ("chunked+bf16", "torch's chunked loss does not support autocast"),
        ("chunked+compile:model", "torch's chunked loss cannot be compiled"),
    ],
)
def test_levers_that_do_not_go_together_are_refused_with_the_reason(name: str, message: str):
    with pytest.raises(OptionError, match=message) as caught:
        named_step(name)
    assert "\n" not in str(caught.value)
    assert "got" not in str(caught.value)


def test_a_step_has_one_value_of_each_lever():
    with pytest.raises(OptionError, match="has two values of loss: leave out one"):
        named_step("chunked+deduplicated")


def test_huge_pages_are_glibcs():
    with pytest.raises(OptionError, match="runtime: huge pages are requested through glibc: leave them out, mimalloc"):
        Case.of({"huge_pages": "thp", "allocator": "mimalloc"})


def test_every_option_has_a_help():
    for group in (Workload, StepConfig, Runtime):
        for name, info in group.model_fields.items():
            assert info.description, name
