"""The operator pass: what it counts, where it puts it, and the trace."""

import gc
import gzip
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from torch.autograd.profiler_util import FunctionEvent

from ntp.case import PHASES, StepConfig, Workload
from ntp.core.step import Training
from ntp.errors import RecordError
from ntp.observe.profiler import operator_pass, shapes_text
from ntp.records.observations import BETWEEN_OPERATORS, BETWEEN_PHASES
from ntp.records.peaks import closed_form_flops

pytestmark = pytest.mark.long

SMALL = Workload(batch_size=2, seq_len=8, vocab_size=30, embed_dim=8, hidden_dim=16)
GPT2 = str(Path(__file__).parents[2] / "examples/gpt2.py") + ":tiny"
STEPS = 2


class CountingTraining(Training):
    steps = 0

    def step(self, *phase):
        self.steps += 1
        return super().step(*phase)


def ticking_clock():
    now_ns = 0

    def clock_ns():
        nonlocal now_ns
        now_ns += 1
        return now_ns

    return clock_ns


@pytest.fixture(scope="module")
def training():
    training = CountingTraining.start(SMALL, StepConfig())
    training.step()
    return training


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory):
    return tmp_path_factory.mktemp("traces") / "new" / "trace.json"


@pytest.fixture(scope="module")
def profile(training, trace_path):
    return operator_pass(training, STEPS, trace_path)


def calls_per_step(profile, name):
    return {operator.phase: operator.calls_per_step for operator in profile.operators if operator.name == name}


def test_calls_are_counted_by_phase(profile):
    assert calls_per_step(profile, "aten::addmm") == {"forward": 2}
    assert calls_per_step(profile, "aten::mm") == {"forward": 1, "backward": 6}
    assert calls_per_step(profile, "aten::randint") == {"data": 1}
    assert calls_per_step(profile, "aten::_log_softmax") == {"loss": 1}
    assert calls_per_step(profile, "torch::autograd::AccumulateGrad") == {"backward": 6}
    assert calls_per_step(profile, "Optimizer.step#AdamW.step") == {"optimizer": 1}
    assert calls_per_step(profile, "Optimizer.zero_grad#AdamW.zero_grad") == {"zero_grad": 1}


def test_what_no_operator_did_is_there_too(profile):
    between = calls_per_step(profile, BETWEEN_OPERATORS)
    assert between == dict.fromkeys((*PHASES, BETWEEN_PHASES), 1)


def test_the_shares_make_up_the_step(profile):
    shares = [profile.share(operator) for operator in profile.operators]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert min(shares) >= 0


def test_flops_are_those_of_the_matrix_products(profile):
    products = [operator for operator in profile.operators if operator.name in {"aten::mm", "aten::addmm"}]
    assert sum(operator.flops_per_step for operator in products) == closed_form_flops(SMALL)


def test_allocated_bytes_are_those_of_what_was_made(profile):
    allocated = {(operator.name, operator.phase): operator.allocated_bytes_per_step for operator in profile.operators}
    tokens, hidden, embed, vocab, fp32 = 16, 16, 8, 30, 4
    assert allocated["aten::addmm", "forward"] == tokens * (hidden + embed) * fp32
    assert allocated["aten::mm", "forward"] == tokens * vocab * fp32
    assert allocated["aten::view", "forward"] == 0
    assert min(allocated.values()) >= 0


def test_the_costliest_are_told_apart_by_shape(profile):
    addmm = {operator.input_shapes for operator in profile.largest_by_shape if operator.name == "aten::addmm"}
    assert addmm <= {"16, 16x8, 8x16", "8, 16x16, 16x8"}
    assert any(operator.input_shapes for operator in profile.largest_by_shape)
    assert not any(operator.input_shapes for operator in profile.operators)
    assert len(profile.largest_by_shape) == 20


def test_a_warm_up_and_pairs_of_steps_are_run_and_timed_whole():
    training = CountingTraining.start(SMALL, StepConfig())
    profile = operator_pass(training, 3, clock_ns=ticking_clock())
    assert training.steps == 3 + 1 + 3
    assert profile.bare_step_ns == (1, 1, 1)
    assert profile.profiled_step_ns == (1, 1, 1)


def test_no_steps_are_refused(training):
    with pytest.raises(ValueError, match="not 0"):
        operator_pass(training, 0)


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_run(training, tmp_path):
    (tmp_path / "file").touch()
    before = training.steps
    with pytest.raises(RecordError, match=r"file.*trace\.json cannot be written"):
        operator_pass(training, 1, tmp_path / "file" / "trace.json")
    assert training.steps == before


def test_a_sessions_events_are_gone_before_the_next(training, monkeypatch):
    """Else they keep pieces of every tensor, and the heap grows with each step."""
    alive_at_step = []

    def count_events(phase):
        alive_at_step.append(sum(type(thing) is FunctionEvent for thing in gc.get_objects()))
        return real_step(*phase)

    real_step = training.step
    monkeypatch.setattr(training, "step", lambda *phase: count_events(phase))
    gc.collect()
    gc.disable()
    try:
        operator_pass(training, 2)
    finally:
        gc.enable()
    assert alive_at_step == [0] * 5


def test_a_model_of_someone_elses():
    pytest.importorskip("transformers")
    training = Training.start(Workload(model=GPT2, vocab_size=50, batch_size=2, seq_len=8), StepConfig())
    profile = operator_pass(training, 1)
    assert calls_per_step(profile, "aten::native_layer_norm") == {"forward": 5}
    assert calls_per_step(profile, "aten::native_layer_norm_backward") == {"backward": 5}


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ([[4096, 256], [], [256, 1024]], "4096x256, 256x1024"),
        ([[[2, 3], [4]], []], "2x3, 4"),
        ([[1], [2], [3], [4], [5]], "1, 2, 3, 4, ..."),
        ([], ""),
        (None, ""),
    ],
)
def test_shapes_are_short(shapes, text):
    assert shapes_text(shapes) == text


def complete_events(document):
    return [event for event in document["traceEvents"] if event["ph"] == "X"]


def interval_ns(event):
    return round(event["ts"] * 1000), round((event["ts"] + event["dur"]) * 1000)


def test_the_trace_has_each_phase_once_within_the_step(profile, trace_path):
    events = complete_events(json.loads(trace_path.read_text()))
    spans = {event["name"]: interval_ns(event) for event in events if event["name"].startswith("ntp.")}
    counts = Counter(event["name"] for event in events if event["name"].startswith("ntp."))
    assert counts == dict.fromkeys(["ntp.step", *(f"ntp.{phase}" for phase in PHASES)], 1)
    step_start, step_end = spans.pop("ntp.step")
    edges = [edge for phase in PHASES for edge in spans[f"ntp.{phase}"]]
    assert [step_start, *edges, step_end] == sorted([step_start, *edges, step_end])


def test_the_traces_events_nest_as_perfetto_wants_them(profile, trace_path):
    """Perfetto drops complete events of a thread that overlap without one holding the other."""
    threads = {}
    for event in complete_events(json.loads(trace_path.read_text())):
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        start, end = interval_ns(event)
        threads.setdefault((event["pid"], event["tid"]), []).append((start, -end))
    assert sum(map(len, threads.values())) > 100
    for events in threads.values():
        open_until = []
        for start, minus_end in sorted(events):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or -minus_end <= open_until[-1]
            open_until.append(-minus_end)


def test_a_trace_may_be_gzipped(training, tmp_path):
    path = tmp_path / "trace.json.gz"
    operator_pass(training, 1, path)
    with gzip.open(path, "rt") as file:
        names = {event["name"] for event in complete_events(json.load(file))}
    assert {"ntp.step", "ntp.forward", "aten::addmm"} <= names


def test_a_trace_goes_to_a_folder_whose_name_is_not_utf_8(training, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff") / "trace.json"
    operator_pass(training, 1, path)
    assert "ntp.step" in {event["name"] for event in complete_events(json.loads(path.read_text()))}


def trace_processor_shell():
    """The program behind ui.perfetto.dev, if it is here: perfetto's Python package would have to download it."""
    cached = Path.home().glob(".local/share/perfetto/prebuilts/trace_processor_shell*")
    return shutil.which("trace_processor_shell") or next(map(str, cached), None)


@pytest.mark.skipif(trace_processor_shell() is None, reason="Perfetto's trace_processor_shell is not installed")
def test_perfetto_reads_the_trace(profile, trace_path):
    perfetto = pytest.importorskip("perfetto.trace_processor")
    config = perfetto.TraceProcessorConfig(bin_path=trace_processor_shell())
    with perfetto.TraceProcessor(trace=str(trace_path), config=config) as processor:
        rows = processor.query(
            "select child.name from slice child join slice parent on child.parent_id = parent.id "
            "where parent.name = 'ntp.step' and child.name glob 'ntp.*' order by child.ts"
        )
        assert [row.name for row in rows] == [f"ntp.{phase}" for phase in PHASES]
        lost = processor.query("select sum(value) as events from stats where severity in ('error', 'data_loss')")
        assert [row.events for row in lost] == [0]
