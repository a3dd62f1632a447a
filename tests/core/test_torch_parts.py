"""A torch that lacks what ntp looks for."""

from types import SimpleNamespace

import pytest
import torch

from ntp.case import StepConfig, Workload
from ntp.core.step import Training
from ntp.core.torch_parts import part_of
from ntp.errors import TorchError
from ntp.observe import flops, probe, profiler, tensors

SMALL = Workload(vocab_size=11, embed_dim=4, hidden_dim=8, batch_size=2, seq_len=4)


@pytest.fixture
def training():
    return Training.start(SMALL, StepConfig())


def test_what_is_there_is_found():
    assert part_of(torch, "nn.Linear") is torch.nn.Linear


def test_what_is_not_there_is_named_with_the_torch_and_the_remedy():
    with pytest.raises(TorchError) as failure:
        part_of(torch, "_C._none.Such")
    assert str(failure.value) == (
        f"this torch ({torch.__version__}) has no torch._C._none.Such, which this needs: install the torch that "
        "ntp is tested with (ntp doctor names it)"
    )


def test_an_operator_that_torch_does_not_know_is_not_there():
    with pytest.raises(TorchError, match=r"has no torch\.ops\.mkldnn._none"):
        part_of(torch, "ops.mkldnn._none")


@pytest.mark.parametrize(
    ("module", "missing", "look"),
    [
        (tensors, "_C._profiler._EventType.Allocation", lambda training: tensors.tensor_pass(training)),
        (profiler, "_C._jit_get_schemas_for_operator", lambda training: profiler.operator_pass(training, 1)),
    ],
)
def test_an_observer_says_what_it_misses(training, monkeypatch, module, missing, look):
    def without(owner, path, *name):
        return part_of(SimpleNamespace() if path == missing else owner, path, *name)

    monkeypatch.setattr(module, "part_of", without)
    profiler._gives_a_view.cache_clear()
    with pytest.raises(TorchError, match=f"has no torch.{missing}"):
        look(training)


def test_an_attention_that_torch_has_not_needs_no_formula(training, monkeypatch):
    monkeypatch.setattr(torch.ops, "aten", SimpleNamespace())
    assert flops._formulas_torch_lacks(training) == {}


def test_the_peak_says_what_it_misses(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    with pytest.raises(TorchError, match=r"has no torch\.ops\.mkldnn._linear_pointwise"):
        probe._through_onednn(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2))
