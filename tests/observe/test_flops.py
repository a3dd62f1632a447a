"""Floating-point operations: counted, and from the sizes."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ntp.case import PHASES, StepConfig, Workload, named_step
from ntp.core.language_model import LanguageModel
from ntp.core.losses import ROWS, FullLoss
from ntp.core.step import Method, Training
from ntp.observe.flops import flop_pass
from ntp.records.peaks import closed_form_flops

GPT2 = str(Path(__file__).parents[2] / "examples/gpt2.py") + ":tiny"


def test_the_default_workload_takes_19_gflop():
    assert closed_form_flops(Workload()) == 19_176_357_888


def test_other_models_have_no_closed_form():
    assert closed_form_flops(Workload(model="examples/gpt2.py:tiny")) is None


@pytest.mark.parametrize(
    "workload",
    [
        Workload(batch_size=2, seq_len=8, vocab_size=30, embed_dim=8, hidden_dim=16),
        Workload(batch_size=1, seq_len=1, vocab_size=5, embed_dim=3, hidden_dim=7),
        Workload(batch_size=5, seq_len=3, vocab_size=17, embed_dim=16, hidden_dim=4),
    ],
    ids=["usual", "one token", "narrow"],
)
@pytest.mark.parametrize("steps_before", [0, 1])
def test_the_closed_form_is_exactly_what_torch_counts(workload, steps_before):
    training = Training.start(workload, StepConfig())
    for _ in range(steps_before):
        training.step()
    count = flop_pass(training)
    assert count.total_flops == closed_form_flops(workload)
    by_phase = {phase.name: phase.flops for phase in count.phases}
    third = count.total_flops // 3
    assert by_phase == dict.fromkeys(PHASES, 0) | {"forward": third, "backward": 2 * third}
    assert [operator.name for operator in count.operators] == ["aten::mm", "aten::addmm"]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 9))
def test_the_closed_form_is_linear_in_tokens(batch_size, seq_len, times):
    once = closed_form_flops(Workload(batch_size=batch_size, seq_len=seq_len))
    assert closed_form_flops(Workload(batch_size=batch_size * times, seq_len=seq_len)) == times * once


class Attention(nn.Module):
    """One matrix product from ids to logits, and one attention that adds to them."""

    def __init__(self, heads, size):
        super().__init__()
        self.heads, self.size = heads, size
        self.embedding = nn.Embedding(11, heads * size)
        self.head = nn.Linear(heads * size, 11)

    def forward(self, ids):
        x = self.embedding(ids).unflatten(2, (self.heads, self.size)).transpose(1, 2)
        x = nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.head(x.transpose(1, 2).flatten(2))


def test_the_fused_attention_of_cpus_counts():
    workload = Workload(vocab_size=11, batch_size=2, seq_len=8)
    training = Training.start(workload, StepConfig())
    training.method = Method(FullLoss(LanguageModel(Attention(heads=3, size=4))))
    count = flop_pass(training)
    flops = {operator.name: operator.flops for operator in count.operators}
    product = 2 * 2 * 3 * 8 * 8 * 4  # 2 B heads T T size
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert flops[attention] == 2 * product
    assert flops[f"{attention}_backward"] == 5 * product


def test_a_model_of_someone_elses():
    pytest.importorskip("transformers")
    training = Training.start(Workload(model=GPT2, vocab_size=50, batch_size=2, seq_len=8), StepConfig())
    count = flop_pass(training)
    by_phase = {phase.name: phase.flops for phase in count.phases}
    assert count.total_flops == sum(by_phase.values())
    # 12 E^2 weights a layer in matrix products, two layers, and the head's E V; attention comes on top.
    assert by_phase["forward"] > 2 * 16 * (2 * 12 * 128**2 + 128 * 50)
    assert by_phase["backward"] >= 2 * by_phase["forward"]


def test_counting_trains_like_any_other_step():
    workload = Workload(batch_size=2, seq_len=8, vocab_size=30, embed_dim=8, hidden_dim=16)
    counted, plain = (Training.start(workload, StepConfig()) for _ in range(2))
    flop_pass(counted)
    plain.step()
    assert torch.equal(counted.step(), plain.step())


@pytest.mark.parametrize("name", ["deduplicated", "chunked"])
def test_other_losses_count_what_they_compute(name):
    """The chunked loss computes what the full one does, its products with the loss; distinct rows are others."""
    workload = Workload(batch_size=8, seq_len=16, vocab_size=40, embed_dim=8, hidden_dim=16)
    if name == "chunked" and not hasattr(nn, "LinearCrossEntropyOptions"):
        pytest.skip("this torch has no linear_cross_entropy")
    training = Training.start(workload, named_step(name))
    ids = next(training.batches)[:, :-1]
    training = Training.start(workload, named_step(name))
    rows = -(-len(ids.unique()) // ROWS) * ROWS if name == "deduplicated" else ids.numel()
    count = flop_pass(training)
    assert count.total_flops == closed_form_flops(workload) * rows // ids.numel()
    by_phase = {phase.name: phase.flops for phase in count.phases}
    assert (by_phase["loss"] > 0) == (name == "chunked")
