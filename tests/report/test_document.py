"""A report in every format: what each looks like, and that nothing in a report can break it."""

import re
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ntp.case import Case, Workload
from ntp.judge.baseline import BaselineVerdict, CaseNoise, Noises, TimeFinding
from ntp.judge.baseline import CaseJudgement as BaselineCase
from ntp.judge.between_runs import DEFAULT_NOISE, RunNoise
from ntp.judge.compare import Column as Side
from ntp.judge.compare import compare
from ntp.judge.guard import verdict_on
from ntp.judge.processes import Level
from ntp.judge.statistics import Interval
from ntp.judge.tuning import Contribution, Ranking, Winner
from ntp.records.guard import GuardedCase
from ntp.records.pairs import Side as GuardSide
from ntp.records.tuning import Lever, Tuning
from ntp.report import baseline, calibration, comparison, guard, tuning
from ntp.report.columns import Column, Table
from ntp.report.document import Listing, Report, html, markdown, terminal
from ntp.report.terminal import WIDTH
from ntp.report.units import duration

NASTY = "a|b `c` *d* <e> [f](g) _h_ {i} %s\n# j \x1b[31m </script>"
PLAIN = "a|b `c` *d* <e> [f](g) _h_ {i} %s # j \\x1b[31m </script>"


class Row(NamedTuple):
    case_id: str
    time_ns: float | None


COLUMNS = (
    Column[Row]("case", lambda row: row.case_id, is_code=True),
    Column[Row]("time", lambda row: row.time_ns, duration),
)
REPORT = Report(
    answer=["Two sentences.", "Two lines."],
    sections=[
        Table(COLUMNS, [Row("simple-b8-s64-t1", 12_300_000), Row("simple-b8-s64-t2", None)], "How long it takes"),
        Listing("To reproduce it", "export A=1\npython train.py"),
        Table(COLUMNS, [], "Without rows"),
    ],
    notes=["a note"],
    legend="Time: of a step.",
    heading="The heading",
)


def test_in_a_terminal():
    assert (
        terminal(REPORT)
        == """\
Two sentences.
Two lines.

----------------  -------
case                 time
----------------  -------
simple-b8-s64-t1  12.3 ms
simple-b8-s64-t2        -
----------------  -------

To reproduce it:

export A=1
python train.py

- a note

Time: of a step.
"""
    )
    assert "python train.py\n- a note\n" in terminal(REPORT._replace(tight=True))


def test_in_markdown():
    assert (
        markdown(REPORT)
        == """\
# The heading

**Two sentences.**

**Two lines.**

## How long it takes

| case               | time    |
|:-------------------|:--------|
| `simple-b8-s64-t1` | 12.3 ms |
| `simple-b8-s64-t2` | -       |

## To reproduce it

```text
export A=1
python train.py
```

- a note

Time: of a step.
"""
    )


def test_as_a_page():
    text = html(REPORT, "A title", ("ntp", "guard"))
    cells = re.findall(r'<td data-value="(.*?)".*?>(.*?)</td>', text)
    assert [(value, re.sub("<.*?>", "", shown)) for value, shown in cells] == [
        ("simple-b8-s64-t1", "simple-b8-s64-t1"),
        ("12300000", "12.3 ms"),
        ("simple-b8-s64-t2", "simple-b8-s64-t2"),
        ("", "-"),
    ]
    parts = [
        "Two sentences.",
        "Two lines.",
        "a note",
        "How long it takes",
        "simple-b8-s64-t1",
        "export A=1",
        "Time: of",
    ]
    places = [text.index(part) for part in ("<h1>A title", *parts, "ntp guard")]
    assert places == sorted(places)
    assert "Without rows" not in text
    assert not re.search(r"<[^>]+ (src|href)=", text)
    assert len(text) < 20_000, "without a chart, the page needs no library that draws"


@pytest.mark.parametrize("part", ["answer", "notes", "legend", "heading", "title", "cell", "header", "code"])
def test_what_others_wrote_stays_what_it_is(part):
    column = Column[Row](NASTY if part == "header" else "x", lambda row: row.case_id, is_code=part == "code")
    rows = [Row(NASTY if part in ("cell", "code") else "x", None)]
    report = Report(["x"], [Table([COLUMNS[1], column], rows, NASTY if part == "title" else "")])
    if part in report._fields:
        report = report._replace(**{part: [NASTY] if part in ("answer", "notes") else NASTY})
    if part not in ("heading", "title"):
        assert PLAIN in terminal(report)
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown(report))
    inline = [child for token in tokens for child in token.children or ()]
    assert not {"html_block", "fence"} & {token.type for token in tokens}
    assert not {"html_inline", "link_open", "em_open", "image"} & {child.type for child in inline}
    assert PLAIN in "".join(child.content for child in inline)
    assert "\x1b" not in terminal(report) + markdown(report)
    text = html(report, NASTY)
    assert "<e>" not in text
    assert text.count("<script") == text.count("</script>")


any_text = st.text(st.characters(exclude_categories=()), max_size=120) | st.text(
    "|`\\*_<>#[]~&$+- \n{}%\x1b", max_size=60
)
names = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=":"), min_size=1, max_size=150
)
ratios = st.floats(1e-3, 1e3)


@pytest.fixture(scope="module")
def reports(make_guarded, make_guard_record, make_measurement):
    """``reports(model, text, log_ratio, ratio, pairs, spread)``: one of each command."""

    def of_guard(cases, text, log_ratio, pairs):
        failed = GuardedCase(case_id=cases[1].id, failure=text, wall_time_s=1e9)
        side = GuardSide(ref=text, commit=text)
        record = make_guard_record(
            make_guarded(cases[0].id, log_ratio, pairs=pairs, tail=log_ratio / 3), failed, base=side, head=side
        )
        return guard.report(record, verdict_on(record))

    def of_gate(cases, text, interval):
        slower, unknown = TimeFinding("regression", interval), TimeFinding("not comparable", reasons=(text,))
        judged = (BaselineCase(cases[0], 1e7, 1e8, slower), BaselineCase(cases[1], 1e3, None, unknown))
        return baseline.report(BaselineVerdict("regression", judged, (cases[2].id,), 0.05, DEFAULT_NOISE))

    def of_runs(case, spread):
        noise = RunNoise(spread or 0.0, 10, 2)
        return Noises(noise, noise, (CaseNoise(case, 2, Level(0.0, spread or 0.0, 1), spread),))

    def of_search(cases, text, interval):
        contribution = Contribution("loss", "deduplicated", "full", interval)
        refused = Contribution("matmul", "onednn", "default", None, text)
        ranking = (Ranking(cases[0].id, interval.value), Ranking(cases[1].id, 1.0))
        search = Tuning(
            started="", wall_time_s=1, command=(), default=cases[1].id, budget_s=1, seed=0,
            levers=(Lever(field="loss", values=("full",)),),
        )  # fmt: skip
        return tuning.report(search, Winner(cases[0], interval, (contribution, refused), ranking), {})

    def of_all(model, text, log_ratio, ratio, pairs, spread):
        cases = [Case(workload=Workload(model=model, batch_size=size)) for size in (2, 3, 4)]
        interval = Interval(ratio, ratio / 2, ratio * 2)
        runs = [Side.of(name, (make_measurement(cases[0], [ns] * 20),)) for name, ns in (("base", 10), ("head", 10**9))]
        return {
            "guard": (of_guard(cases, text, log_ratio, pairs), 2),
            "gate": (of_gate(cases, text, interval), 2),
            "search": (of_search(cases, text, interval), 4),
            "calibration": (calibration.report(of_runs(cases[0], spread)), 1),
            "comparison": (comparison.report(compare(runs)), 1),
        }

    return of_all


@pytest.mark.parametrize("kind", ["guard", "gate", "search", "calibration", "comparison"])
@given(
    model=names.map("{}.py:make".format) | st.just("simple"), text=any_text, log_ratio=st.floats(-5, 5), ratio=ratios,
    pairs=st.integers(0, 12), spread=st.none() | st.floats(0, 1e3),
)  # fmt: skip
def test_lines_fit_and_tables_hold_whatever_is_in_them(reports, kind, **values):
    report, rows = reports(**values)[kind]
    text = terminal(report._replace(sections=[part for part in report.sections if isinstance(part, Table)]))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert all(character.isprintable() or character == "\n" for character in text)
    tokens = [token.type for token in MarkdownIt("commonmark").enable("table").parse(markdown(report))]
    cells = sum(len(part.columns) * len(part.rows) for part in report.sections if isinstance(part, Table))
    assert tokens.count("td_open") == cells
    assert tokens.count("tr_open") - tokens.count("thead_open") == rows
    assert "html_block" not in tokens
