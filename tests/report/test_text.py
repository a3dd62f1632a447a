import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ntp.case import PHASES, Case, Runtime, Workload
from ntp.records.environment import Conditions, Machine, Process
from ntp.records.observations import (
    FlopCount,
    FlopShare,
    LiveBytes,
    MemoryProfile,
    Observations,
    Operator,
    OperatorProfile,
    PhaseSamples,
    PhaseTimes,
    TensorBytes,
)
from ntp.records.peaks import MachinePeaks, Product, Setting, Stream, ThreadPeaks
from ntp.records.run import Failure, Measurement, NoiseBetweenRuns, Run
from ntp.report import text
from ntp.report.columns import Table
from ntp.report.sentences import plain_lines
from ntp.report.sweep_columns import GROWTHS, PARTS, STEPS, VALUES, WHY
from ntp.report.tables import tables_of
from ntp.report.terminal import WIDTH

Make = Callable[..., Measurement]
MakeRun = Callable[..., Run]
MakeObservations = Callable[..., Observations]
MakePeaks = Callable[..., MachinePeaks]

GOLDEN = Path(__file__).parent / "golden"
MS = 1_000_000
LEVELS = (1.0, 0.99, 1.02, 1.006, 0.985)
"""The levels of five processes."""
LONG = "path/to/a/very/long/folder/of/experiments/with/models.py:make_transformer"
RENDERERS = {"terminal": text.terminal, **text.FORMATS}


def spread(median_ms: float, share: float, count: int = 41) -> list[int]:
    """Samples around a median, up to ``share`` of it away."""
    return [round(median_ms * MS * (1 + share * (i * 8 % count - count // 2) / (count // 2))) for i in range(count)]


@pytest.fixture(scope="session")
def small_run(
    make_measurement: Make, make_run: MakeRun, make_observations: MakeObservations, make_peaks: MakePeaks
) -> Run:
    observed = make_observations()
    return make_run(
        make_measurement("simple-b8-s64-t1", spread(20, 0.02), LEVELS),
        make_measurement("simple-b8-s64-t2", spread(12.3, 0.02), LEVELS, conditions=Conditions(steal_share=0.051)),
        make_measurement(
            "simple-b32-s128-t1",
            spread(151.2, 0.03),
            LEVELS,
            peak_rss_bytes=1300 << 20,
            observations=make_observations(operators=None, memory=None),
        ),
        make_measurement(
            "simple-b32-s128-t2",
            spread(79.4, 0.4),
            LEVELS,
            conditions=Conditions(steal_share=0.031),
            minor_page_faults=205_000,
            peak_rss_bytes=1301 << 20,
            observations=observed,
        ),
        make_measurement("simple-b32-s128-t2-foreach", spread(79.9, 0.02), LEVELS, peak_rss_bytes=1302 << 20),
        make_measurement(
            Case(workload=Workload(model=LONG), runtime=Runtime(threads=2)),
            spread(800, 0.02, 9),
            (1.0, 1.03),
            observations=Observations(phases=observed.phases, memory=observed.memory),
        ),
        make_measurement("simple-b32-s128-t2-forward", spread(25, 0.02), LEVELS),
        make_measurement("simple-b32-s128-t2-data", spread(0.0312, 0.02), LEVELS),
        failures=(
            Failure(
                case_id="simple-b512-s1024-t2",
                message="simple-b512-s1024-t2: was killed (SIGKILL) while warming up: by hand, or by the kernel for "
                "want of memory (then make batch size, sequence length or model smaller)",
                stderr_tail="Traceback (most recent call last):\n  a | b\nMemoryError",
            ),
        ),
        planned=11,
        rounds=5,
        precision=0.01,
        budget_s=60,
        plain=make_measurement("simple-b32-s128-t2-glibc-free", spread(90, 0.1), (1.0, 1.02, 0.99, 1.01, 1.0)),
        wall_time_s=261.2,
        peaks=make_peaks(
            threads=2,
            fp32=310,
            medium=420,
            bf16=810,
            workload=Workload(),
            warnings=(
                "the peaks were measured but not kept: ~/.cache/ntp cannot be written (No space left on device)",
            ),
        ),
    )


def test_the_terminal_shows_what_was_looked_at(small_run: Run) -> None:
    # Where a change is meant: look at the new text as a reader would, then write it to the file.
    assert text.terminal(small_run) == (GOLDEN / "terminal.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("render", RENDERERS.values(), ids=RENDERERS)
def test_the_same_run_gives_the_same_text_also_when_it_was_written_and_read(
    small_run: Run, render: Callable[[Run], str]
) -> None:
    first = render(small_run)
    assert first == render(Run.model_validate_json(small_run.model_dump_json()))
    assert first.endswith("\n")
    assert "\r" not in first


PLAIN = "simple-b8-s64-t2-glibc-free"


def against_plain(make_measurement: Make, make_run: MakeRun, ms: float, levels: Sequence[float] = LEVELS) -> Run:
    """A run of one case of 10 ms, and of its plain process."""
    case = make_measurement("simple-b8-s64-t2", [10 * MS], levels)
    environment = case.environment.model_copy(update={"process": Process(affinity=(0, 1))})
    case = case.model_copy(update={"environment": environment})
    return make_run(case, plain=make_measurement(PLAIN, [round(ms * MS)], levels))


def test_a_plain_process_that_is_slower_comes_with_what_gets_the_difference(
    make_measurement: Make, make_run: MakeRun
) -> None:
    run = against_plain(make_measurement, make_run, 12.5)
    lines = text.terminal(run).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("In a plain process"))
    assert " ".join(lines[start : start + 2]).startswith(
        "In a plain process (no environment set) the step of simple-b8-s64-t2 takes 1.25 (1.23 to 1.28) times as long; "
        "these lines get the difference:"
    )
    exports = [line.strip() for line in lines if line.startswith("    export ")]
    assert [line.split("=")[0] for line in exports] == [
        *("export MALLOC_MMAP_THRESHOLD_", "export MALLOC_TRIM_THRESHOLD_", "export MALLOC_TOP_PAD_"),
        *("export OMP_PROC_BIND", "export OMP_PLACES"),
    ]
    assert exports[-1] == "export OMP_PLACES='{0},{1}'"
    assert "\n".join(exports) in text.markdown(run)


@pytest.mark.parametrize(
    ("ms", "levels", "words"),
    [
        (10.1, LEVELS, "times as long: they cannot be told apart."),
        (8, LEVELS, "times as long: the environment of ntp's workers makes it slower here."),
        (12.5, (1.0,), "takes 1.25 times as long; a single process cannot tell whether it does."),
    ],
)
def test_a_plain_process_that_is_not_slower_comes_without_lines(
    make_measurement: Make, make_run: MakeRun, ms: float, levels: Sequence[float], words: str
) -> None:
    rendered = text.terminal(against_plain(make_measurement, make_run, ms, levels))
    assert words in " ".join(rendered.split())
    assert "export" not in rendered


def test_a_plain_process_that_failed_is_told(make_measurement: Make, make_run: MakeRun) -> None:
    failure = Failure(case_id=PLAIN, message=f"{PLAIN}: died of SIGSEGV")
    run = make_run(make_measurement(), plain_failure=failure)
    sentence = "The step was not measured in a plain process (no environment set): died of SIGSEGV."
    assert sentence in " ".join(text.terminal(run).split())
    assert sentence in text.markdown(run)
    assert "Incomplete" not in text.terminal(run)
    assert json.loads(text.json(run))["plain"]["failure"]["case_id"] == PLAIN


def test_a_winner_is_crowned_only_if_it_can_be_told_from_the_others(make_measurement: Make, make_run: MakeRun) -> None:
    def first(*times_ms: float, levels: Sequence[float] = LEVELS) -> str:
        cases = (
            make_measurement(f"simple-b8-s64-t{threads}", [round(ms * MS)], levels)
            for threads, ms in enumerate(times_ms, 2)
        )
        return " ".join(text.terminal(make_run(*cases)).split("\n\n")[0].split())

    assert first(20, 10).startswith("Fastest: simple-b8-s64-t3 with 51,")
    close = first(10, 10.05)
    assert close.startswith("Fastest: simple-b8-s64-t2, or simple-b8-s64-t3: they cannot be told apart. ")
    assert "±1.7% in this run; another run: ±17%." in close
    assert "±0.00% in this run" in first(10, levels=(1, 1, 1))
    assert first(10, 20, levels=(1,)).startswith(
        "Fastest: simple-b8-s64-t2 with 51,200 tokens/s, 10.0 ms a step, in a single process: another may differ by "
        "more than cases do."
    )


def test_another_run_is_told_by_what_the_machine_knew(make_measurement: Make, make_run: MakeRun) -> None:
    case = make_measurement("simple-b8-s64-t2", [10 * MS], LEVELS)
    quiet = NoiseBetweenRuns(spread=0.01, degrees=25, remembered=16)
    assert "±1.7% in this run; another run: ±3.5%." in " ".join(text.terminal(make_run(case, noise=quiet)).split())
    assert json.loads(text.json(make_run(case, noise=quiet)))["fastest"][0]["half_width_of_another_run"] < 0.04


def test_an_interrupted_sweep_says_how_many_processes_are_missing(make_measurement: Make, make_run: MakeRun) -> None:
    cases = [make_measurement(f"simple-b8-s64-t{n}", levels=LEVELS[:n]) for n in (2, 3, 5)]
    answer = " ".join(text.terminal(make_run(*cases, rounds=5)).split())
    assert "Interrupted: 2 of 3 cases have only 2 to 3 of the 5 processes that were asked for." in answer
    assert "Interrupted" not in text.terminal(make_run(*cases, rounds=2))


def test_a_precision_that_was_not_reached_is_named_with_its_cases(make_measurement: Make, make_run: MakeRun) -> None:
    case = make_measurement("simple-b8-s64-t1", [10 * MS], LEVELS)

    def answer(precision: float) -> str:
        return " ".join(text.terminal(make_run(case, precision=precision, budget_s=300)).split())

    missed = "The precision of ±1.0% was not reached in the 300 s allowed (--ntp-budget): simple-b8-s64-t1 ±1.7%."
    assert missed in answer(0.01)
    assert "not reached" not in answer(0.02)


@pytest.mark.parametrize(
    ("samples", "levels", "advice"),
    [
        ([10 * MS] * 9, ((1, 1.1, 0.9), (1.1, 0.9, 1)), "The processes dominate: more rounds"),
        ([10 * MS] * 9, ((1, 1.1, 0.9), (1, 1.101, 0.9)), "The rounds dominate: the machine changed"),
        ([10 * MS, 20 * MS, 30 * MS], ((1, 1.01, 0.99), (1.01, 0.99, 1)), "The steps dominate: longer processes"),
        ([10 * MS] * 9, ((1,), (1,)), "One process of each case: the noise between processes is unknown"),
    ],
)
def test_a_reader_learns_where_the_noise_is(
    make_measurement: Make,
    make_run: MakeRun,
    samples: Sequence[int],
    levels: Sequence[Sequence[float]],
    advice: str,
) -> None:
    cases = (make_measurement(f"simple-b8-s64-t{n}", samples, of_case) for n, of_case in enumerate(levels, 1))
    assert advice in " ".join(text.terminal(make_run(*cases)).split())


@pytest.mark.parametrize("render", [text.terminal, text.markdown])
def test_the_answer_says_what_is_missing(
    make_measurement: Make, make_run: MakeRun, render: Callable[[Run], str]
) -> None:
    failure = Failure(case_id="simple-b1-s1-t1", message="died")
    nothing, part = make_run(planned=2), make_run(make_measurement("simple-b8-s64-t1-data"))
    failed, whole = make_run(make_measurement(), failures=(failure,)), make_run(make_measurement())
    assert "Nothing was measured." in render(nothing)
    assert "Incomplete: of 2 cases, 2 were never run (the sweep was interrupted)." in render(nothing)
    assert "No whole step was measured." in render(part)
    assert "Incomplete: of 2 cases, 1 failed." in render(failed)
    assert "Incomplete" not in render(whole)


def test_a_warning_is_given_once_with_its_cases(make_measurement: Make, make_run: MakeRun) -> None:
    stolen = Conditions(steal_share=0.5)
    run = make_run(*(make_measurement(f"simple-b{n}-s64-t1", conditions=stolen) for n in range(1, 6)))
    terminal = text.terminal(run)
    assert terminal.count("- high-steal") == 1
    assert terminal.count("the hypervisor gave 50.0%") == 3
    assert "    and 2 more\n" in terminal
    markdown = text.markdown(run)
    assert markdown.count("**high-steal**") == 1
    assert markdown.count("the hypervisor gave 50.0%") == 5


any_text = st.text(st.characters(exclude_categories=()), max_size=80)
nasty_text = st.text("|`\\*_<>#[]~&$-+ \n\tab1.\x1b", max_size=60)
models = st.from_regex(r"[a-z/_]{1,150}:[a-z]{1,20}", fullmatch=True) | st.just("simple")


amounts = st.floats(0, 1e18)
counts = st.integers(0, 10**18)
times_ns = st.integers(1, 10**14)
processes = st.lists(st.sampled_from([1.0, 1.01, 0.5, 1e3]), min_size=1, max_size=5)


def operators(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Operator]:
    return st.builds(
        Operator,
        name=texts,
        phase=texts,
        calls_per_step=amounts,
        self_time_ns_per_step=st.floats(1, 1e14),
        allocated_bytes_per_step=amounts,
        moved_bytes_per_step=amounts,
        flops_per_step=amounts,
    )


@st.composite
def observations(draw: st.DrawFn) -> Observations:
    """Any of them may be missing."""
    texts = any_text | nasty_text
    phases = st.builds(PhaseSamples, phase=st.sampled_from(PHASES) | texts, time_ns=st.tuples(times_ns, times_ns))
    step_ns = st.tuples(times_ns, times_ns)
    phase_times = st.builds(
        PhaseTimes,
        phases=st.lists(phases, min_size=1, max_size=6).map(tuple),
        instrumented_step_ns=step_ns,
        bare_step_ns=step_ns,
    )
    peaks = st.builds(TensorBytes, **dict.fromkeys(TensorBytes.model_fields, counts))
    memory = peaks.map(
        lambda peak: MemoryProfile(
            baseline=peak,
            peak=peak,
            peak_phase="loss",
            phases=(),
            timeline=(LiveBytes(time_ns=0, live_bytes=peak.total_bytes),),
        )
    )
    flops = st.lists(st.builds(FlopShare, name=texts, flops=counts), max_size=3).map(
        lambda shares: FlopCount(phases=(), operators=tuple(shares))
    )
    profile = st.lists(operators(texts), max_size=4).map(
        lambda drawn: OperatorProfile(
            operators=tuple(drawn), largest_by_shape=tuple(drawn), profiled_step_ns=(1,), bare_step_ns=(1,)
        )
    )
    return Observations(
        phases=draw(st.none() | phase_times),
        memory=draw(st.none() | memory),
        flops=draw(st.none() | flops),
        operators=draw(st.none() | profile),
        failures=tuple(draw(st.lists(texts, max_size=2))),
        wall_time_s=draw(st.floats(0, 1e6)),
    )


@st.composite
def machine_peaks(draw: st.DrawFn) -> MachinePeaks:
    sampled = st.tuples(times_ns, times_ns)
    products = st.builds(
        Product,
        dtype=st.sampled_from(["fp32", "bf16"]),
        route=st.sampled_from(["default", "medium", "onednn"]),
        library=any_text,
        shape=st.just((2048, 2048, 2048)),
        error=st.floats(0, 1),
        time_ns=sampled,
    )
    streams = st.builds(Stream, kernel=st.just("copy"), array_bytes=st.integers(1, 10**12), time_ns=sampled)
    by_threads = st.builds(
        ThreadPeaks,
        setting=st.sampled_from([1, 2, 256]).map(lambda threads: Setting(threads=threads)),
        products=st.lists(products, max_size=3).map(tuple),
        streams=st.lists(streams, max_size=1).map(tuple),
    )
    return MachinePeaks(
        machine="m",
        software="s",
        by_threads=tuple(draw(st.lists(by_threads, max_size=2))),
        warnings=tuple(draw(st.lists(any_text | nasty_text, max_size=2))),
    )


@st.composite
def runs(draw: st.DrawFn, make_measurement: Make, make_run: MakeRun) -> Run:
    measurements = []
    for model in draw(st.lists(models, max_size=4)):
        workload = Workload(
            model=model,
            batch_size=draw(st.integers(1, 4096)),
            seq_len=draw(st.integers(1, 10**6)),
            part=draw(st.sampled_from(["step", "data"])),
        )
        threads = draw(st.sampled_from([1, 2, 256]))
        samples = draw(st.lists(st.integers(0, 10**14), min_size=1, max_size=12))
        other: dict[str, Any] = {
            "peak_rss_bytes": draw(st.integers(0, 10**14)),
            "minor_page_faults": draw(st.integers(0, 10**12)),
            "observations": draw(st.just(Observations()) | observations()),
        }
        measurements.append(
            make_measurement(
                Case(workload=workload, runtime=Runtime(threads=threads)), samples, draw(processes), **other
            )
        )
    texts = any_text | nasty_text
    plain = make_measurement("simple-b32-s128-t2-glibc-free", levels=draw(processes))
    failures = st.builds(Failure, case_id=texts, message=texts, stderr_tail=texts)
    return make_run(
        *measurements,
        failures=tuple(draw(st.lists(failures, max_size=2))),
        planned=draw(st.integers(0, 12)),
        rounds=draw(st.integers(1, 6)),
        precision=draw(st.none() | st.floats(1e-6, 0.999)),
        budget_s=draw(st.none() | st.floats(0, 1e6)),
        plain=draw(st.none() | st.just(plain)),
        plain_failure=draw(st.none() | failures),
        command=tuple(draw(st.lists(texts, max_size=3))),
        peaks=draw(st.none() | machine_peaks()),
    )


@given(st.data())
def test_the_terminal_is_wide_enough(make_measurement: Make, make_run: MakeRun, data: st.DataObject) -> None:
    rendered = text.terminal(data.draw(runs(make_measurement, make_run)))
    assert max(map(len, rendered.splitlines())) <= WIDTH
    assert all(character.isprintable() or character == "\n" for character in rendered)


def tokens_of(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(markdown)


def words(tokens: list[Token]) -> str:
    """What a reader sees of inline Markdown."""
    return "".join(child.content for token in tokens for child in token.children or ())


@given(st.data())
def test_nothing_that_a_model_says_breaks_the_markdown(
    make_measurement: Make, make_run: MakeRun, data: st.DataObject
) -> None:
    run = data.draw(runs(make_measurement, make_run))
    tokens = tokens_of(text.markdown(run))
    kinds = [token.type for token in tokens]
    tables = tables_of(run)
    of_cases = ((STEPS, tables.steps), (WHY, tables.why), (GROWTHS, tables.growths), (PARTS, tables.parts))
    shown = [Table(columns, rows).in_format("markdown") for columns, rows in of_cases if rows]
    # Each table has a row of headers too, and the machine's have two columns.
    rows = sum(1 + len(table.rows) for table in shown)
    cells = sum(len(table.columns) * (1 + len(table.rows)) for table in shown)
    machine_cells = 2 * (kinds.count("tr_open") - rows)
    assert kinds.count("td_open") + kinds.count("th_open") == cells + machine_cells
    assert "html_block" not in kinds
    exported = bool(plain_lines(run, tables, str)[1])
    assert kinds.count("fence") == 1 + exported + sum(bool(failure.stderr_tail.strip()) for failure in run.failures)
    inline = [child.type for token in tokens for child in token.children or ()]
    assert not {"html_inline", "link_open", "image", "em_open", "s_open"} & set(inline)


@given(case_id=nasty_text.filter(str.strip), message=nasty_text)
def test_a_failure_reads_as_it_was_written(make_run: MakeRun, case_id: str, message: str) -> None:
    run = make_run(failures=(Failure(case_id=case_id, message=message),))
    tokens = tokens_of(text.markdown(run))
    start = next(i for i, token in enumerate(tokens) if token.content == "Failed cases")
    paragraph = next(token for token in tokens[start + 1 :] if token.type == "inline")
    told = message.removeprefix(f"{case_id}: ")
    expected = f"{' '.join(case_id.split())}: {' '.join(told.split())}".replace("\x1b", r"\x1b").rstrip()
    assert words([paragraph]).rstrip() == expected


def test_a_machine_may_have_any_name(make_measurement: Make, make_run: MakeRun) -> None:
    name = r"a | b \| `c` <d> _e_"
    tokens = tokens_of(text.markdown(make_run(make_measurement(machine=Machine(cpu_model=name)))))
    cpu = next(i for i, token in enumerate(tokens) if token.content == "CPU")
    value = next(token for token in tokens[cpu + 1 :] if token.type == "inline")
    assert words([value]) == name


def test_a_traceback_keeps_its_lines_and_cannot_end_its_block(make_run: MakeRun) -> None:
    tail = "Traceback:\n```\n  **not bold**\n\x1b[31mred"
    tokens = tokens_of(text.markdown(make_run(failures=(Failure(case_id="a", message="b", stderr_tail=tail),))))
    block = next(token for token in tokens if token.type == "fence")
    assert block.content == tail.replace("\x1b", r"\x1b") + "\n"


def test_an_empty_run_has_a_csv_of_headers(make_run: MakeRun) -> None:
    assert text.csv(make_run()) == ",".join(VALUES) + "\n"


def test_json_holds_what_the_report_says(small_run: Run) -> None:
    document = json.loads(text.json(small_run))
    assert document["missing"] == 2
    assert [answer["case_id"] for answer in document["fastest"]] == ["simple-b32-s128-t2", f"{LONG}-b32-s128-t2"]
    assert document["fastest"][0]["cannot_be_told_from"] == ["simple-b32-s128-t2-foreach"]
    assert 0 < document["fastest"][0]["half_width"] < document["fastest"][0]["half_width_of_another_run"]
    assert document["plain"]["case_id"] == "simple-b32-s128-t2"
    assert document["plain"]["environment"][0].startswith("export MALLOC_")
    assert document["spreads"].keys() == {"steps", "processes", "rounds"}
    case_ids = [measurement.case.id for measurement in small_run.measurements]
    assert [row["case_id"] for row in document["measurements"]] == case_ids
    assert document["failures"][0]["stderr_tail"].endswith("MemoryError")
    assert {warning["kind"] for warning in document["warnings"]} == {
        *("high-steal", "noisy-samples", "mmap-churn", "too-few-processes")
    }
    (environment,) = document["environments"]
    assert environment["machine"]["fingerprint"] == small_run.measurements[0].environment.machine.fingerprint
    assert document["time"]["wall_s"] == 261.2


def test_reports_need_neither_torch_nor_scipy() -> None:
    code = "import sys; sys.modules['torch'] = None; import ntp.report.text; sys.exit('scipy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
