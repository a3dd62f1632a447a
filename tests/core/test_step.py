import math
import os
import shutil
import subprocess
import sys
import weakref
from contextlib import contextmanager, nullcontext
from itertools import islice

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from ntp.case import PHASES, StepConfig, Workload, named_step
from ntp.core.losses import next_token_loss
from ntp.core.model import SimpleNextTokenModel
from ntp.core.step import Training, make_optimizer, train_step
from ntp.errors import DataError, StepError

SMALL = Workload(vocab_size=11, embed_dim=4, hidden_dim=8, batch_size=3, seq_len=5)


@given(
    batch=st.integers(1, 3), length=st.integers(1, 4), vocab=st.integers(1, 6), scale=st.floats(0, 20),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_the_gradient_is_softmax_minus_one_hot(batch: int, length: int, vocab: int, scale: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, length, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (batch, length), generator=generator)
    logits.requires_grad_()
    loss = next_token_loss(logits, targets)
    loss.backward()
    probabilities = logits.detach().softmax(dim=-1)
    torch.testing.assert_close(logits.grad, (probabilities - F.one_hot(targets, vocab)) / (batch * length))
    of_targets = probabilities.gather(-1, targets.unsqueeze(-1))
    torch.testing.assert_close(loss.detach(), -of_targets.log().mean(), rtol=1e-6, atol=1e-9)


def test_a_model_that_knows_nothing_loses_log_v():
    loss = next_token_loss(torch.zeros(2, 3, 1000), torch.randint(0, 1000, (2, 3)))
    assert loss.shape == ()
    assert math.isclose(loss.item(), math.log(1000), rel_tol=1e-6)


def test_a_step_is_the_plain_step_bit_for_bit():
    training = Training.start(SMALL, StepConfig())
    losses = [training.step().item() for _ in range(6)]

    torch.manual_seed(SMALL.seed)
    model = SimpleNextTokenModel(11, 4, 8)
    batches = [torch.randint(0, 11, (3, 6)) for _ in range(6)]  # drawn up front, from the global generator
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    expected = []
    for tokens in batches:
        optimizer.zero_grad()
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, 11), tokens[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses == expected


def test_each_part_of_the_step_is_inside_its_phase():
    training = Training.start(SMALL, StepConfig())
    log: list[str] = []

    @contextmanager
    def phase(name: str):
        log.append(name)
        yield
        log.append(f"/{name}")

    training.model.register_forward_hook(lambda *_: log.append("model"))
    training.optimizer.register_step_post_hook(lambda *_: log.append("update"))
    next(training.model.parameters()).register_hook(lambda _: log.append("gradient"))
    training.step(phase)
    inside = {"forward": ["model"], "backward": ["gradient"], "optimizer": ["update"]}
    assert log == [entry for name in PHASES for entry in (name, *inside.get(name, []), f"/{name}")]


def test_gradients_do_not_add_up_over_steps():
    training = Training.start(SMALL, StepConfig())
    tokens = next(training.batches)
    gradients = []
    for _ in range(2):
        train_step(training.method, torch.optim.SGD(training.model.parameters(), lr=0.0), tokens)
        gradients.append(training.model.output_head.weight.grad.clone())
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_the_loss_is_detached_and_of_before_the_update():
    training = Training.start(SMALL, StepConfig())
    tokens = next(training.batches)
    with torch.no_grad():
        before = next_token_loss(training.model(tokens[:, :-1]), tokens[:, 1:])
    loss = train_step(training.method, training.optimizer, tokens, nullcontext)
    assert loss.shape == ()
    assert not loss.requires_grad
    assert torch.equal(loss, before)


def test_the_prediction_is_let_go_before_the_backward_pass():
    """The gradient of the cross entropy needs no logits, only probabilities."""
    training = Training.start(SMALL, StepConfig())
    logits = []
    training.model.register_forward_hook(lambda _module, _inputs, output: logits.append(weakref.ref(output)))
    alive = []
    training.model.embedding.weight.register_hook(lambda _: alive.append(logits[0]() is not None))
    training.step()
    assert alive == [False]


def test_it_learns_a_batch_by_heart():
    training = Training.start(SMALL.model_copy(update={"embed_dim": 64, "hidden_dim": 64}), StepConfig())
    tokens = torch.arange(6).repeat(3, 1)  # each id has one successor
    losses = [train_step(training.method, training.optimizer, tokens).item() for _ in range(150)]
    assert losses[-1] < 0.1 < losses[0]


@pytest.mark.parametrize(
    ("kind", "foreach", "fused"), [("default", None, None), ("foreach", True, None), ("fused", None, True)]
)
def test_the_optimizer_is_adamw_with_torchs_defaults(kind: str, foreach: bool | None, fused: bool | None):
    model = SimpleNextTokenModel(3, 2, 2)
    options = make_optimizer(model.parameters(), StepConfig(optimizer=kind)).defaults
    expected = torch.optim.AdamW(model.parameters()).defaults
    assert options == {**expected, "lr": 1e-3, "foreach": foreach, "fused": fused}
    assert expected["lr"] == 1e-3


@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_the_kernels_compute_the_same(kind: str):
    losses = [
        [training.step().item() for _ in range(5)]
        for training in (Training.start(SMALL, StepConfig(optimizer=name)) for name in ("default", kind))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_batches_are_the_same_whatever_the_model_draws():
    quiet, noisy = (Training.start(SMALL, StepConfig()) for _ in range(2))
    for training, drawn in ((quiet, 0), (noisy, 5)):
        training.step()
        torch.rand(drawn)
    assert all(torch.equal(a, b) for a, b in zip(islice(quiet.batches, 3), islice(noisy.batches, 3), strict=True))


def test_training_starts_in_training_mode(tmp_path):
    path = tmp_path / "evaluated.py"
    path.write_text("from torch import nn\ndef make(vocab_size): return nn.Embedding(vocab_size, vocab_size).eval()")
    assert Training.start(SMALL.model_copy(update={"model": f"{path}:make"}), StepConfig()).model.training


def test_what_is_wrong_is_found_before_any_step(tmp_path):
    with pytest.raises(DataError, match="not found"):
        Training.start(SMALL.model_copy(update={"data": f"file:{tmp_path / 'none'}"}), StepConfig())


def losses_of(name: str, steps: int, workload: Workload = SMALL) -> list[float]:
    training = start(name, workload)
    return [training.step().item() for _ in range(steps)]


def start(name: str, workload: Workload = SMALL) -> Training:
    """Start a training with a named step, or skip the test: not every machine has every lever."""
    try:
        return Training.start(workload, named_step(name))
    except StepError as error:
        pytest.skip(str(error))


def gradients_of(training: Training) -> list[torch.Tensor]:
    training.step()
    return [parameter.grad for parameter in training.model.parameters()]


EXACT = ["onednn", "deduplicated", "chunked", "onednn+chunked+foreach", "onednn+deduplicated+fused"]


@pytest.mark.parametrize("name", EXACT)
def test_what_calls_itself_exact_has_the_losses_and_gradients_of_the_plain_step(name: str):
    workload = Workload(batch_size=8, seq_len=32, vocab_size=200, embed_dim=48, hidden_dim=64)
    assert named_step(name).exact
    assert losses_of(name, 8, workload) == pytest.approx(losses_of("eager", 8, workload), abs=2e-5)
    for actual, expected in zip(
        gradients_of(start(name, workload)), gradients_of(start("eager", workload)), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bf16", "bf16-matmul", "bf16+deduplicated"])
def test_what_rounds_to_bf16_says_so_and_is_off_by_no_more_than_that(name: str):
    workload = Workload(batch_size=8, seq_len=32, vocab_size=200, embed_dim=48, hidden_dim=64)
    assert not named_step(name).exact
    actual, expected = gradients_of(start(name, workload)), gradients_of(start("eager", workload))
    assert losses_of(name, 8, workload) == pytest.approx(losses_of("eager", 8, workload), rel=2**-8)
    for gradient, exact in zip(actual, expected, strict=True):
        # bf16 has 8 bits: 2^-9 for a number, and several in sequence.
        assert (gradient - exact).norm() <= 0.03 * exact.norm()


def test_global_settings_are_as_before_after_a_step():
    before = torch.get_float32_matmul_precision()
    start("onednn+deduplicated").step()
    assert torch.get_float32_matmul_precision() == before
    start("bf16").step()
    assert not torch.is_autocast_enabled("cpu")


def test_a_model_that_looks_around_is_refused_before_any_step(tmp_path):
    path = tmp_path / "around.py"
    path.write_text(
        "import torch\n"
        "class Mean(torch.nn.Embedding):\n"
        "    def forward(self, ids): return super().forward(ids).cumsum(1)\n"
        "def make(vocab_size): return Mean(vocab_size, vocab_size)\n"
    )
    with pytest.raises(StepError, match="not context-free"):
        Training.start(SMALL.model_copy(update={"model": f"{path}:make"}), named_step("deduplicated"))


def test_without_a_compiler_there_is_nothing_to_compile_with(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(StepError, match="compile needs a C\\+\\+ compiler, but there is no no-such-compiler"):
        Training.start(SMALL, named_step("compile:model"))


@pytest.mark.skipif(not any(map(shutil.which, ["g++", "clang++", "c++"])), reason="torch.compile needs a C++ compiler")
@pytest.mark.long
def test_a_compiled_step_trains_as_a_plain_one(tmp_path):
    """In a separate process, with which everything that compiling starts ends."""
    path = tmp_path / "bigram.py"  # little, since every kernel takes seconds to compile
    path.write_text(
        "from torch import nn\n"
        "def make(vocab_size, embed_dim):\n"
        "    return nn.Sequential(nn.Embedding(vocab_size, embed_dim), nn.Linear(embed_dim, vocab_size))\n"
    )
    workload = Workload(model=f"{path}:make", vocab_size=50, embed_dim=8, batch_size=2, seq_len=16)
    plain = Training.start(workload, StepConfig())
    script = (
        "import sys; from ntp.case import Workload, named_step; from ntp.core.step import Training\n"
        "workload = Workload.model_validate_json(sys.argv[1])\n"
        "training = Training.start(workload, named_step('deduplicated+compile:step'))\n"
        "print(*(training.step().item() for _ in range(4)))\n"
    )
    # Neither a pool of compilers, each of which imports torch first, nor programs that try out the instruction sets.
    quick = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_VEC_ISA_OK": "1"}
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)} | quick
    command = [sys.executable, "-c", script, workload.model_dump_json()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    losses = [float(loss) for loss in done.stdout.split()]
    assert losses == pytest.approx([plain.step().item() for _ in range(4)], abs=1e-5)
