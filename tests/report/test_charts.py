"""What the charts say, that they say it the same way twice, and that no record is too odd to be drawn.

Texts that must not cover each other are placed by :mod:`ntp.report.placing`, whose promises are tested here too.
"""

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntp.case import Case, Workload
from ntp.records.observations import (
    BETWEEN_PHASES,
    LiveBytes,
    MemoryProfile,
    Operator,
    OperatorProfile,
    PhaseMemory,
    PhaseSamples,
    PhaseTimes,
    TensorBytes,
)
from ntp.records.peaks import MachinePeaks, Product, RooflinePoint, Setting, Stream, ThreadPeaks, gemm_flops
from ntp.report import charts
from ntp.report.placing import Box, Label, Spot, beside, in_rows, shortened, spread, text_width_px

MIB = 2**20
PHASES = ("data", "zero_grad", "forward", "loss", "backward", "optimizer")
SQUARE = (2048, 2048, 2048)
LONG_ID = Case(
    workload=Workload(
        model="some.package.with_a_long_name.and_many_parts.models.transformer:make_a_model_with_a_long_name",
        data="file:/home/somebody/corpora/english/wikipedia-2024/tokens.bin",
    )
)


def memory_of(*live_mib, **fields):
    """130 ms with these levels, evenly spaced; the phases take 30%, 15%, 50%, 4% and next to nothing."""
    times_ns = [round(130e6 * number / max(1, len(live_mib) - 1)) for number in range(len(live_mib))]
    ends_ns = [0, 300_000, 400_000, 39_400_000, 58_900_000, 123_900_000, 129_500_000]
    parts = {"parameters": 6 * MIB, "optimizer_state": 12 * MIB, "inputs": 33_000, "activations": 20 * MIB}
    parts["temporaries"] = int(max(live_mib) * MIB) - sum(parts.values())
    values = {
        "baseline": TensorBytes(parameters=6 * MIB, optimizer_state=12 * MIB, gradients=6 * MIB),
        "peak": TensorBytes(**parts),
        "peak_phase": "backward",
        "phases": tuple(
            PhaseMemory(phase=phase, peak_bytes=30 * MIB, live_bytes=20 * MIB, start_ns=start_ns, end_ns=end_ns)
            for phase, (start_ns, end_ns) in zip(PHASES, itertools.pairwise(ends_ns), strict=True)
        ),
        "timeline": tuple(
            LiveBytes(time_ns=time_ns, live_bytes=int(live * MIB))
            for time_ns, live in zip(times_ns, live_mib, strict=True)
        ),
    }
    return MemoryProfile(**(values | fields))


def phase_times(step_ns=130_000_000, shares=(0.003, 0.001, 0.30, 0.15, 0.50, 0.04)):
    return PhaseTimes(
        phases=tuple(
            PhaseSamples(phase=phase, time_ns=(round(step_ns * share),) * 2)
            for phase, share in zip(PHASES, shares, strict=True)
        ),
        instrumented_step_ns=(step_ns,) * 2,
        bare_step_ns=(step_ns,) * 2,
    )


def operator(name, phase, time_ms):
    counts = dict.fromkeys((name for name, field in Operator.model_fields.items() if field.is_required()), 0)
    return Operator(**(counts | {"name": name, "phase": phase, "self_time_ns_per_step": time_ms * 1e6}))


def operator_profile(*operators):
    return OperatorProfile(operators=operators, largest_by_shape=(), profiled_step_ns=(1,), bare_step_ns=(1,))


OPERATORS = operator_profile(
    operator("aten::mm", "backward", 40),
    operator("aten::addmm", "forward", 30),
    operator("aten::mm", "forward", 10),
    operator("aten::_log_softmax", "loss", 15),
    operator("aten::tiny", BETWEEN_PHASES, 5),
)


def product(gflops, route, dtype, library):
    time_ns = round(gemm_flops(SQUARE) / gflops)
    return Product(dtype=dtype, route=route, library=library, shape=SQUARE, error=1e-7, time_ns=(time_ns,))


def thread_peaks(*, threads=1, mkl=100, onednn=216, bf16=416, gb_per_s=20):
    products = [product(mkl, "default", "fp32", "mkl")]
    products += [product(onednn, "onednn", "fp32", "onednn")] if onednn else []
    products += [product(bf16, "default", "bf16", "onednn")] if bf16 else []
    streams = [Stream(kernel="copy", array_bytes=gb_per_s * 10**9, time_ns=(2 * 10**9,))] if gb_per_s else []
    return ThreadPeaks(setting=Setting(threads=threads), products=tuple(products), streams=tuple(streams))


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
    """All that is written in the picture, line by line. Fails where it is no well-formed SVG."""
    root = ET.fromstring(charts.svg(chart))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return [line for element in root.iter("{http://www.w3.org/2000/svg}text") for line in element.itertext()]


def marks(chart):
    """The data of all layers, row by row."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


class TestMemoryTimeline:
    def test_it_says_how_high_the_peak_is_and_when(self):
        chart = charts.memory_timeline(memory_of(24, 18, 38, 60, 38, 24))
        written = texts(chart)
        assert "Tensor memory peaks at 60.0 MiB in backward" in written
        assert "peak 60.0 MiB" in written
        assert "parameters + optimizer state 18.0 MiB" in written
        assert {"live tensor memory (MiB)", "time since the step began (ms)", *PHASES} <= set(written)

    def test_it_is_drawn_in_mebibytes_and_milliseconds(self):
        drawn = {(row["x"], row["y"]) for row in marks(charts.memory_timeline(memory_of(24, 60, 24)))}
        assert {(0, 24), (65, 60), (130, 24)} <= drawn

    def test_a_phase_too_short_to_be_seen_has_a_line_and_its_name(self):
        chart = charts.memory_timeline(memory_of(24, 60, 24))
        bands = {row["phase"]: row for row in marks(chart) if "phase" in row and row["x2"] > row["x"]}
        assert bands["zero_grad"]["x"] == 0.3
        assert bands["zero_grad"]["x2"] == 0.4
        assert any(row.get("phase") == "zero_grad" and row["x"] == row["x2"] == 0.3 for row in marks(chart))

    def test_phases_whose_times_are_unknown_are_left_out(self):
        unknown = tuple(PhaseMemory(phase=phase, peak_bytes=1, live_bytes=1) for phase in PHASES)
        assert not set(PHASES) & set(texts(charts.memory_timeline(memory_of(24, 60, 24, phases=unknown))))

    def test_one_point_and_nothing_at_all(self):
        assert "peak 60.0 MiB" in texts(charts.memory_timeline(memory_of(60)))
        nothing = MemoryProfile(
            baseline=TensorBytes(),
            peak=TensorBytes(),
            peak_phase=BETWEEN_PHASES,
            phases=(),
            timeline=(LiveBytes(time_ns=0, live_bytes=0),),
        )
        assert "Tensor memory peaks at 0.00 B, between two phases" in texts(charts.memory_timeline(nothing))
        assert "No tensor memory at the peak" in texts(charts.peak_composition(nothing))


class TestPeakComposition:
    def test_each_part_has_its_name_and_size(self):
        written = texts(charts.peak_composition(memory_of(60)))
        assert {"activations", "20.0 MiB", "optimizer state", "12.0 MiB", "temporaries", "22.0 MiB"} <= set(written)
        assert "inputs 32.2 KiB" in written  # beside the bar: in it there is no room
        assert "37% of the memory peak is temporaries" in written

    def test_the_parts_make_up_the_bar_and_none_is_too_thin_to_be_seen(self):
        bars = [row for row in marks(charts.peak_composition(memory_of(60))) if "kind" in row]
        assert min(bar["x"] for bar in bars) == 0
        assert max(bar["x2"] for bar in bars) == pytest.approx(60)
        widths = {bar["kind"]: bar["x2"] - bar["x"] for bar in bars}
        assert widths["activations"] == pytest.approx(20)
        assert widths["inputs"] / 60 * 640 == pytest.approx(2)  # pixels
        assert bars[-1]["kind"] == "inputs"  # on top of its neighbours


class TestRoofline:
    def test_roofs_slope_and_points(self):
        written = texts(charts.roofline(thread_peaks(), POINTS))
        assert {"216 GFLOP/s fp32 oneDNN", "100 GFLOP/s fp32 MKL", "416 GFLOP/s bf16 oneDNN", "20.0 GB/s"} <= set(
            written
        )
        assert "step: 81.0 GFLOP/s, 38% of its roof, compute-bound" in written
        assert {"step 38%", "aten::mm 58%", "aten::add_ 50%"} <= set(written)
        assert {"arithmetic intensity (FLOP/byte)", "rate (GFLOP/s)"} <= set(written)

    def test_roofs_meet_their_slope(self):
        roofs = {row["roof"]: row for row in marks(charts.roofline(thread_peaks(), POINTS)) if "roof" in row}
        assert roofs["216 GFLOP/s fp32 oneDNN"]["x"] == pytest.approx(216 / 20)
        assert roofs["416 GFLOP/s bf16 oneDNN"]["y"] == pytest.approx(416)

    def test_libraries_that_hardly_differ_share_a_roof(self):
        written = texts(charts.roofline(thread_peaks(onednn=110, bf16=None), []))
        assert "110 GFLOP/s fp32 oneDNN" in written
        assert not any("MKL" in text or "Dashed" in text for text in written)

    def test_of_a_machine_the_fewest_and_the_most_threads(self):
        by_threads = tuple(thread_peaks(threads=n, mkl=100 * n, onednn=None, bf16=None) for n in (4, 1, 2))
        written = texts(charts.roofline(MachinePeaks(machine="m", software="s", by_threads=by_threads), POINTS))
        assert {"100 GFLOP/s fp32 MKL, 1 thread", "400 GFLOP/s fp32 MKL, 4 threads"} <= set(written)
        assert not any("2 threads" in text for text in written)

    def test_without_bandwidth_or_without_peaks(self):
        written = texts(charts.roofline(thread_peaks(gb_per_s=None), POINTS))
        assert "216 GFLOP/s fp32 oneDNN" in written
        assert not any("GB/s" in text for text in written)
        assert "step 38%" in texts(charts.roofline(MachinePeaks(machine="m", software="s"), POINTS))

    def test_points_without_a_place_are_named(self):
        nowhere = [("copies", point(0, 0)), ("unknown", point(1, None))]
        written = texts(charts.roofline(thread_peaks(), [*POINTS, *nowhere]))
        assert "Without a place here, for lack of known bytes or of operations: copies, unknown" in written

    def test_the_first_eight_points_have_names(self):
        many = [(f"op{number}", point(10, 1 + number / 100)) for number in range(10)]
        chart = charts.roofline(thread_peaks(), many)
        named = {text.split()[0] for text in texts(chart)} & {name for name, _ in many}
        assert named == {f"op{number}" for number in range(8)}
        assert sum("rate" in row for row in marks(chart)) == 10


class TestPhaseShares:
    def test_bars_in_the_order_of_the_step_with_their_shares(self):
        chart = charts.phase_shares([("simple-b32-s128-t1", phase_times())])
        written = texts(chart)
        assert {"simple-b32-s128-t1: 130 ms a step", "30%", "15%", "50%", "between phases"} <= set(written)
        assert "The backward phase takes 50% of a step" in written
        bars = [row for row in marks(chart) if "phase" in row]
        assert [bar["phase"] for bar in bars] == [*PHASES, BETWEEN_PHASES]
        assert bars[-1]["x2"] == pytest.approx(1)
        assert all(bar["x2"] == after["x"] for bar, after in itertools.pairwise(bars))

    def test_cases_of_the_same_name_keep_their_own_bars(self):
        rows = [("a", phase_times()), ("a", phase_times(73_000_000, (0, 0, 0.4, 0.1, 0.46, 0)))]
        written = texts(charts.phase_shares(rows))
        assert {"a: 130 ms a step", "a: 73.0 ms a step", "40%"} <= set(written)
        assert "The backward phase takes 46% to 50% of a step" in written

    def test_a_long_id_keeps_its_end(self):
        (name,) = (text for text in texts(charts.phase_shares([(LONG_ID.id, phase_times())])) if "…" in text)
        assert name.startswith("some.package")
        assert name.endswith("tokens.bin: 130 ms a step")
        assert text_width_px(name) <= 640

    def test_no_time_and_no_cases(self):
        assert "No time was seen to pass in any phase" in texts(charts.phase_shares([("a", phase_times(0))]))
        assert "No time was seen to pass in any phase" in texts(charts.phase_shares([]))


class TestOperatorTimes:
    def test_the_costliest_first_with_all_its_phases(self):
        chart = charts.operator_times(OPERATORS)
        written = texts(chart)
        assert "aten::mm takes 50% of the step" in written
        assert {"50.0 ms, 50%", "30.0 ms, 30%", "aten::_log_softmax", "self time per step (ms)"} <= set(written)
        bars = [row for row in marks(chart) if row.get("operator") == "aten::mm"]
        assert [(bar["phase"], bar["x"], bar["x2"]) for bar in bars] == [("forward", 0, 10), ("backward", 10, 50)]

    def test_the_others_are_added_up(self):
        written = texts(charts.operator_times(OPERATORS, most=2))
        assert "The other 2 together: 20.0 ms, 20%" in written
        assert "aten::_log_softmax" not in written

    def test_no_operators_and_no_time(self):
        assert "No operators" in texts(charts.operator_times(operator_profile()))
        assert "aten::mm takes - of the step" in texts(
            charts.operator_times(operator_profile(operator("aten::mm", "forward", 0)))
        )


class TestStepTimes:
    def test_every_sample_in_order_and_the_median(self, make_measurement):
        samples = [130_000_000, 134_000_000, 131_000_000]
        chart = charts.step_times(make_measurement("simple-b32-s128-t1", samples))
        written = texts(chart)
        assert {"A step takes 131 ms", "median 131 ms", "3 steps of simple-b32-s128-t1", "step time (ms)"} <= set(
            written
        )
        points = [(row["x"], row["y"]) for row in marks(chart) if "shape" in row]
        assert points == [(1, 130), (2, 134), (3, 131)]

    def test_what_is_far_out_does_not_press_the_others_flat(self, make_measurement):
        samples = [10_000_000 + 1000 * (number % 50) for number in range(100)] + [90_000_000]
        chart = charts.step_times(make_measurement(step_time_ns=samples))
        *rest, last = (row for row in marks(chart) if "shape" in row)
        assert last["shape"] == "triangle-up"
        assert last["y"] < 10.1
        assert {row["shape"] for row in rest} == {"circle"}
        assert any(text.endswith("slowest 90.0 ms. Triangles: 1 beyond the scale") for text in texts(chart))

    def test_one_sample_and_no_time(self, make_measurement):
        assert "1 step of simple-b8-s64-t1" in texts(charts.step_times(make_measurement(step_time_ns=[5])))
        assert "median 0.00 ns" in texts(charts.step_times(make_measurement(step_time_ns=[0, 0])))

    def test_a_part_of_the_step_is_named(self, make_measurement):
        case = Case(workload=Workload(part="forward"))
        assert "The forward part of a step takes 10.0 ms" in texts(charts.step_times(make_measurement(case)))


class TestDocuments:
    @pytest.fixture
    def all_charts(self, make_measurement):
        def draw():
            return [
                charts.memory_timeline(memory_of(24, 60, 24)),
                charts.peak_composition(memory_of(60)),
                charts.roofline(thread_peaks(), POINTS),
                charts.phase_shares([("a", phase_times())]),
                charts.operator_times(OPERATORS),
                charts.step_times(make_measurement()),
            ]

        return draw

    def test_each_is_the_same_twice_fetches_nothing_and_says_in_words_what_it_shows(self, all_charts):
        for chart, again in zip(all_charts(), all_charts(), strict=True):
            document = charts.svg(chart)
            assert charts.svg(again) == document
            addresses = document.replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xlink", "")
            assert "http" not in addresses
            assert "@import" not in document
            root = ET.fromstring(document)
            assert root.get("role") == "img"
            assert root.get("aria-label") == chart.description
            assert chart.description.startswith(chart.title.text)

    def test_png_on_white_as_large_as_asked_and_the_same_twice(self):
        chart = charts.peak_composition(memory_of(60))
        small, large = charts.png(chart, scale=1), charts.png(chart, scale=2)
        assert small.startswith(b"\x89PNG")
        widths = [int.from_bytes(image[16:20], "big") for image in (small, large)]
        assert 640 <= widths[0] <= 760
        assert widths[1] == pytest.approx(2 * widths[0], abs=1)
        assert charts.png(charts.peak_composition(memory_of(60))) == large
        assert chart.to_dict()["config"]["background"] == "white"

    def test_names_with_markup_and_control_characters(self):
        name = 'a<b>&"\x00\ud800\n'
        chart = charts.phase_shares([(name, phase_times())])
        assert any(text.startswith('a<b>&"??') for text in texts(chart))

    def test_text_reports_load_without_drawing(self):
        program = "import sys, ntp.report.text; sys.exit('altair' in sys.modules or 'vl_convert' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


counts = st.integers(0, 2**50)
names = st.text(max_size=30)
slow = settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def memories(draw):
    peak = draw(st.builds(TensorBytes, **dict.fromkeys(TensorBytes.model_fields, counts)))
    lower = st.builds(LiveBytes, time_ns=counts, live_bytes=st.integers(0, peak.total_bytes))
    timeline = [*draw(st.lists(lower, max_size=5)), LiveBytes(time_ns=draw(counts), live_bytes=peak.total_bytes)]
    phase = st.builds(PhaseMemory, phase=names, start_ns=st.none() | counts, end_ns=st.none() | counts)
    return MemoryProfile(
        baseline=draw(st.builds(TensorBytes, parameters=counts)),
        peak=peak,
        peak_phase=draw(names),
        phases=draw(st.lists(phase, max_size=4).map(tuple)),
        timeline=tuple(timeline),
    )


class TestOddRecords:
    """Drawn at all, as well-formed SVG. Altair checks each chart against Vega-Lite's schema on the way."""

    @slow
    @given(memories())
    def test_memory(self, memory):
        assert texts(charts.memory_timeline(memory))
        assert texts(charts.peak_composition(memory))

    @slow
    @given(st.lists(st.tuples(names, st.floats(0, 1e300), st.none() | st.floats(0, 1e300)), max_size=10))
    def test_roofline(self, drawn):
        points = [
            (
                name,
                RooflinePoint(
                    flops=flops, bytes_moved=moved, time_s=1, peak_flops_per_s=1e11, bandwidth_bytes_per_s=1e10
                ),
            )
            for name, flops, moved in drawn
            if flops or moved != 0
        ]
        assert texts(charts.roofline(thread_peaks(), points))

    @slow
    @given(st.lists(st.tuples(names, st.integers(0, 2**50), st.lists(st.floats(0, 1), min_size=6, max_size=6))))
    def test_phases(self, drawn):
        assert texts(charts.phase_shares([(name, phase_times(step_ns, shares)) for name, step_ns, shares in drawn]))

    @slow
    @given(st.lists(st.builds(operator, names, names, st.floats(0, 1e12)), max_size=20), st.integers(1, 12))
    def test_operators(self, operators, most):
        assert texts(charts.operator_times(operator_profile(*operators), most))

    @slow
    @given(samples=st.lists(counts, min_size=1, max_size=30))
    def test_steps(self, samples, make_measurement):
        assert texts(charts.step_times(make_measurement(step_time_ns=samples)))


class TestPlaces:
    @given(st.lists(st.builds(Label, st.text("x", max_size=40), st.floats(-100, 800), st.sampled_from([None, "#fff"]))))
    def test_labels_in_rows_neither_meet_nor_leave_the_chart(self, labels):
        placed = in_rows(labels)
        assert [label.text for label in placed] == [label.text for label in labels]
        for label in placed:
            assert label.centre_px - label.width_px / 2 >= -1e-6
            assert label.centre_px + label.width_px / 2 <= 640 + 1e-6
        for one, other in itertools.combinations(placed, 2):
            apart_px = abs(one.centre_px - other.centre_px)
            assert one.row != other.row or apart_px >= (one.width_px + other.width_px) / 2

    @given(st.lists(st.floats(-1000, 1000), max_size=20))
    def test_spread_keeps_the_order_and_the_gap(self, places):
        moved = spread(places, 14)
        ordered = [place for _, place in sorted(zip(places, moved, strict=True))]
        assert all(after - before >= 14 - 1e-6 for before, after in itertools.pairwise(ordered))

    @given(st.lists(st.integers(-50, 50).map(lambda number: number * 20.0), unique=True))
    def test_spread_leaves_alone_what_is_far_enough_apart(self, places):
        assert spread(places, 14) == pytest.approx(places)

    def test_spread_moves_both_by_as_much(self):
        assert spread([10.0, 14.0], 14) == pytest.approx([5, 19])

    @given(
        st.lists(
            st.builds(Spot, st.text("x", min_size=1, max_size=20), st.floats(0, 600), st.floats(0, 300)), max_size=6
        )
    )
    def test_names_cover_neither_points_nor_each_other(self, spots):
        points = [Box(spot.x_px - 6, spot.y_px, 12, 10) for spot in spots]
        boxes = beside(spots, points, [], 640, 360)
        assert len(boxes) == len(spots)
        assert not any(box.covers(taken) for box in boxes for taken in points)
        assert not any(one.covers(other) for one, other in itertools.combinations(boxes, 2))
        assert all(box.left_px >= 0 and box.left_px + box.width_px <= 640 for box in boxes)

    def test_names_keep_off_lines_where_that_is_near(self):
        line = Box(0, 100, 640, 2)
        (box,) = beside([Spot("name", 300, 100)], [], [line], 640, 360)
        assert not box.covers(line)
        everywhere = [Box(0, y_px, 640, 2) for y_px in range(0, 360, 4)]
        assert beside([Spot("name", 300, 100)], [], everywhere, 640, 360)[0].middle_px == 100

    @given(st.text(), st.floats(20, 700))
    def test_shortened_is_printable_and_as_short_as_asked(self, text, width_px):
        short = shortened(text, width_px)
        assert short.isprintable()
        assert text_width_px(short) <= max(width_px, text_width_px("x…x"))

    @given(st.text("abc", min_size=1), st.floats(20, 700))
    def test_shortened_keeps_both_ends(self, text, width_px):
        short = shortened(text, width_px)
        assert (short[0], short[-1]) == (text[0], text[-1])
