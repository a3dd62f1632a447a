"""A profile as text: a golden one with realistic figures, and what becomes of it when something is missing."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ntp.case import Case, Runtime, Workload
from ntp.records.environment import Conditions
from ntp.records.flame import Flame, FlameWarning
from ntp.records.observations import FlopCount, LiveBytes, MemoryProfile, Observations, TensorBytes
from ntp.records.peaks import Skipped
from ntp.records.run import Failure, Measurement, Run
from ntp.report.profile import markdown, pictures, terminal
from ntp.report.terminal import WIDTH

Make = Callable[..., Measurement]
MakeRun = Callable[..., Run]

GOLDEN = Path(__file__).parent / "golden" / "profile.md"
CASE = "simple-b32-s128-t2"
SAMPLES_NS = [79_400_000 + 150_000 * (i * 8 % 41 - 20) for i in range(41)]
FLAME = Flame(speedscope="flame.speedscope.json", svg="flame.svg", native=True, samples=612, rate_hz=100)
NOT_PERMITTED = FlameWarning(
    kind="not-permitted", message="py-spy was not let in: Permission denied (os error 13)", advice="run it as root"
)
NASTY = "a|b `c` *d* <e> [f](g) _h_\n# i \x1b[31m"


@pytest.fixture(scope="module")
def full(make_measurement, make_run, make_observations, make_peaks) -> Run:
    """All observers saw something, and something went wrong here and there."""
    return make_run(
        make_measurement(
            CASE,
            SAMPLES_NS,
            observations=make_observations(
                flame=FLAME.model_copy(update={"warnings": (NOT_PERMITTED,)}),
                failures=("denormals: simple-b32-s128-t2: RuntimeError: not for this type",),
                denormals=None,
            ),
            conditions=Conditions(steal_share=0.051),
            peak_rss_bytes=612 << 20,
        ),
        planned=1,
        command=("ntp", "profile", "--threads", "2", "--out", "reports/my profile"),
        failures=(Failure(case_id=CASE, message=f"{CASE}: died of SIGSEGV while running steps", stderr_tail="words"),),
        peaks=make_peaks(
            threads=2,
            fp32=450,
            medium=640,
            workload=Workload(),
            skipped=(Skipped(dtype="bf16", route="default", reason="this torch has no bf16 product"),),
            warnings=("the peaks were measured but not kept: ~/.cache/ntp cannot be written",),
        ),
    )


def observed(run: Run, **changes: object) -> Run:
    """The run with other observations."""
    (measurement,) = run.measurements
    observations = measurement.observations.model_copy(update=changes)
    return run.model_copy(update={"measurements": (measurement.model_copy(update={"observations": observations}),)})


def titles(text: str) -> list[str]:
    return [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]


def parsed(text: str):
    return MarkdownIt("commonmark").enable("table").parse(text)


def test_the_text_is_the_one_that_was_looked_at(full):
    # Where a change is meant: look at the new text as a reader would, then write it to the file.
    assert markdown(full) == GOLDEN.read_text(encoding="utf-8")
    again = Run.model_validate_json(full.model_dump_json())
    assert (markdown(again), terminal(again)) == (markdown(full), terminal(full))


def test_the_terminal_has_the_answer_and_what_to_try(full):
    lines = terminal(full).splitlines()
    assert [line[:3] for line in lines if line[0].isdigit()] == [f"{number}. " for number in range(1, 6)]
    text = " ".join(lines)
    assert "79.4 ms a step: Matrix products take 61% of the step and run at 398 GFLOP/s" in text
    assert "(saves 21% of the step at the very most)." in " ".join(text.split())


@pytest.mark.parametrize(
    ("missing", "title"),
    [
        ("phases", "Phases"), ("operators", "Operators"), ("flops", "Operations"), ("flame", "Flame graph"),
    ],
)  # fmt: skip
def test_what_was_not_observed_has_no_section(full, missing, title):
    less = observed(full, **{missing: None})
    assert title in titles(markdown(full))
    assert titles(markdown(less)) == [other for other in titles(markdown(full)) if other != title]
    assert terminal(less)


def test_without_the_tensors_there_is_the_resident_size(full):
    text = markdown(observed(full, memory=None))
    assert titles(text) == titles(markdown(full))
    assert "resident size peaks at 612 MiB, " in text
    assert "memory.svg" not in text


def test_without_peaks_there_is_no_roofline(full, make_peaks):
    for run in (full.model_copy(update={"peaks": None}), full.model_copy(update={"peaks": make_peaks(threads=1)})):
        assert titles(markdown(run)) == [other for other in titles(markdown(full)) if other != "Roofline"]


def test_a_bare_measurement_has_the_step_and_the_machine(make_measurement, make_run):
    text = markdown(make_run(make_measurement(), command=()))
    assert titles(text) == ["The step", "Memory", "Machine"]
    assert "profile it to see what bounds it" in text


def test_nothing_measured(make_run):
    failure = Failure(case_id=CASE, message=f"{CASE}: was killed|<b>")
    text = markdown(make_run(failures=(failure,)))
    assert "**Nothing was measured.**" in text
    assert f"`{CASE}`: was killed|\\<b\\>" in text
    assert text.count(CASE) == 1
    assert terminal(make_run(failures=(failure,))) == "Nothing was measured."
    assert pictures(make_run(failures=(failure,))) == {}
    assert markdown(make_run()).startswith("# Profile\n\n**Nothing was measured.**")


def test_what_is_complete_does_not_say_that_it_is_not(full):
    assert "Incomplete" not in markdown(observed(full, failures=()).model_copy(update={"failures": ()}))


def test_empty_observations_render(make_measurement, make_run, make_operators, make_peaks):
    """An observer that looked and found nothing: a model without a matrix product, a machine without a route."""
    empty = Observations(
        flops=FlopCount(phases=(), operators=()),
        operators=make_operators(),
        memory=MemoryProfile(
            baseline=TensorBytes(),
            peak=TensorBytes(),
            peak_phase="data",
            phases=(),
            timeline=(LiveBytes(time_ns=0, live_bytes=0),),
        ),
    )
    bare = make_peaks()
    nothing = bare.model_copy(update={"by_threads": (bare.by_threads[0].model_copy(update={"products": ()}),)})
    run = make_run(make_measurement(CASE, observations=empty), peaks=nothing)
    assert "A step takes 0.00 GFLOP" in markdown(run)
    assert terminal(run)
    kinds = {token.type for token in parsed(markdown(run))}
    assert "html_block" not in kinds


def test_a_step_too_short_for_the_clock(make_measurement, make_run, make_observations, make_peaks):
    run = make_run(make_measurement(CASE, [0, 0], observations=make_observations()), peaks=make_peaks())
    assert "0.00 ns" in markdown(run)
    assert "0.00 ns a step" in terminal(run)


def test_a_model_of_someone_elses_has_no_closed_form(full):
    (measurement,) = full.measurements
    other = Case(workload=Workload(model="gpt2.py:tiny"), runtime=Runtime(threads=2))
    run = full.model_copy(update={"measurements": (measurement.model_copy(update={"case": other}),)})
    assert "; the closed form 6 (2EH + EV) BT gives 19.18" in markdown(full)
    assert "A step takes 19.18 GFLOP, counted as it ran. " in markdown(run)


def test_names_stay_what_they_are(make_measurement, make_run, make_operators, make_peaks):
    operators = make_operators((NASTY, "forward", 5, 1, 1, 1, 1, NASTY), ("aten::mm", "forward", 4))
    observations = Observations(operators=operators, failures=(NASTY,))
    peaks = make_peaks(warnings=(NASTY,), skipped=(Skipped(dtype="bf16", route="default", reason=NASTY),))
    failure = Failure(case_id=NASTY, message=NASTY)
    run = make_run(
        make_measurement(CASE, observations=observations), peaks=peaks, failures=(failure,), command=("ntp", NASTY)
    )
    tokens = parsed(markdown(run))
    kinds = [token.type for token in tokens]
    assert "html_block" not in kinds
    assert kinds.count("heading_open") == 1 + len(titles(markdown(run)))
    assert kinds.count("fence") == 1
    assert "\x1b" not in markdown(run)
    inline = [child for token in tokens for child in token.children or ()]
    assert not {"html_inline", "link_open", "em_open"} & {child.type for child in inline}
    shown = "a|b `c` *d* <e> [f](g) _h_ # i \\x1b[31m"
    codes = [child.content for child in inline if child.type == "code_inline"]
    assert codes.count(shown) == 3  # the operator, and in the table by shape its name and its inputs
    # All rows of a table are as long as its header.
    for table in markdown(run).split("\n\n"):
        if table.startswith("|"):
            (token,) = (token for token in parsed(table) if token.type == "table_open")
            cells, rows = (
                sum(token.type in names for token in parsed(table)) for names in (["td_open", "th_open"], ["tr_open"])
            )
            assert token.map == [0, len(table.splitlines())]
            assert cells % rows == 0


def test_the_command_can_be_copied(full):
    fence = next(token for token in parsed(markdown(full)) if token.type == "fence")
    assert shlex.split(fence.content) == list(full.command)


def test_only_what_was_observed_is_drawn(full):
    every = ["steps.svg", "phases.svg", "operators.svg", "peak.svg", "memory.svg", "roofline.svg"]
    assert list(pictures(full)) == every
    for changes, gone in (
        ({"phases": None}, {"phases.svg"}),
        ({"operators": None}, {"operators.svg"}),
        ({"memory": None}, {"peak.svg", "memory.svg"}),
        ({"flops": None}, set()),  # the operators have counts of their own
        ({"operators": None, "flops": None}, {"operators.svg", "roofline.svg"}),
    ):
        assert list(pictures(observed(full, **changes))) == [name for name in every if name not in gone]
    assert list(pictures(full.model_copy(update={"peaks": None}))) == every[:-1]


@pytest.mark.parametrize(
    "changes",
    [{}, {"phases": None}, {"operators": None}, {"memory": None}, {"flops": None}, {"operators": None, "flops": None}],
)
def test_the_text_shows_what_is_drawn_and_nothing_else(full, changes):
    run = observed(full, **changes)
    shown = {
        child.attrs["src"] for token in parsed(markdown(run)) for child in token.children or () if child.type == "image"
    }
    assert shown == {*pictures(run), "flame.svg"}


any_text = st.text(st.characters(exclude_categories=()), max_size=60)
models = st.from_regex(r"[a-z/_]{1,150}:[a-z]{1,20}", fullmatch=True)
rows = st.lists(st.tuples(any_text, any_text, st.floats(1e-6, 1e9), st.floats(0, 1e9)), min_size=1, max_size=5)


@given(models, rows, st.integers(0, 10**14), st.floats(1, 1e6))
def test_the_terminal_is_wide_enough(
    make_measurement, make_run, make_observations, make_operators, make_peaks, model, operators, step_ns, rate
):
    case = Case(workload=Workload(model=model), runtime=Runtime(threads=2))
    observations = make_observations(operators=make_operators(*operators))
    run = make_run(
        make_measurement(case, [step_ns], observations=observations, minor_page_faults=10**9),
        peaks=make_peaks(fp32=rate, bf16=2 * rate),
    )
    assert max(map(len, terminal(run).splitlines())) <= WIDTH
    assert markdown(run)
