"""What the charts say, that they say it the same way twice, and that no record is too odd to be drawn."""

import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntp.case import PHASES, Case, Workload
from ntp.judge.compare import Column, compare
from ntp.records.observations import (
    BETWEEN_PHASES,
    LiveBytes,
    MemoryProfile,
    PhaseMemory,
    PhaseSamples,
    PhaseTimes,
    TensorBytes,
)
from ntp.records.peaks import MachinePeaks, RooflinePoint
from ntp.report import charts, sweep_charts
from ntp.report.tables import tables_of

pytestmark = pytest.mark.long

SVG = "{http://www.w3.org/2000/svg}"
LONG_MODEL = "some.package.with_a_long_name.and_many_parts.models.transformer:make_a_model_with_a_long_name"
LONG = Case(workload=Workload(model=LONG_MODEL, data="file:/home/somebody/corpora/english/wikipedia-2024/tokens.bin"))


@pytest.fixture(scope="module")
def observed(make_observations):
    return make_observations()


def phase_times(step_ns, shares):
    times_ns = {phase: (round(step_ns * share),) for phase, share in zip(PHASES, shares, strict=True)}
    phases = tuple(PhaseSamples(phase=phase, time_ns=time_ns) for phase, time_ns in times_ns.items())
    return PhaseTimes(phases=phases, instrumented_step_ns=(step_ns,), bare_step_ns=(step_ns,))


def point(gflops, intensity):
    return RooflinePoint(
        flops=gflops * 1e9,
        bytes_moved=None if intensity is None else gflops * 1e9 / intensity if intensity else 1,
        time_s=1,
        peak_flops_per_s=216e9,
        bandwidth_bytes_per_s=20e9,
    )


POINTS = [("step", point(81, 25)), ("aten::mm", point(125, 71)), ("aten::add_", point(0.8, 0.08))]


def texts(chart):
    """All that is written in the picture, line by line. Fails where it is not well-formed SVG."""
    return [line for text in ET.fromstring(charts.svg(chart)).iter(f"{SVG}text") for line in text.itertext()]


def marks(chart):
    """The data of all layers, row by row."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


def boxes(element, x=0.0, y=0.0, turned=False):
    """The left, top, right and bottom of every visible line of text, and the line. Widths are estimated."""
    transform = element.get("transform", "")
    if move := re.search(r"translate\(([-\d.e]+),\s*([-\d.e]+)\)", transform):
        x, y = x + float(move[1]), y + float(move[2])
    turned = turned or "rotate" in transform
    if element.tag == f"{SVG}text" and element.get("opacity") != "0":
        size = float(element.get("font-size").removesuffix("px"))
        for line in element if len(element) else [element]:
            y += float(line.get("dy", 0))
            width = 0.45 * size * len(line.text or "")
            before = width * {"middle": 0.5, "end": 1}.get(element.get("text-anchor"), 0)
            if turned:
                yield x - 0.7 * size, y + before - width, x + 0.2 * size, y + before, line.text
            elif width:
                yield x - before, y - 0.7 * size, x - before + width, y + 0.2 * size, line.text
    for child in element:
        yield from boxes(child, x, y, turned)


def assert_readable(chart):
    """No text touches another, and none is cut off."""
    root = ET.fromstring(charts.svg(chart))
    width, height = float(root.get("width")), float(root.get("height"))
    placed = list(boxes(root))
    for left, top, right, bottom, text in placed:
        assert min(left, top, width - right, height - bottom) >= 0, text
    for one, other in itertools.combinations(placed, 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1], (one, other)


class TestMemory:
    def test_the_timeline_says_how_high_the_peak_is_and_when(self, observed):
        chart = charts.memory_timeline(observed.memory)
        written = texts(chart)
        assert "Tensor memory peaks at 95.7 MiB in backward" in written
        assert "Dashed: parameters + optimizer state 17.7 MiB, held all the time" in written
        assert {"live tensor memory (MiB)", "time since the step began (ms)", *PHASES} <= set(written)
        assert {(0, 24), (0.32, 18), (80, 24)} <= {(row.get("ms"), row.get("MiB")) for row in marks(chart)}

    def test_phases_of_unknown_times_and_no_memory(self, observed):
        unknown = tuple(PhaseMemory(phase=phase, peak_bytes=1, live_bytes=1) for phase in PHASES)
        assert not {*PHASES} & {*texts(charts.memory_timeline(observed.memory.model_copy(update={"phases": unknown})))}
        empty, start = TensorBytes(), LiveBytes(time_ns=0, live_bytes=0)
        nothing = MemoryProfile(baseline=empty, peak=empty, peak_phase=BETWEEN_PHASES, phases=(), timeline=(start,))
        assert "Tensor memory peaks at 0.00 B, between two phases" in texts(charts.memory_timeline(nothing))
        assert "No tensor memory at the peak" in texts(charts.peak_composition(nothing))

    def test_each_part_of_the_peak_has_its_name_size_and_share(self, observed):
        chart = charts.peak_composition(observed.memory)
        written = texts(chart)
        assert "65% of the memory peak is activations" in written
        parts = {"activations": "62.0 MiB, 65%", "optimizer state": "11.8 MiB, 12%", "inputs": "32.2 KiB, 0.03%"}
        assert {*parts, *parts.values()} <= set(written)
        assert sum(row["MiB"] for row in marks(chart)) == pytest.approx(observed.memory.peak_bytes / 2**20)


class TestRoofline:
    def test_roofs_slope_and_points(self, make_peaks):
        chart = charts.roofline(make_peaks(fp32=100, onednn=216, bf16=416), POINTS)
        written = texts(chart)
        assert written.index("416 GFLOP/s bf16 oneDNN") < written.index("216 GFLOP/s fp32 oneDNN")
        assert written.index("100 GFLOP/s fp32 MKL") < written.index("20.0 GB/s") < written.index("step 38%")
        assert "step: 81.0 GFLOP/s, 38% of its roof, compute-bound" in written
        assert {"aten::mm 58%", "aten::add_ 50%", "Dashed: the library that torch uses by default"} <= set(written)
        assert {"arithmetic intensity (FLOP/byte)", "rate (GFLOP/s)"} <= set(written)
        lines = {row["limit"]: row for row in marks(chart) if "limit" in row}
        assert lines["216 GFLOP/s fp32 oneDNN"]["x"] == pytest.approx(216 / 20, rel=1e-3)
        assert lines["416 GFLOP/s bf16 oneDNN"]["y"] == lines["20.0 GB/s"]["y2"] == pytest.approx(416)

    def test_of_a_machine_the_fewest_and_the_most_threads(self, make_peaks):
        by_threads = [peaks for n in (4, 1, 2) for peaks in make_peaks(n, fp32=100 * n).by_threads[-1:]]
        written = texts(charts.roofline(MachinePeaks(machine="m", software="s", by_threads=tuple(by_threads)), POINTS))
        assert {"100 GFLOP/s fp32 MKL, 1 thread", "400 GFLOP/s fp32 MKL, 4 threads"} <= set(written)
        assert not any("2 threads" in text for text in written)

    def test_libraries_that_hardly_differ_share_a_limit_and_bandwidth_or_peaks_may_be_unknown(self, make_peaks):
        written = texts(charts.roofline(make_peaks(fp32=100, onednn=110, gb_per_s=None), []))
        assert "110 GFLOP/s fp32 oneDNN" in written
        assert not any(word in text for text in written for word in ("MKL", "Dashed", "GB/s"))
        assert "step 38%" in texts(charts.roofline(MachinePeaks(machine="m", software="s"), POINTS))

    def test_the_first_twelve_points_have_names_and_those_without_a_place_too(self, make_peaks):
        points = [(f"op{number}", point(10, 1 + number)) for number in range(15)]
        chart = charts.roofline(make_peaks(), [*points, ("copies", point(0, 0)), ("unknown", point(1, None))])
        written = texts(chart)
        assert [text.split()[0] for text in written if re.match(r"op\d+ ", text)] == [f"op{n}" for n in range(12)]
        assert "3 others" in written
        assert "Not drawn, for lack of known bytes or of operations: copies, unknown" in written
        assert [row["name"] for row in marks(chart) if "rate" in row] == [name for name, _ in points]


class TestPhaseShares:
    def test_bars_in_the_order_of_the_step_with_their_shares(self, observed):
        short = phase_times(73_000_000, (0, 0, 0.4, 0.1, 0.46, 0))
        chart = charts.phase_shares({"simple-b32-s128-t1": observed.phases, LONG.id: short})
        written = texts(chart)
        assert {"simple-b32-s128-t1", "80.0 ms a step", "73.0 ms a step", "30%", "between phases"} <= set(written)
        assert "The backward phase takes 46% to 49% of a step" in written
        assert any(re.fullmatch(r"some\.package.*\.\.\..*tokens\.bin", text) for text in written)
        bars = [row for row in marks(chart) if row.get("case") == LONG.id and "phase" in row]
        assert [bar["phase"] for bar in bars] == [*PHASES, "between phases"]
        assert sum(bar["value"] for bar in bars) == pytest.approx(1)
        assert "No phase took any measurable time" in texts(charts.phase_shares({"a": phase_times(0, [0] * 6)}))


class TestOperatorTimes:
    def test_the_costliest_first_with_all_its_phases(self, observed, make_operators):
        chart = charts.operator_times(observed.operators, most=2)
        written = texts(chart)
        assert "aten::mm takes 46% of the step" in written
        assert {"36.5 ms, 46%", "12.0 ms, 15%", "self time per step (ms)"} <= set(written)
        bars = [row for row in marks(chart) if row["operator"] == "aten::mm" and "phase" in row]
        assert {(bar["phase"], bar["ms"]) for bar in bars} == {("forward", 5.5), ("backward", 31)}
        assert "The other 7 together: 31.5 ms, 39%" in written
        assert "aten::_log_softmax" not in written
        assert "No operators" in texts(charts.operator_times(make_operators()))
        timeless = charts.operator_times(make_operators(("aten::mm", "forward", 0)))
        assert "aten::mm takes - of the step" in texts(timeless)


class TestStepTimes:
    def test_every_sample_in_order_and_the_median(self, make_measurement):
        chart = charts.step_times(make_measurement("simple-b32-s128-t1", [130_000_000, 134_000_000, 131_000_000]))
        written = {"A step takes 131 ms", "median 131 ms", "3 steps of simple-b32-s128-t1", "step time (ms)"}
        assert written <= set(texts(chart))
        samples = [(row["step"], row["value"]) for row in marks(chart) if "time" in row]
        assert samples == [(1, 130), (2, 134), (3, 131)]

    def test_each_process_has_its_part_its_round_and_its_median(self, make_measurement):
        samples = [10_000_000, 12_000_000, 11_000_000]
        chart = charts.step_times(make_measurement("simple-b32-s128-t1", samples, levels=(1, 4)))
        rows = marks(chart)
        assert {"A step takes 22.0 ms", "mean 22.0 ms", "6 steps in 2 processes of simple-b32-s128-t1"} <= {
            *texts(chart)
        }
        assert [(row["step"], row["round"]) for row in rows if "time" in row] == [
            *((1, 1), (2, 1), (3, 1)), *((4, 2), (5, 2), (6, 2)),
        ]  # fmt: skip
        medians = [(row["step"], row["end"], row["value"]) for row in rows if "end" in row]
        assert medians == [(0.5, 3.5, 11), (3.5, 6.5, 44)]
        assert [row for row in rows if row.keys() == {"step"}] == [{"step": 3.5}]

    def test_what_is_far_out_does_not_press_the_others_flat(self, make_measurement):
        samples = [10_000_000 + 1000 * (number % 50) for number in range(100)] + [90_000_000]
        chart = charts.step_times(make_measurement(step_time_ns=samples))
        assert [row["step"] for row in marks(chart) if row.get("beyond")] == [101]
        assert chart.to_dict()["layer"][0]["encoding"]["y"]["scale"]["domainMax"] == pytest.approx(10.049)
        assert any(text.endswith("slowest 90.0 ms. Triangles: 1 beyond the scale") for text in texts(chart))
        part = make_measurement(Case(workload=Workload(part="forward")))
        assert "The forward part of a step takes 10.0 ms" in texts(charts.step_times(part))


LEVELS = (1.0, 0.99, 1.02)


@pytest.fixture(scope="module")
def three_rounds(make_measurement, make_run):
    """A case with one thread and with two, in three processes each; and one in a single process."""
    return make_run(
        make_measurement("simple-b8-s64-t1", [20_000_000] * 4, LEVELS),
        make_measurement("simple-b8-s64-t2", [10_000_000] * 4, LEVELS),
        make_measurement("simple-b32-s64-t2", [50_000_000] * 4),
    )


class TestIntervals:
    def test_of_a_rate_is_a_bar_if_there_are_processes_enough(self, three_rounds):
        one, two, single = tables_of(three_rounds).steps
        chart = sweep_charts.throughput((one, two, single))
        bars = {row["case"]: (row["low"], row["high"]) for row in marks(chart)}
        assert bars[two.case.id] == (two.tokens_per_s_interval.low, two.tokens_per_s_interval.high)
        assert bars[single.case.id] == (None, None)
        assert "Bars: 95% intervals over processes, within this run" in texts(chart)
        assert not any("interval" in text for text in texts(sweep_charts.throughput((single,))))

    def test_of_a_speed_up_is_a_bar(self, three_rounds):
        rows = tables_of(three_rounds).steps
        chart = sweep_charts.scaling(rows)
        drawn = {row["case"]: row for row in marks(chart) if "case" in row}
        assert drawn["simple-b8-s64-t2"]["low"] == rows[1].speed_up.interval.low
        assert drawn["simple-b8-s64-t1"]["low"] is None
        assert "Dashed: perfect scaling. Bars: 95% intervals over processes, within this run" in texts(chart)


class TestProcesses:
    def test_each_is_a_dot_in_the_colour_of_its_round(self, three_rounds):
        tables = tables_of(three_rounds)
        chart = sweep_charts.processes(tables.steps, tables.spreads)
        dots = [(row["case"], row["round"]) for row in marks(chart) if "round" in row]
        assert dots == [
            *(("simple-b8-s64-t1", number) for number in (1, 2, 3)),
            *(("simple-b8-s64-t2", number) for number in (1, 2, 3)),
            ("simple-b32-s64-t2", 1),
        ]
        bars = {row["case"]: row for row in marks(chart) if "low" in row}
        assert bars["simple-b8-s64-t2"]["low"] < 0.99 < 1.01 < bars["simple-b8-s64-t2"]["high"]
        assert bars["simple-b32-s64-t2"]["low"] == bars["simple-b32-s64-t2"]["high"] == 1
        assert any(
            re.fullmatch(r"Noise: steps [\d.]+%, processes [\d.]+%, rounds [\d.]+%", text) for text in texts(chart)
        )

    def test_many_rounds_have_a_legend_of_some(self, make_measurement, make_run):
        tables = tables_of(make_run(make_measurement(levels=[1 + number / 1000 for number in range(20)])))
        written = texts(sweep_charts.processes(tables.steps, tables.spreads))
        assert {"1", "11", "20"} <= set(written)
        assert "2" not in written


class TestDocuments:
    def test_each_is_the_same_twice_fetches_nothing_and_says_in_words_what_it_shows(self, observed, make_peaks):
        def draw():
            yield charts.memory_timeline(observed.memory)
            yield charts.roofline(make_peaks(), POINTS)
            yield charts.phase_shares({'a<b>&"\x00\ud800\n': observed.phases})

        for chart, again in zip(draw(), draw(), strict=True):
            document = charts.svg(chart)
            assert charts.svg(again) == document
            addresses = document.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
            assert not re.search("http|@import", addresses)
            root = ET.fromstring(document)
            assert (root.get("role"), root.get("aria-label")) == ("img", chart.description)
            assert chart.description.startswith(chart.title.text)
        assert 'a<b>&"\\x00\\ud800' in texts(chart)

    def test_text_reports_load_without_drawing(self):
        program = "import sys, ntp.report.text; sys.exit('altair' in sys.modules or 'vl_convert' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture(scope="module")
def crowded(observed, make_measurement, make_run, make_peaks):
    """Many cases, some with long names, and samples that are all equal, a single one, or vary."""
    models = ("simple", LONG_MODEL, "path/to/my \udcff model.py:make")
    samples = ([40_000_000] * 30, [5], [10_000_000 + 10**6 * (number % 7) for number in range(300)])
    levels = ((1, 1.02, 0.97, 9), (1,), [1 + number % 5 / 100 for number in range(12)])
    cases = [
        Case(workload=Workload(model=model, batch_size=batch_size), runtime={"threads": threads})
        for model, batch_size, threads in itertools.product(models, (8, 32, 128), (1, 2))
    ]
    measurements = [
        make_measurement(
            case, samples[number % 3], levels[number % 3], minor_page_faults=number * 600, observations=observed
        )
        for number, case in enumerate(cases)
    ]
    return make_run(*measurements, peaks=make_peaks(2))


class TestReadable:
    def test_a_sweep_and_runs_side_by_side(self, crowded):
        drawn = sweep_charts.charts_of(crowded, tables_of(crowded))
        assert {
            "throughput",
            "scaling",
            "processes",
            "samples",
            "faults",
            "phases",
            "roofline",
            "memory",
        } == drawn.keys()
        for chart in drawn.values():
            assert_readable(chart)
        columns = [Column.of(name, crowded.measurements) for name in ("one", "other", LONG.id)]
        assert_readable(sweep_charts.ratios(compare(columns)))

    def test_one_case(self, observed, make_measurement, make_operators, make_peaks):
        one_point = observed.memory.model_copy(update={"timeline": observed.memory.timeline[:1], "phases": ()})
        for memory in (observed.memory, one_point):
            assert_readable(charts.memory_timeline(memory))
        assert_readable(charts.peak_composition(observed.memory))
        assert_readable(charts.operator_times(make_operators(("aten::mm", "forward", 2), (LONG.id,))))
        for samples in ([5], [0, 0], [*range(10**7, 10**7 + 50_000, 1000), 9 * 10**7]):
            assert_readable(charts.step_times(make_measurement(LONG, samples)))
        for least in (1e-6, 1, 1e4):
            points = [(f"{LONG.id} {number}", point(10, least * (1 + number))) for number in range(15)]
            assert_readable(charts.roofline(make_peaks(fp32=100, onednn=216, bf16=416), points))


counts = st.integers(0, 2**50)
names = st.text(max_size=30)
rates = st.floats(1e-100, 1e100)


@st.composite
def memories(draw):
    peak = draw(st.builds(TensorBytes, **dict.fromkeys(TensorBytes.model_fields, counts)))
    lower = st.builds(LiveBytes, time_ns=counts, live_bytes=st.integers(0, peak.total_bytes))
    phase = st.builds(PhaseMemory, phase=names, start_ns=st.none() | counts, end_ns=st.none() | counts)
    return MemoryProfile(
        baseline=draw(st.builds(TensorBytes, parameters=counts)),
        peak=peak,
        peak_phase=draw(names),
        phases=draw(st.lists(phase, max_size=4).map(tuple)),
        timeline=(*draw(st.lists(lower, max_size=5)), LiveBytes(time_ns=0, live_bytes=peak.total_bytes)),
    )


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(
    memory=memories(),
    points=st.lists(st.tuples(names, st.builds(point, rates, st.none() | rates)), max_size=10),
    phases=st.dictionaries(names, st.tuples(counts, st.lists(st.floats(0, 1), min_size=6, max_size=6)), min_size=1),
    rows=st.lists(st.tuples(names, names, st.floats(0, 1e6)), max_size=20),
    samples=st.lists(counts, min_size=1, max_size=30),
    levels=st.lists(st.floats(0, 100), min_size=1, max_size=12),
)
def test_odd_records_are_drawn(
    memory, points, phases, rows, samples, levels, make_peaks, make_measurement, make_operators, make_run
):
    # Altair checks each chart against Vega-Lite's schema on the way.
    assert texts(charts.memory_timeline(memory))
    assert texts(charts.peak_composition(memory))
    assert texts(charts.roofline(make_peaks(), points))
    assert texts(charts.phase_shares({name: phase_times(*times) for name, times in phases.items()}))
    assert texts(charts.operator_times(make_operators(*rows)))
    measurement = make_measurement(step_time_ns=samples, levels=levels)
    assert texts(charts.step_times(measurement))
    run = make_run(measurement)
    assert all(map(texts, sweep_charts.charts_of(run, tables_of(run)).values()))
