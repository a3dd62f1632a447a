import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ntp.case import Workload
from ntp.core.language_model import evaluating
from ntp.core.model import SimpleNextTokenModel, load_model, parameter_count
from ntp.errors import ModelError

SMALL = {"vocab_size": 11, "embed_dim": 3, "hidden_dim": 5, "batch_size": 2, "seq_len": 4}
EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt2.py"


def small(model: str, **sizes: int) -> Workload:
    return Workload(model=model, **{**SMALL, **sizes})


def write(directory: Path, body: str, name: str = "mine.py") -> str:
    (directory / name).write_text(f"import torch\nfrom torch import nn\n{body}\n")
    return f"{directory / name}:make"


def test_the_simple_model_has_the_parameters_it_was_specified_with():
    model = SimpleNextTokenModel()
    embedding, hidden, back, head = 1000 * 256, 256 * 1024 + 1024, 1024 * 256 + 256, 256 * 1000
    assert parameter_count(model) == embedding + hidden + back + head == 1_037_568
    assert [name for name, _ in model.named_children()] == ["embedding", "mlp", "output_head"]
    assert [type(part) for part in model.mlp] == [nn.Linear, nn.ReLU, nn.Linear]
    assert model.output_head.bias is None


def test_its_initialisation_is_torchs_default_in_the_order_of_its_parts():
    torch.manual_seed(3)
    model = SimpleNextTokenModel(7, 3, 5)
    torch.manual_seed(3)
    parts = [nn.Embedding(7, 3), nn.Linear(3, 5), nn.Linear(5, 3), nn.Linear(3, 7, bias=False)]
    expected = [parameter for part in parts for parameter in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected, strict=True))


def test_each_position_sees_its_own_token_alone():
    model = SimpleNextTokenModel(7, 3, 5)
    logits = model(torch.tensor([[1, 2, 1], [2, 2, 0]]))  # (2, 3, 7)
    assert logits.shape == (2, 3, 7)
    torch.testing.assert_close(logits[0, 0], logits[0, 2])
    torch.testing.assert_close(logits[0, 1], logits[1, 0])
    x = model.embedding.weight[2]
    expected = model.output_head.weight @ (
        model.mlp[2].weight @ torch.relu(model.mlp[0].weight @ x + model.mlp[0].bias) + model.mlp[2].bias
    )
    torch.testing.assert_close(logits[0, 1], expected)


def test_simple_is_a_short_name_for_a_spec_like_any_other():
    torch.manual_seed(0)
    short = load_model(small("simple")).module
    torch.manual_seed(0)
    long = load_model(small("ntp.core.model:SimpleNextTokenModel")).module
    assert type(short) is type(long) is SimpleNextTokenModel
    assert all(torch.equal(a, b) for a, b in zip(short.parameters(), long.parameters(), strict=True))


def test_a_factory_gets_the_sizes_that_it_names_and_no_others(tmp_path):
    body = """
def make(seq_len, vocab_size=1, *, width=2, **rest):
    model = nn.Sequential(nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size))
    model.got = (seq_len, vocab_size, width, rest)
    return model
"""
    assert load_model(small(write(tmp_path, body))).module.got == (4, 11, 2, {})


def test_a_module_in_the_current_directory_is_found_and_the_path_is_left_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "ntp_test_helper.py").write_text("WIDTH = 6")
    body = "def make(vocab_size):\n    import ntp_test_helper\n    return nn.Embedding(vocab_size, vocab_size)"
    write(tmp_path, body, "ntp_test_models.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in {"", str(tmp_path)}])
    before = list(sys.path)
    try:
        assert isinstance(load_model(small("ntp_test_models:make")).module, nn.Embedding)
    finally:
        sys.modules.pop("ntp_test_models", None)
        sys.modules.pop("ntp_test_helper", None)
    assert sys.path == before


def test_the_probe_leaves_no_trace(tmp_path):
    body = """
def draw(*_):
    torch.rand(3)

def make(vocab_size):
    model = nn.Sequential(nn.Embedding(vocab_size, vocab_size), nn.Dropout(0.5), nn.BatchNorm1d(4))
    model[2].eval()
    model.register_forward_hook(draw)
    return model
"""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    nn.Embedding(11, 11)
    nn.BatchNorm1d(4)
    after_building = torch.get_rng_state()
    torch.set_rng_state(state)
    model = load_model(small(write(tmp_path, body))).module
    assert torch.equal(torch.get_rng_state(), after_building)
    assert (model.training, model[1].training, model[2].training) == (True, True, False)
    assert torch.equal(model[2].running_mean, torch.zeros(4))


def test_evaluating_restores_even_after_an_error():
    model = nn.Sequential(nn.Dropout(0.5))
    with evaluating(model):
        assert not model[0].training
        assert not torch.is_grad_enabled()
    assert model[0].training
    with pytest.raises(ZeroDivisionError), evaluating(model):
        raise ZeroDivisionError
    assert model[0].training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("make = 3", "not callable, it is a int"),
        ("other = 3", "has no 'make'"),
        ("1 / 0", "importing .* failed: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "importing .* failed: SystemExit: 3"),
        ("import ntp_no_such_module", "importing .* failed: ModuleNotFoundError"),
        ("def make(layers): pass", "factory failed: TypeError: .*layers"),
        ("def make(): raise ValueError('first\\nsecond')", "factory failed: ValueError: first$"),
        ("def make(): raise GeneratorExit", "factory failed: GeneratorExit: no message"),
        ("class Odd(BaseException): pass\ndef make(): raise Odd('odd')", "factory failed: Odd: odd"),
        ("def make(): return 3", "factory returned int, not a torch.nn.Module"),
        ("def make(): return nn.ReLU()", "nothing to train"),
        ("def make(): return nn.Linear(3, 3)", "its forward failed on \\(2, 4\\) ids: RuntimeError"),
        ("def make(): return nn.Embedding(10, 11)", "vocabulary is too small, it has no id 10"),
        ("def make(): return nn.Embedding(11, 10)", "vocabulary is too small, 10 logits a position"),
        ("def make(): return nn.Sequential(nn.Embedding(11, 11), nn.Flatten())", r"gave \(2, 44\)"),
        ("class make(nn.Embedding):\n    def __init__(s): super().__init__(11, 11)\n"
         "    def forward(s, x): return super().forward(x).transpose(0, 1)", r"gave \(4, 2, 11\)"),
        ("class make(nn.Embedding):\n    def __init__(s): super().__init__(11, 11)\n"
         "    def forward(s, x): return super().forward(x).long()", "floating-point"),
        ("class make(nn.Embedding):\n    def __init__(s): super().__init__(11, 11)\n"
         "    def forward(s, x): return (None, super().forward(x))", "returned tuple: .*a tensor, a tuple that begins"),
        ("class make(nn.Embedding):\n    def __init__(s): super().__init__(11, 11)\n"
         "    def forward(s, x): return [][0]", "IndexError"),
        ("def make(): torch.set_grad_enabled(False); return nn.Embedding(11, 11)", r"its code calls torch.set_grad"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_used_is_refused_in_one_line(tmp_path, body: str, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(small(write(tmp_path, body)))
    assert "\n" not in str(caught.value)


def test_ctrl_c_while_the_model_is_built_stays_what_it_is(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        load_model(small(write(tmp_path, "def make(): raise KeyboardInterrupt")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ntp_no_such_module:make", "no module 'ntp_no_such_module'"),
        ("ntp.no_such_module:make", "no module 'ntp.no_such_module'"),
        ("no/such/file.py:make", "no file 'no/such/file.py'"),
        ("torch.nn:NoSuchClass", "torch.nn has no 'NoSuchClass'; name a factory that it defines"),
        ("profile:make", "profile has no 'make'; that name is taken by another module, name the file: profile.py:make"),
        (".relative:make", "importing .relative failed"),
    ],
)
def test_a_model_that_is_not_there_is_refused(spec: str, message: str):
    with pytest.raises(ModelError, match=message):
        load_model(small(spec))


def test_a_vocabulary_that_is_larger_than_asked_for_is_fine(tmp_path):
    model = load_model(small(write(tmp_path, "def make(vocab_size): return nn.Embedding(64, 64)")))
    assert model.logits(torch.tensor([[10]])).shape == (1, 1, 64)


def test_gpt2_of_transformers_is_a_model_like_any_other():
    pytest.importorskip("transformers")
    model = load_model(small(f"{os.path.relpath(EXAMPLE)}:tiny", seq_len=16))
    assert type(model.module).__name__ == "GPT2LMHeadModel"
    assert model.logits(torch.zeros(2, 16, dtype=torch.int64)).shape == (2, 16, 11)
