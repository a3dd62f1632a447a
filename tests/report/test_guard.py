"""A guard's verdict as text: golden ones of each kind, and what becomes of long ids and of text that others wrote."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ntp.case import Case, Workload
from ntp.judge.guard import verdict_on
from ntp.records.endings import Ending, SettingChange
from ntp.records.environment import Software
from ntp.records.guard import GuardedCase, GuardRecord, Side
from ntp.report.document import markdown, terminal
from ntp.report.guard import COLUMNS, report
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
NASTY = "a|b `c` *d* <e> [f](g) _h_ {i} %s\n# j \x1b[31m"


@pytest.fixture(scope="module")
def more():
    """``more(cell, copy_=4, peak_tensor_bytes=..., ...)``: the cell, whose head has other counts."""

    def made(cell, **counts):
        sizes = {name: counts.pop(name) for name in ("parameters", "peak_tensor_bytes", "flops") if name in counts}
        calls = dict(cell.base.operators) | {f"aten::{name}": calls for name, calls in counts.items()}
        sizes["operators"] = tuple(sorted((name, calls) for name, calls in calls.items() if calls))
        return cell.model_copy(update={"head": cell.base.model_copy(update=sizes)})

    return made


@pytest.fixture(scope="module")
def examples(make_cell, make_guard_record, more):
    """A record of each kind."""
    killed = (
        "head: simple-b32-s128-t2: was killed (SIGKILL) while running steps: by hand, or by the kernel for want of "
        "memory (then make batch size, sequence length or model smaller)"
    )
    return {
        "pass": make_guard_record(
            make_cell(ONE, 0.001),
            make_cell(TWO, -0.002, pairs=6, scale=0.5),
            more(make_cell(LARGE, 0.0), copy_=0),
            more(make_cell(LARGE_TWO, 0.002), zero_=1),
            allowed=("aten::zero_",),
        ),
        "regression": make_guard_record(
            make_cell(ONE, 0.031),
            make_cell(TWO, 0.001, tail=0.6),
            more(make_cell(LARGE, 0.0), copy_=4, peak_tensor_bytes=112 * MIB),
            make_cell(LARGE_TWO, 0.009, pairs=12),
            head=Side(ref=COMMIT[:9], commit=COMMIT),
        ),
        "regression-of-counts": make_guard_record(
            more(make_cell(ONE, pairs=5, scale=0.1), parameters=1_543_400, clone=1, copy_=4, mul=2, sum=1, mm=5),
        ),
        "improvement": make_guard_record(make_cell(ONE, -0.05), make_cell(TWO, 0.0), threshold=0.02),
        "inconclusive": make_guard_record(
            make_cell(ONE, 0.0), make_cell(TWO, 0.006, scale=4), make_cell(LARGE, math.log1p(0.01)), max_pairs=60
        ),
        "too-early": make_guard_record(make_cell(ONE, 0.0, pairs=2), make_cell(TWO, 0.0, pairs=1)),
        "not-comparable": make_guard_record(
            make_cell(ONE),
            GuardedCase(
                case_id=TWO,
                head=make_cell(TWO).head,
                base_failure="base: simple-b8-s64-t2: there is no model 'simple': name another",
                wall_time_s=4.2,
            ),
        ),
        "failed": make_guard_record(make_cell(ONE), make_cell(LARGE_TWO, pairs=3, failure=killed)),
    }


NAMES = (
    "pass",
    "regression",
    "regression-of-counts",
    "improvement",
    "inconclusive",
    "too-early",
    "not-comparable",
    "failed",
)
FORMATS = {"txt": terminal, "md": markdown}


def text_of(record, ending):
    return FORMATS[ending](report(record, verdict_on(record)))


def shown(record):
    """What the terminal shows, on one line."""
    return " ".join(text_of(record, "txt").split())


def parsed(text):
    return MarkdownIt("commonmark").enable("table").parse(text)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_the_one_that_was_looked_at(examples, name, ending):
    # Where a change is meant: look at the new text as a reader would, then write it to the file.
    assert text_of(examples[name], ending) == (GOLDEN / f"{name}.{ending}").read_text(encoding="utf-8")


def test_there_is_an_example_of_each_golden_text_and_the_other_way_round(examples):
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}.{ending}" for name in NAMES for ending in FORMATS}
    assert tuple(examples) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_same_record_gives_the_same_text_also_when_it_was_written_and_read(examples, name):
    again = GuardRecord.model_validate_json(examples[name].model_dump_json())
    assert [text_of(again, ending) for ending in FORMATS] == [text_of(examples[name], ending) for ending in FORMATS]


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("pass", "Pass"),
        ("regression", "Regression"),
        ("regression-of-counts", "Regression"),
        ("improvement", "Improvement"),
        ("inconclusive", "Inconclusive"),
        ("too-early", "Inconclusive"),
        ("not-comparable", "Not comparable"),
        ("failed", "Failed"),
    ],
)
def test_the_verdict_is_the_first_word(examples, name, verdict):
    assert text_of(examples[name], "txt").startswith(f"{verdict}: ")
    assert text_of(examples[name], "md").startswith(f"**{verdict}: ")
    (words,) = report(examples[name], verdict_on(examples[name])).answer
    assert words.endswith(").")
    assert words in shown(examples[name])


@pytest.mark.parametrize("name", NAMES)
def test_every_case_has_its_row_and_the_lines_fit(examples, name):
    lines = text_of(examples[name], "txt").splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line for line in lines if line.startswith("case ")] != []
    for cell in examples[name].cases:
        (row,) = (line for line in lines if line.startswith(f"{cell.case_id} "))
        assert f" {len(cell.pairs)} " in row


def test_what_regressed_is_told_with_all_that_is_known_of_it(examples):
    text = shown(examples["regression"])
    assert f"{COMMIT[:9]} is up to " in text
    assert f"{ONE}: the typical step is slower by +" in text
    assert f"{TWO}: the mean step is slower by +" in text
    assert f"{LARGE}: does more: +16 MiB peak tensor memory, +2 aten::copy_ a step" in text
    assert f"{LARGE_TWO}: the typical step is slower by +" in text


def test_more_changes_than_fit_are_counted(examples):
    text = shown(examples["regression-of-counts"])
    assert "+256 parameters, +1 aten::clone a step and 3 more" in text
    assert "does more: +256 parameters, +1 aten::clone a step, +2 aten::copy_ a step, " in text
    assert "+2 aten::mul a step and 1 more" in text
    assert "does less: -1 aten::mm a step" in text


def test_what_is_allowed_or_less_is_told_beside_a_pass(examples):
    text = shown(examples["pass"])
    assert f"- {LARGE}: does less: -2 aten::copy_ a step" in text
    assert f"- {LARGE_TWO}: does more, as allowed: +1 aten::zero_ a step" in text


def test_a_case_that_failed_names_itself_and_its_side_once(examples):
    text = shown(examples["failed"])
    assert "- simple-b32-s128-t2: head: was killed (SIGKILL) while running steps" in text
    text = shown(examples["not-comparable"])
    assert "- simple-b8-s64-t2: base: there is no model 'simple': name another" in text


def test_a_regression_beside_a_failure_is_a_regression(make_cell, make_guard_record):
    text = shown(make_guard_record(make_cell(ONE, 0.03), GuardedCase(case_id=TWO, failure="head: died of SIGSEGV")))
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
def test_a_change_that_no_case_runs_is_told_first_beside_the_verdict(make_cell, make_guard_record, changed, says):
    record = make_guard_record(make_cell(ONE), changed=changed)
    sides = {side: getattr(record, side).model_copy(update={"loaded": ("model.py",)}) for side in ("base", "head")}
    text = shown(record.model_copy(update=sides))
    assert text.startswith("Pass: ")
    assert f"- {says}the verdict says nothing about" in text


def test_what_casts_doubt_on_a_side_is_told_with_its_name(make_cell, make_guard_record):
    cell = make_cell(ONE)
    change = SettingChange(name="default dtype", before="torch.float32", after="torch.float64")
    endings = (("base", Ending(loss=6.9, settings=(change,))), ("head", Ending(loss=math.nan)))
    pairs = tuple(pair.model_copy(update={"endings": endings}) for pair in cell.pairs)
    record = make_guard_record(cell.model_copy(update={"pairs": pairs}))
    text = shown(record)
    assert f"- {ONE}: head: loss-not-finite: the loss is nan; " in text
    assert f"- {ONE}: base: changed-settings: the model's code has changed default dtype from torch.float32 to" in text
    assert (text.count("loss-not-finite"), text.count("changed-settings")) == (1, 1)
    read = GuardRecord.model_validate_json(record.model_dump_json())
    assert text_of(read, "txt") == text_of(record, "txt")


def test_one_pair_and_one_case_are_singular(make_cell, make_guard_record):
    assert "(1 pair of processes in " in shown(make_guard_record(make_cell(ONE, pairs=1)))
    assert "(5 pairs of processes in " in shown(make_guard_record(make_cell(ONE, pairs=5)))
    assert re.search(r"\bof 1 case\b", shown(make_guard_record(make_cell(ONE, -0.05))))
    assert re.search(r"\bof 2 cases\b", shown(make_guard_record(make_cell(ONE, -0.05), make_cell(TWO))))


def test_no_change_is_not_a_change_with_a_sign(make_cell, make_guard_record):
    for log_ratio in (-1e-6, 0.0, 1e-6):
        text = shown(make_guard_record(make_cell(ONE, log_ratio)))
        assert "+0.00%" in text
        assert "-0.00%" not in text


def test_without_a_pair_nothing_is_known_but_what_to_do(make_cell, make_guard_record):
    text = shown(make_guard_record(make_cell(ONE, pairs=0)))
    assert text.startswith("Inconclusive: ")
    assert "raise --budget" in text
    row = next(line for line in text_of(make_guard_record(make_cell(ONE, pairs=0)), "txt").splitlines() if ONE in line)
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
def test_a_side_is_named_as_it_was_asked_for_and_by_its_commit(make_cell, make_guard_record, side, name):
    assert shown(make_guard_record(make_cell(ONE), head=side)).startswith(f"Pass: {name} ")
    assert f" {name}" in shown(make_guard_record(make_cell(ONE), base=side))


def test_software_that_differs_is_told(make_cell, make_guard_record):
    sides = {name: Side(ref=name, commit="0" * 40, software=Software(torch=name)) for name in ("base", "head")}
    text = shown(make_guard_record(make_cell(ONE), **sides))
    assert text.startswith("Not comparable: ")
    assert f"- {ONE}: the sides run on different software: " in text


def test_a_plan_with_a_single_statistic_has_no_tail(make_cell, make_guard_record):
    record = make_guard_record(make_cell(ONE))
    plan = record.plan.model_copy(update={"metrics": record.plan.metrics[:1]})
    lines = text_of(record.model_copy(update={"plan": plan}), "txt").splitlines()
    (row,) = (line for line in lines if line.startswith(ONE))
    assert "  -  " in row


def test_a_ratio_beyond_all_bounds_fits_its_column(make_cell, make_guard_record):
    text = text_of(make_guard_record(make_cell(ONE, 5.0, pairs=3, scale=100)), "txt")
    assert ">+900%" in text
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_others_wrote_stays_what_it_is(make_cell, make_guard_record, more):
    cells = (
        more(make_cell(ONE), **{NASTY: 1}),
        GuardedCase(case_id=TWO, failure=NASTY),
        GuardedCase(case_id=LARGE, base_failure=NASTY),
    )
    sides = {name: Side(ref=NASTY, commit=NASTY) for name in ("base", "head")}
    record = make_guard_record(*cells, **sides)
    plain = "a|b `c` *d* <e> [f](g) _h_ {i} %s # j \\x1b[31m"
    text = shown(record)
    assert text.count(plain) >= 4
    assert "\x1b" not in text_of(record, "txt") + text_of(record, "md")
    tokens = parsed(text_of(record, "md"))
    inline = [child for token in tokens for child in token.children or ()]
    assert not {"html_block", "heading_open", "fence"} & {token.type for token in tokens}
    assert not {"html_inline", "link_open", "em_open", "image"} & {child.type for child in inline}
    assert sum(child.type == "strong_open" for child in inline) == 1
    assert "".join(child.content for child in inline).count(plain) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_the_table_in_markdown_has_a_cell_for_each_header(examples, name):
    tokens = parsed(text_of(examples[name], "md"))
    kinds = [token.type for token in tokens]
    assert kinds.count("th_open") == len(COLUMNS)
    assert kinds.count("td_open") == len(COLUMNS) * len(examples[name].cases)
    ids = [child.content for token in tokens for child in token.children or () if child.type == "code_inline"]
    assert ids == [cell.case_id for cell in examples[name].cases]


any_character = st.characters(exclude_categories=())
any_text = st.text(any_character, max_size=120) | st.text("|`\\*_<>#[]~&$+- \n{}%\x1b", max_size=60)
models = st.from_regex(r"[a-z/_]{1,150}:[a-z]{1,20}", fullmatch=True) | st.just("simple")


@given(models, any_text, any_text, any_text, st.floats(-5, 5), st.floats(-2, 2), st.integers(0, 12), st.booleans())
def test_the_terminal_is_wide_enough_and_markdown_has_its_cells(
    make_cell, make_guard_record, more, model, ref, failure, name, log_ratio, tail, pairs, failed
):
    ids = [Case(workload=Workload(model=model, batch_size=batch_size)).id for batch_size in (2, 3)]
    cells = (
        more(make_cell(ids[0], log_ratio, pairs=pairs, tail=tail), **{name: 1}),
        GuardedCase(case_id=ids[1], failure=failure * failed, base_failure=failure * (not failed), wall_time_s=1e9),
    )
    record = make_guard_record(*cells, base=Side(ref=ref, commit=ref), head=Side(ref=failure, commit=name))
    text = text_of(record, "txt")
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(character.isprintable() or character == "\n" for character in text)
    kinds = [token.type for token in parsed(text_of(record, "md"))]
    assert (kinds.count("table_open"), kinds.count("td_open")) == (1, 2 * len(COLUMNS))
    assert "html_block" not in kinds
