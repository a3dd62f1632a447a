"""Tensor memory against what the shapes say.

Letters: N = B*T tokens of a batch, V vocabulary size, E embedding size, H hidden size. A number takes 4 bytes.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ntp.case import PHASES, StepConfig, Workload
from ntp.core.language_model import LanguageModel
from ntp.core.losses import FullLoss
from ntp.core.step import Method, Training, make_optimizer
from ntp.observe.tensors import MAX_POINTS, denormals, held_storages, tensor_pass, thinned_out
from ntp.records.observations import LiveBytes

GPT2 = str(Path(__file__).parents[2] / "examples/gpt2.py") + ":tiny"
N, V, E, H = 8 * 64, 200, 32, 64
WORKLOAD = Workload(batch_size=8, seq_len=64, vocab_size=V, embed_dim=E, hidden_dim=H)
PARAMETERS = V * E + (E * H + H) + (H * E + E) + E * V


def trained(workload, model=None):
    training = Training.start(workload, StepConfig())
    if model is not None:
        training.language_model = LanguageModel(model)
        training.method = Method(FullLoss(training.language_model))
        training.optimizer = make_optimizer(model.parameters(), StepConfig())
    training.step()
    return training


@pytest.fixture(scope="module")
def memory():
    return tensor_pass(trained(WORKLOAD))


def test_before_the_step_there_is_what_training_keeps(memory):
    kept = memory.baseline
    assert kept.parameters == 4 * PARAMETERS
    assert kept.gradients == 4 * PARAMETERS
    assert kept.optimizer_state == 2 * 4 * PARAMETERS + 6 * 4  # AdamW: two moments, and a step count for each tensor
    assert kept.total_bytes == kept.parameters + kept.gradients + kept.optimizer_state


def test_the_peak_is_what_the_shapes_say(memory):
    """It is in the backward pass of the softmax, with V the largest size.

    Alive then: of the forward pass the embedding (N, E), ReLU's output (N, H), the MLP's output (N, E) and the
    log-softmax (N, V); the gradients of that and of the logits, (N, V) each. The logits: freed by ``train_step``. The
    gradients of parameters: freed by zero_grad, and none made yet.
    """
    peak = memory.peak
    assert memory.peak_phase == "backward"
    assert peak.gradients == 0
    assert peak.inputs == 8 * 65 * 8  # (B, T+1) int64
    assert peak.activations == pytest.approx(4 * N * (E + H + E + V), rel=0.05)
    assert peak.temporaries == pytest.approx(4 * N * (V + V), rel=0.05)
    assert memory.peak_bytes == pytest.approx(4 * (3 * PARAMETERS + N * (2 * E + H + 3 * V)), rel=0.05)


def test_phases_end_with_what_the_shapes_say(memory):
    live = {phase.phase: phase.live_bytes for phase in memory.phases}
    batch = 8 * 65 * 8
    assert list(live) == list(PHASES)
    assert live["data"] == memory.baseline.total_bytes + batch
    assert live["zero_grad"] == live["data"] - memory.baseline.gradients
    assert live["forward"] == pytest.approx(live["zero_grad"] + 4 * N * (2 * E + H + V), rel=0.05)
    assert live["loss"] == pytest.approx(live["forward"] + 4 * N * V, rel=0.05)
    assert live["optimizer"] == pytest.approx(memory.baseline.total_bytes, rel=0.05)


def test_no_phase_peaks_above_the_peak_or_below_what_it_ends_with(memory):
    peaks = {phase.phase: phase.peak_bytes for phase in memory.phases}
    assert max(peaks.values()) == peaks[memory.peak_phase] == memory.peak_bytes
    assert all(phase.peak_bytes >= phase.live_bytes for phase in memory.phases)


def test_the_timeline_begins_and_ends_with_what_training_keeps(memory):
    times_ns = [point.time_ns for point in memory.timeline]
    assert times_ns[0] == 0
    assert times_ns == sorted(times_ns)
    assert len(times_ns) <= MAX_POINTS
    assert memory.timeline[0].live_bytes == memory.baseline.total_bytes
    assert memory.timeline[-1].live_bytes == memory.baseline.total_bytes  # a step leaves nothing behind


def test_phases_follow_one_another_within_the_step(memory):
    """The peak of the phase that holds the step's is found in the timeline between the phase's bounds."""
    bounds_ns = [bound for phase in memory.phases for bound in (phase.start_ns, phase.end_ns)]
    assert bounds_ns == sorted(bounds_ns)
    assert bounds_ns[0] >= 0
    assert bounds_ns[-1] <= memory.timeline[-1].time_ns
    (peak,) = (phase for phase in memory.phases if phase.phase == memory.peak_phase)
    within = [point.live_bytes for point in memory.timeline if peak.start_ns <= point.time_ns <= peak.end_ns]
    assert max(within) == peak.peak_bytes


def test_two_steps_are_alike():
    training = trained(WORKLOAD)
    assert tensor_pass(training).peak == tensor_pass(training).peak


class Odd(nn.Module):
    """What a model may do: a large temporary in forward, a buffer, tied weights, a tensor kept from step to step."""

    TEMPORARY, BUFFER, KEPT = 3_000_000, 500, 700  # numbers of 4 bytes

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, E)
        self.head = nn.Linear(E, V, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(self.BUFFER))
        self.dropout = nn.Dropout(0.1)

    def forward(self, ids):
        self.kept = torch.zeros(self.KEPT)
        scale = torch.ones(self.TEMPORARY).mean()
        return self.head(self.dropout(self.embedding(ids))) * scale


def test_each_byte_is_what_it_is_for():
    memory = tensor_pass(trained(WORKLOAD, Odd()))
    assert memory.baseline.parameters == memory.baseline.gradients == 4 * V * E  # tied: once
    assert memory.baseline.buffers == 4 * Odd.BUFFER
    assert memory.baseline.other == 4 * Odd.KEPT
    assert memory.peak_phase == "forward"
    assert memory.peak.temporaries == pytest.approx(4 * Odd.TEMPORARY, rel=0.001)
    assert memory.peak.other == 0  # replaced before the peak


def test_gradients_count_as_such_from_the_time_they_are_made():
    """One token of a large vocabulary: the peak is the optimizer's, when all gradients are there."""
    memory = tensor_pass(trained(Workload(batch_size=1, seq_len=1, vocab_size=5000, embed_dim=32, hidden_dim=8)))
    assert memory.peak_phase == "optimizer"
    assert memory.peak.gradients == memory.baseline.gradients == memory.peak.parameters
    assert memory.peak.temporaries > 4 * 5000 * 32  # what AdamW divides by


def test_the_first_step_of_a_training_may_be_watched():
    memory = tensor_pass(Training.start(WORKLOAD, StepConfig()))
    assert memory.baseline.optimizer_state == 2 * 4 * PARAMETERS + 6 * 4


def test_views_share_a_storage():
    training = trained(WORKLOAD)
    before = held_storages(training)
    training.model.register_buffer("row", training.model.embedding.weight.detach()[0])
    assert held_storages(training) == before


def test_a_model_of_someone_elses():
    pytest.importorskip("transformers")
    training = trained(Workload(model=GPT2, vocab_size=50, batch_size=2, seq_len=16))
    memory = tensor_pass(training)
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    assert memory.baseline.parameters == memory.baseline.gradients == 4 * parameters
    assert memory.timeline[-1].live_bytes == memory.baseline.total_bytes
    assert memory.peak.activations > 0


timelines = st.lists(st.integers(0, 50), min_size=1, max_size=200).map(
    lambda sizes: [LiveBytes(time_ns=at, live_bytes=size) for at, size in enumerate(sizes)]
)


@given(timelines, st.integers(4, 60))
def test_a_thinned_out_timeline_keeps_ends_extremes_and_order(points, most):
    kept = thinned_out(points, most)
    assert len(kept) <= most
    assert set(kept) <= set(points)
    assert [point.time_ns for point in kept] == sorted({point.time_ns for point in kept})
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    for extreme in (max, min):
        assert extreme(point.live_bytes for point in kept) == extreme(point.live_bytes for point in points)


@given(timelines)
def test_a_short_timeline_is_left_alone(points):
    assert thinned_out(points, len(points) + 3) == tuple(points)


def test_a_training_has_hardly_any_denormal_numbers():
    assert denormals(trained(WORKLOAD)).share < 0.001


def filled(training, parameter=1.0, gradient=1.0, state=1.0):
    """All that the training holds between steps, set to these numbers."""
    with torch.no_grad():
        for weight in training.model.parameters():
            weight.fill_(parameter)
            weight.grad.fill_(gradient)
            for name, tensor in training.optimizer.state[weight].items():
                tensor.fill_(1.0 if name == "step" else state)
    return training


HELD = 4 * PARAMETERS + 6  # parameters, gradients, AdamW's two moments, and its step count for each of six tensors


@pytest.mark.parametrize(
    ("numbers", "small"),
    [
        ({}, 0),
        ({"parameter": 1e-40, "gradient": -1e-40, "state": 1e-45}, 4 * PARAMETERS),
        ({"parameter": 1e-40}, PARAMETERS),
        ({"gradient": -1e-40}, PARAMETERS),
        ({"state": 1e-40}, 2 * PARAMETERS),
        ({"parameter": 0.0, "gradient": torch.finfo(torch.float32).tiny, "state": -0.0}, 0),
        ({"parameter": float("nan"), "gradient": float("inf")}, 0),
    ],
)
def test_denormal_numbers_are_those_between_zero_and_the_smallest_normal_one(numbers, small):
    assert denormals(filled(trained(WORKLOAD), **numbers)).share == pytest.approx(small / HELD)


def test_each_type_has_its_own_smallest_normal_number():
    """1e-6 is denormal in fp16 alone."""
    training = trained(WORKLOAD, nn.Embedding(V, V))
    filled(training, parameter=1e-6, gradient=1e-6, state=1e-6)
    assert denormals(training).share == 0
    training.model.half()
    assert 0.4 < denormals(training).share < 0.6  # the moments remained fp32


def test_a_training_that_has_not_begun_holds_its_parameters_alone():
    training = Training.start(WORKLOAD, StepConfig())
    with torch.no_grad():
        training.model.embedding.weight.fill_(1e-40)
    assert denormals(training).share == pytest.approx(V * E / PARAMETERS)


def test_without_a_number_there_is_no_denormal_one():
    model, optimizer = nn.Identity(), torch.optim.SGD([torch.zeros(1)])
    training = Training(
        LanguageModel(model), Method(FullLoss(LanguageModel(model))), optimizer, iter(()), torch.Generator()
    )
    assert denormals(training).share == 0
