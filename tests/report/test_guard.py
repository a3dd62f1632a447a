"""A guard's verdict as text: a golden one of each kind, and what is told besides."""

import math
import re
from pathlib import Path

import pytest

from ntp.judge.guard import plan_of, verdict_on
from ntp.records.endings import Ending, SettingChange
from ntp.records.environment import Software
from ntp.records.guard import GuardedCase, GuardRecord, Instructions
from ntp.records.pairs import Side
from ntp.report.document import terminal
from ntp.report.guard import report
from ntp.report.terminal import WIDTH

GOLDEN = Path(__file__).parent / "golden" / "guard"
ONE, TWO, LARGE, LARGE_TWO = IDS = (
    "simple-b8-s64-t1",
    "simple-b8-s64-t2",
    "simple-b32-s128-t1",
    "simple-b32-s128-t2",
)
MIB = 2**20
COMMIT = "00112233445566778899aabbccddeeff00112233"


@pytest.fixture(scope="module")
def more():
    """``more(case, copy_=4, peak_tensor_bytes=..., ...)``: the case, whose head has other counts."""

    def made(case, **counts):
        sizes = {name: counts.pop(name) for name in ("parameters", "peak_tensor_bytes", "flops") if name in counts}
        calls = dict(case.base.operators) | {f"aten::{name}": calls for name, calls in counts.items()}
        sizes["operators"] = tuple(sorted((name, calls) for name, calls in calls.items() if calls))
        return case.model_copy(update={"head": case.base.model_copy(update=sizes)})

    return made


@pytest.fixture(scope="module")
def examples(make_guarded, make_guard_record, more):
    """A record of each kind."""
    killed = (
        "head: simple-b32-s128-t2: was killed (SIGKILL) while running steps: by hand, or by the kernel for want of "
        "memory (then make batch size, sequence length or model smaller)"
    )
    return {
        "pass": make_guard_record(
            make_guarded(ONE, 0.001),
            make_guarded(TWO, -0.002, pairs=6, scale=0.5),
            more(make_guarded(LARGE, 0.0), copy_=0),
            more(make_guarded(LARGE_TWO, 0.002), zero_=1),
            allowed=("aten::zero_",),
        ),
        "regression": make_guard_record(
            make_guarded(ONE, 0.031),
            make_guarded(TWO, 0.001, tail=0.6),
            more(make_guarded(LARGE, 0.0), copy_=4, peak_tensor_bytes=112 * MIB),
            make_guarded(LARGE_TWO, 0.009, pairs=12),
            head=Side(ref=COMMIT[:9], commit=COMMIT),
        ),
        "regression-of-counts": make_guard_record(
            more(make_guarded(ONE, pairs=5, scale=0.1), parameters=1_543_400, clone=1, copy_=4, mul=2, sum=1, mm=5),
        ),
        "improvement": make_guard_record(make_guarded(ONE, -0.05), make_guarded(TWO, 0.0), threshold=0.02),
        "inconclusive": make_guard_record(
            make_guarded(ONE, 0.0),
            make_guarded(TWO, 0.006, scale=4),
            make_guarded(LARGE, math.log1p(0.01)),
            max_pairs=60,
        ),
        "too-early": make_guard_record(make_guarded(ONE, 0.0, pairs=2), make_guarded(TWO, 0.0, pairs=1)),
        "not-comparable": make_guard_record(
            make_guarded(ONE),
            GuardedCase(
                case_id=TWO,
                head=make_guarded(TWO).head,
                base_failure="base: simple-b8-s64-t2: there is no model 'simple': name another",
                wall_time_s=4.2,
            ),
        ),
        "waiting": make_guard_record(make_guarded(TWO, waiting=0.05), make_guarded(ONE)),
        "restless": make_guard_record(make_guarded(TWO, restless=20), make_guarded(ONE), max_pairs=60),
        "instructions": make_guard_record(
            make_guarded(ONE),
            instructions=(Instructions(case_id="simple-b2-s16-t1", base=81_234_567, head=82_345_678),),
        ),
        "failed": make_guard_record(make_guarded(ONE), make_guarded(LARGE_TWO, pairs=3, failure=killed)),
    }


NAMES = (
    "pass",
    "regression",
    "regression-of-counts",
    "improvement",
    "inconclusive",
    "too-early",
    "not-comparable",
    "waiting",
    "restless",
    "instructions",
    "failed",
)


def text_of(record):
    return terminal(report(record, verdict_on(record)))


def shown(record):
    """What the terminal shows, on one line."""
    return " ".join(text_of(record).split())


@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_the_one_that_was_looked_at(examples, name):
    # Where a change is meant: look at the new text as a reader would, then write it to the file.
    assert text_of(examples[name]) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    again = GuardRecord.model_validate_json(examples[name].model_dump_json())
    assert text_of(again) == text_of(examples[name])


def test_there_is_an_example_of_each_golden_text_and_the_other_way_round(examples):
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.txt" for name in NAMES}
    assert tuple(examples) == NAMES


def test_a_regression_beside_a_failure_is_a_regression(make_guarded, make_guard_record):
    text = shown(make_guard_record(make_guarded(ONE, 0.03), GuardedCase(case_id=TWO, failure="head: died of SIGSEGV")))
    assert text.startswith("Regression: ")
    assert f"- {TWO}: head: died of SIGSEGV" in text


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (("a.py",), "the 1 Python file that differs was not loaded by either side (a.py): "),
        (("a.py", "b.py"), "none of the 2 Python files that differ was loaded by either side (a.py, b.py): "),
        (tuple("abcd"), "none of the 4 Python files that differ was loaded by either side (a, b, c, ...): "),
    ],
)
def test_a_change_that_no_case_runs_is_told_first_beside_the_verdict(make_guarded, make_guard_record, changed, says):
    record = make_guard_record(make_guarded(ONE), changed=changed)
    sides = {side: getattr(record, side).model_copy(update={"loaded": ("model.py",)}) for side in ("base", "head")}
    text = shown(record.model_copy(update=sides))
    assert text.startswith("Pass: ")
    assert f"- {says}the verdict says nothing about" in text


def test_what_casts_doubt_on_a_side_is_told_with_its_name(make_guarded, make_guard_record):
    case = make_guarded(ONE)
    change = SettingChange(name="default dtype", before="torch.float32", after="torch.float64")
    endings = (("base", Ending(loss=6.9, settings=(change,))), ("head", Ending(loss=math.nan)))
    pairs = tuple(pair.model_copy(update={"endings": endings}) for pair in case.pairs)
    record = make_guard_record(case.model_copy(update={"pairs": pairs}))
    text = shown(record)
    assert f"- {ONE}: head: loss-not-finite: the loss is nan; " in text
    assert f"- {ONE}: base: changed-settings: the model's code has changed default dtype from torch.float32 to" in text
    assert (text.count("loss-not-finite"), text.count("changed-settings")) == (1, 1)


def test_only_a_cpu_time_that_is_decided_is_said_not_to_have_grown(make_guarded, make_guard_record):
    note = "its CPU time did not"
    assert note in shown(make_guard_record(make_guarded(TWO, waiting=0.05)))
    assert note not in shown(make_guard_record(make_guarded(TWO, waiting=0.05, log_ratio=0.009)))
    assert note not in shown(make_guard_record(make_guarded(TWO, waiting=0.05, log_ratio=0.05)))


def test_the_wall_threshold_that_is_named_decides_what_the_one_of_the_guard_leaves_open(
    make_guarded, make_guard_record
):
    cases = make_guarded(TWO, restless=20), make_guarded(ONE, restless=3)
    record = make_guard_record(*cases)
    (named,) = re.findall(r"--wall-threshold (\d+)%", shown(record))
    assert verdict_on(record).verdict == "inconclusive"
    plan = plan_of([TWO, ONE], 0.01, 60, int(named) / 100).model_copy(update={"max_pairs": record.plan.max_pairs})
    assert verdict_on(record.model_copy(update={"plan": plan})).verdict == "pass"


@pytest.mark.parametrize(("restless", "says"), [(0, "a larger --threshold"), (500, "a larger --wall-threshold")])
def test_where_no_number_would_do_the_threshold_to_raise_is_still_named(
    make_guarded, make_guard_record, restless, says
):
    open_ = make_guarded(TWO, restless=restless) if restless else make_guarded(TWO, 0.009, scale=4)
    assert says in shown(make_guard_record(open_))


def test_one_pair_and_one_case_are_singular(make_guarded, make_guard_record):
    assert "(1 pair of processes in " in shown(make_guard_record(make_guarded(ONE, pairs=1)))
    assert "(5 pairs of processes in " in shown(make_guard_record(make_guarded(ONE, pairs=5)))
    assert re.search(r"\bof 1 case\b", shown(make_guard_record(make_guarded(ONE, -0.05))))
    assert re.search(r"\bof 2 cases\b", shown(make_guard_record(make_guarded(ONE, -0.05), make_guarded(TWO))))


def test_no_change_is_not_a_change_with_a_sign(make_guarded, make_guard_record):
    for log_ratio in (-1e-6, 0.0, 1e-6):
        text = shown(make_guard_record(make_guarded(ONE, log_ratio)))
        assert "+0.00%" in text
        assert "-0.00%" not in text


def test_without_a_pair_nothing_is_known_but_what_to_do(make_guarded, make_guard_record):
    text = shown(make_guard_record(make_guarded(ONE, pairs=0)))
    assert text.startswith("Inconclusive: ")
    assert "raise --budget" in text
    row = next(line for line in text_of(make_guard_record(make_guarded(ONE, pairs=0))).splitlines() if ONE in line)
    assert row.split()[2:5] == ["-", "-", "-"]


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (Side(ref="main", commit=COMMIT), "main (001122334455)"),
        (Side(ref=COMMIT[:7], commit=COMMIT), "0011223"),
        (Side(ref=COMMIT, commit=COMMIT), COMMIT),
        (Side(ref="worktree", commit=COMMIT), "the work tree (001122334455)"),
        (
            Side(ref="worktree", commit=COMMIT, dirty=True),
            "the work tree (001122334455, with uncommitted changes)",
        ),
        (Side(ref="HEAD~2", commit=COMMIT), "HEAD~2 (001122334455)"),
    ],
)
def test_a_side_is_named_as_it_was_asked_for_and_by_its_commit(make_guarded, make_guard_record, side, name):
    assert shown(make_guard_record(make_guarded(ONE), head=side)).startswith(f"Pass: {name} ")
    assert f" {name}" in shown(make_guard_record(make_guarded(ONE), base=side))


def test_software_that_differs_is_told(make_guarded, make_guard_record):
    sides = {name: Side(ref=name, commit="0" * 40, software=Software(torch=name)) for name in ("base", "head")}
    text = shown(make_guard_record(make_guarded(ONE), **sides))
    assert text.startswith("Not comparable: ")
    assert f"- {ONE}: the sides run on different software: " in text


def test_a_plan_with_a_single_metric_has_no_others(make_guarded, make_guard_record):
    record = make_guard_record(make_guarded(ONE))
    plan = record.plan.model_copy(update={"metrics": record.plan.metrics[:1], "own_metrics": {}})
    lines = text_of(record.model_copy(update={"plan": plan})).splitlines()
    (row,) = (line for line in lines if line.startswith(ONE))
    assert "  -  " in row


def test_a_ratio_beyond_all_bounds_fits_its_column(make_guarded, make_guard_record):
    text = text_of(make_guard_record(make_guarded(ONE, 5.0, pairs=3, scale=100)))
    assert ">+900%" in text
    assert max(map(len, text.splitlines())) <= WIDTH
