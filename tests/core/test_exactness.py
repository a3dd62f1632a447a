"""A lever that claims to be exact is compared with the plain step for each model."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ntp.case import Workload
from ntp.core.exactness import check_exact
from ntp.core.language_model import LanguageModel
from ntp.core.losses import ChunkedLoss, DeduplicatedLoss, FullLoss
from ntp.errors import ModelError, StepError

VOCAB, WIDTH = 40, 6
WORKLOAD = Workload(vocab_size=VOCAB, batch_size=8, seq_len=16)
DEDUPLICATED = {"loss deduplicated": "loss full"}
needs_chunked = pytest.mark.skipif(
    not hasattr(nn.functional, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy"
)


class Bigram(nn.Module):
    """Embedding and head, with a module between them."""

    def __init__(self, between: nn.Module | None = None, *, vocab: int = VOCAB, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(vocab, WIDTH), nn.Linear(WIDTH, vocab)
        self.between = between or nn.Identity()
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.between(self.embedding(ids)))


class Does(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class NormOverBatch(nn.BatchNorm1d):
    """Batch normalisation over all positions of a batch, like layers for images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


class CarriesMean(nn.Module):
    """Subtracts the mean of earlier batches, so its first step is that of a model without it."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = x - self.mean.clone()
        mean = x.detach().mean((0, 1))
        if self.in_place:
            self.mean.copy_(mean)
        else:
            self.mean = mean
        return y


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient / gradient.norm()


class _WithAuxiliaryLoss(torch.autograd.Function):
    """The identity, whose backward pass also minimises the mean square of its input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient + 2 * x / x.numel()


def hooked(x: Tensor) -> Tensor:
    """Clips the gradient of each batch as a whole."""
    y = x.clone()
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * (1e-3 / gradient.norm()))
    return y


WHOLE_BATCH = {
    "batch norm": lambda: NormOverBatch(WIDTH),
    "batch norm without parameters": lambda: NormOverBatch(WIDTH, affine=False, track_running_stats=False),
    "mean": lambda: Does(lambda x: x - x.mean((0, 1))),
    "spread": lambda: Does(lambda x: x / x.std()),
    "rows": lambda: Does(lambda x: x / x.shape[0]),
    "share of the batch": lambda: Does(lambda x: x * x.flatten(0, 1).softmax(0).view_as(x)),
    "carried mean": lambda: CarriesMean(in_place=True),
    "carried mean, another tensor": lambda: CarriesMean(in_place=False),
}
GRADIENT_ALONE = {
    "scaled gradient": lambda: Does(_ScaledGradient.apply),
    "auxiliary loss": lambda: Does(_WithAuxiliaryLoss.apply),
    "gradient hook": lambda: Does(hooked),
}
ONE_TOKEN_ALONE = {
    "nothing": nn.Identity,
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "mlp": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH)),
    "gate": lambda: Does(lambda x: x * x.sigmoid()),
    "detached": lambda: Does(lambda x: x + x.detach()),
    "no dropout": lambda: nn.Dropout(0.0),
    "frozen": lambda: nn.Linear(WIDTH, WIDTH).requires_grad_(False),
}


def check(between: nn.Module, workload: Workload = WORKLOAD, **options: bool) -> None:
    model = Bigram(between, vocab=workload.vocab_size, **options).train()
    check_exact(DeduplicatedLoss(LanguageModel(model), workload), LanguageModel(model), workload, DEDUPLICATED)


@pytest.mark.parametrize("name", WHOLE_BATCH)
def test_what_depends_on_the_batch_as_a_whole_is_not_deduplicated(name: str):
    with pytest.raises(StepError, match=r"^loss deduplicated: model 'simple' .*; use loss full$"):
        check(WHOLE_BATCH[name]())


@pytest.mark.parametrize("name", GRADIENT_ALONE)
def test_neither_is_what_has_the_loss_and_another_gradient(name: str):
    with pytest.raises(StepError, match=r"trains differently with it: .* the gradient of embedding.weight differs"):
        check(GRADIENT_ALONE[name]())


sizes = st.builds(
    Workload,
    batch_size=st.integers(1, 9),
    seq_len=st.integers(2, 33),
    vocab_size=st.sampled_from([1, 2, 7, 40, 300]),
)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(ONE_TOKEN_ALONE)), workload=sizes, tied=st.booleans())
@example(
    name="detached", workload=Workload(batch_size=6, seq_len=24, vocab_size=1), tied=True
)  # no gradient but rounding
def test_a_model_of_one_token_alone_is_of_any_size(name: str, workload: Workload, tied: bool):
    check(ONE_TOKEN_ALONE[name](), workload, tied=tied)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(WHOLE_BATCH | GRADIENT_ALONE)), workload=sizes.filter(lambda sizes: sizes.tokens >= 16)
)
def test_whatever_the_sizes_a_batch_is_seen_in_the_loss_or_the_gradient(name: str, workload: Workload):
    with pytest.raises(StepError):
        check((WHOLE_BATCH | GRADIENT_ALONE)[name](), workload.model_copy(update={"vocab_size": VOCAB}))


def test_a_model_in_half_precision_is_held_to_half_precision():
    model = Bigram(nn.LayerNorm(WIDTH)).bfloat16().train()
    check_exact(DeduplicatedLoss(LanguageModel(model), WORKLOAD), LanguageModel(model), WORKLOAD, DEDUPLICATED)
    model = Bigram(NormOverBatch(WIDTH)).bfloat16().train()
    with pytest.raises(StepError, match="trains differently"):
        check_exact(DeduplicatedLoss(LanguageModel(model), WORKLOAD), LanguageModel(model), WORKLOAD, DEDUPLICATED)


@needs_chunked
@pytest.mark.parametrize("name", WHOLE_BATCH | GRADIENT_ALONE | ONE_TOKEN_ALONE)
def test_the_chunked_loss_sees_the_batch_that_training_has(name: str):
    model = Bigram((WHOLE_BATCH | GRADIENT_ALONE | ONE_TOKEN_ALONE)[name](), tied=True).train()
    check_exact(
        ChunkedLoss(LanguageModel(model), WORKLOAD), LanguageModel(model), WORKLOAD, {"loss chunked": "loss full"}
    )


@needs_chunked
def test_dropout_is_no_reason_to_refuse_the_chunked_loss():
    model = Bigram(nn.Dropout(0.5)).train()
    check_exact(
        ChunkedLoss(LanguageModel(model), WORKLOAD), LanguageModel(model), WORKLOAD, {"loss chunked": "loss full"}
    )


class HookedHead(Bigram):
    """A head with a hook on the gradient of its outputs, which the chunked loss never has."""

    def __init__(self) -> None:
        super().__init__()
        self.head.register_full_backward_pre_hook(lambda _, gradients: tuple(2 * gradient for gradient in gradients))


@needs_chunked
def test_a_head_with_a_hook_is_not_gone_around():
    model = HookedHead().train()
    with pytest.raises(StepError, match=r"loss chunked: .*the gradient of .*; use loss full"):
        check_exact(
            ChunkedLoss(LanguageModel(model), WORKLOAD), LanguageModel(model), WORKLOAD, {"loss chunked": "loss full"}
        )


def test_random_numbers_of_the_models_own_leave_nothing_to_check():
    generator = torch.Generator()
    between = Does(lambda x: x + torch.randn(x.shape, generator=generator))
    model = Bigram(between).train()
    with pytest.raises(StepError, match="a different loss or gradient each time"):
        check_exact(FullLoss(LanguageModel(model)), LanguageModel(model), WORKLOAD, {"matmul onednn": "matmul default"})


def test_other_products_are_of_the_path_alone():
    factor = [1.0]

    @contextmanager
    def products():
        factor[0] = 1.01
        yield
        factor[0] = 1.0

    model = Bigram(Does(lambda x: x * factor[0])).train()
    levers = {"loss deduplicated": "loss full", "matmul onednn": "matmul default"}
    with pytest.raises(StepError) as caught:
        check_exact(FullLoss(LanguageModel(model)), LanguageModel(model), WORKLOAD, levers, products)
    assert str(caught.value).startswith("loss deduplicated and matmul onednn: model 'simple' trains differently")
    assert str(caught.value).endswith("; use loss full and matmul default")


def test_a_path_that_cannot_be_run_is_refused_and_a_model_that_cannot_is_too():
    def of_eight_rows(x: Tensor) -> Tensor:
        if x.shape[0] != 8:
            raise ValueError("eight rows, please")
        return x

    class Path(FullLoss):
        def predict(self, inputs: Tensor, targets: Tensor) -> Tensor:
            return super().predict(inputs[:1], targets)

    model = Bigram(Does(of_eight_rows)).train()
    with pytest.raises(StepError, match="failed: ValueError: eight rows, please; use loss full"):
        check_exact(Path(LanguageModel(model)), LanguageModel(model), WORKLOAD, DEDUPLICATED)
    with pytest.raises(ModelError, match="failed in a plain training step: ValueError: eight rows"):
        check_exact(
            Path(LanguageModel(model)),
            LanguageModel(model),
            WORKLOAD.model_copy(update={"batch_size": 7}),
            DEDUPLICATED,
        )


def test_a_loss_that_is_no_number_is_left_to_training():
    model = Bigram(Does(lambda x: x * float("nan"))).train()
    check_exact(FullLoss(LanguageModel(model)), LanguageModel(model), WORKLOAD, {"matmul onednn": "matmul default"})


class Counts(nn.Module):
    """Counts its calls in a buffer and in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls_in_buffer", torch.zeros((), dtype=torch.int64))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls_in_buffer += 1
        self.calls += 1
        return x * (1 + self.calls)


def test_checking_leaves_no_trace():
    model = Bigram(nn.Sequential(Counts(), NormOverBatch(WIDTH)), tied=True).train()
    model(torch.zeros(2, 3, dtype=torch.int64)).sum().backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    rng, calls = torch.get_rng_state(), model.between[0].calls
    parameters = {name: id(parameter) for name, parameter in model.named_parameters()}
    with pytest.raises(StepError):
        check_exact(DeduplicatedLoss(LanguageModel(model), WORKLOAD), LanguageModel(model), WORKLOAD, DEDUPLICATED)
    check_exact(FullLoss(LanguageModel(model)), LanguageModel(model), WORKLOAD, {"matmul onednn": "matmul default"})
    assert model.between[0].calls == calls
    assert torch.equal(torch.get_rng_state(), rng)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == parameters
    assert model.head.weight is model.embedding.weight
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])
