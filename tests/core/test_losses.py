"""Loss paths: what each computes compared with the plain one, and which models it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ntp.case import Workload
from ntp.core.language_model import LanguageModel
from ntp.core.losses import (
    ROWS,
    ChunkedLoss,
    DeduplicatedLoss,
    FullLoss,
    check_context_free,
    distinct,
    find_head,
    weighted_cross_entropy,
)
from ntp.core.losses import Distinct as Predicted
from ntp.core.model import SimpleNextTokenModel
from ntp.errors import StepError

VOCAB = 11
WORKLOAD = Workload(vocab_size=VOCAB, embed_dim=4, hidden_dim=8, batch_size=3, seq_len=5)
needs_chunked = pytest.mark.skipif(
    not hasattr(nn.functional, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy"
)


def simple() -> SimpleNextTokenModel:
    torch.manual_seed(0)
    return SimpleNextTokenModel(VOCAB, 4, 8)


def loss_and_gradients(path: FullLoss | ChunkedLoss | DeduplicatedLoss, model: nn.Module, tokens: Tensor):
    model.zero_grad()
    loss = path.loss(path.predict(tokens[:, :-1]), tokens[:, 1:])
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@st.composite
def tokens_of_any_kind(draw: st.DrawFn) -> Tensor:
    """``(B, T+1)`` ids: one token or many, from few ids or all, as a view of longer rows, like in training."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    ids = st.integers(0, draw(st.sampled_from([0, 1, VOCAB - 1])))
    rows = draw(st.lists(st.lists(ids, min_size=length + 1, max_size=length + 1), min_size=batch, max_size=batch))
    tokens = torch.tensor(rows)
    if draw(st.booleans()):
        tokens = tokens.t().contiguous().t()  # the same numbers, column by column
    return tokens


@settings(max_examples=60)
@given(tokens_of_any_kind())
@pytest.mark.parametrize("kind", [DeduplicatedLoss, pytest.param(ChunkedLoss, marks=needs_chunked)])
def test_loss_and_gradients_are_those_of_the_full_path(kind, tokens):
    model = simple()
    expected_loss, expected = loss_and_gradients(FullLoss(LanguageModel(model)), model, tokens)
    loss, gradients = loss_and_gradients(kind(LanguageModel(model), WORKLOAD), model, tokens)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7, msg=name)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_distinct_is_unique_and_padded(ids):
    ids = torch.tensor(ids)
    there, rows, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    padded_ids, padded_counts, found_rows = distinct(ids)
    assert torch.equal(found_rows, rows)
    for padded, expected in ((padded_ids, there), (padded_counts, counts)):
        assert len(padded) % ROWS == 0
        assert len(padded) - len(expected) < ROWS
        assert torch.equal(padded[: len(expected)], expected)
        assert not padded[len(expected) :].any()


def test_the_weighted_loss_has_the_gradient_that_differences_have():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, requires_grad=True)
    rows, targets = torch.tensor([0, 0, 2, 1, 0]), torch.tensor([3, 3, 0, 1, 2])
    loss = weighted_cross_entropy(Predicted(logits, torch.tensor([3, 1, 1]), rows), targets)
    loss.backward()
    for i in range(3):
        for j in range(4):
            step = torch.zeros(3, 4)
            step[i, j] = 1e-2
            up, down = (nn.functional.cross_entropy((logits.detach() + sign * step)[rows], targets) for sign in (1, -1))
            assert logits.grad[i, j].item() == pytest.approx((up - down).item() / 2e-2, abs=1e-4)


@given(
    st.integers(1, 5), st.integers(1, 7), st.integers(1, 20), st.sampled_from([0.0, 1.0, 30.0, 300.0, 3000.0]),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_the_weighted_loss_is_the_cross_entropy_of_all_positions(tokens, vocab, positions, scale, sliced, seed):
    """Probabilities may be too small for fp32, and a model may return a part of its logits."""
    generator = torch.Generator().manual_seed(seed)
    wide = scale * torch.randn(tokens, vocab + 3, generator=generator)
    logits = wide[:, :vocab] if sliced else wide[:, :vocab].clone()
    rows, targets = (torch.randint(0, most, (positions,), generator=generator) for most in (tokens, vocab))
    expected, actual = (logits.detach().requires_grad_() for _ in range(2))
    expected_loss = nn.functional.cross_entropy(expected[rows], targets)
    expected_loss.backward()
    loss = weighted_cross_entropy(Predicted(actual, torch.bincount(rows, minlength=tokens), rows), targets)
    loss.backward()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logits", [[0.0, 200.0], [math.nan, 0.0], [math.inf, 0.0], [-math.inf, 0.0]])
def test_the_weighted_loss_of_what_is_hardly_probable_is_not_cut_off(logits):
    """The first is 200 nats, at a probability that fp32 does not have."""
    one = Predicted(torch.tensor([logits]), torch.tensor([1]), torch.tensor([0]))
    expected = nn.functional.cross_entropy(torch.tensor([logits]), torch.tensor([0]))
    torch.testing.assert_close(weighted_cross_entropy(one, torch.tensor([0])), expected, equal_nan=True)


def test_the_gradient_of_one_token_a_row_is_not_copied():
    """The logits of (N, 1) tokens become (N, V) by a view: taking the only position would fill a tensor with zeros."""
    path = DeduplicatedLoss(LanguageModel(simple()), WORKLOAD)
    assert "Select" not in type(path.predict(torch.tensor([[1, 2, 1]])).logits.grad_fn).__name__


def test_the_weighted_loss_of_half_precision_is_computed_in_full():
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16, requires_grad=True)
    loss = weighted_cross_entropy(Predicted(logits, torch.tensor([2]), torch.tensor([0, 0])), torch.tensor([5, 6]))
    assert loss.item() == pytest.approx(math.log(1000), rel=1e-6)
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16


def test_the_loss_is_scaled_in_its_gradient():
    logits = torch.zeros(1, 2, requires_grad=True)
    one = Predicted(logits, torch.tensor([1]), torch.tensor([0]))
    (3 * weighted_cross_entropy(one, torch.tensor([0]))).backward()
    assert logits.grad.tolist() == [[-1.5, 1.5]]


class Simple(nn.Module):
    """The simple model with a module between its parts."""

    def __init__(self, between: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCAB, 4), nn.Linear(4, VOCAB)
        self.between, self.after = between or nn.Identity(), after or nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        return self.after(self.head(self.between(self.embedding(ids))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0]


class AddsContext(nn.Module):
    """Has no effect at first, like a residual branch that is initialised to zero."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * x.mean(dim=1, keepdim=True)


class AddsPosition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.at[: x.shape[1]]


@pytest.mark.parametrize("between", [None, nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.GELU()), nn.Dropout(0)])
def test_a_model_that_looks_at_one_token_alone_may_be_deduplicated(between):
    check_context_free(LanguageModel(Simple(between).train()), WORKLOAD)


@pytest.mark.parametrize("between", [Recurrent(), AddsContext(), AddsPosition()])
def test_a_model_that_looks_around_may_not_even_if_it_does_not_do_so_yet(between):
    with pytest.raises(StepError, match="is not context-free: its logits depend on the tokens around") as caught:
        DeduplicatedLoss(LanguageModel(Simple(between).train()), WORKLOAD)
    assert str(caught.value).endswith("use loss full")


def test_neither_may_one_that_draws_random_numbers():
    with pytest.raises(StepError, match="draws random numbers"):
        check_context_free(LanguageModel(Simple(nn.Dropout(0.5)).train()), WORKLOAD)


def test_looking_leaves_no_trace():
    model = Simple(nn.Sequential(nn.Dropout(0.0), nn.LayerNorm(4))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_context_free(LanguageModel(model), WORKLOAD)
    find_head(LanguageModel(model), WORKLOAD)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.head._forward_hooks
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_head_is_the_layer_whose_outputs_are_the_logits():
    model = Simple(nn.Linear(4, 4))
    assert find_head(LanguageModel(model), WORKLOAD) is model.head
    assert find_head(LanguageModel(SimpleNextTokenModel(VOCAB, 4, 8)), WORKLOAD).out_features == VOCAB


@pytest.mark.parametrize("after", [nn.Tanh(), nn.LayerNorm(VOCAB)])
def test_a_model_that_changes_its_logits_has_no_head(after):
    with pytest.raises(StepError, match=r"no nn.Linear whose outputs are its logits; use loss full"):
        find_head(LanguageModel(Simple(after=after)), WORKLOAD)


@needs_chunked
def test_a_chunked_model_still_gives_logits_to_others():
    model = simple()
    path = ChunkedLoss(LanguageModel(model), WORKLOAD)
    assert path.predict(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 4)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, VOCAB)


@pytest.mark.parametrize("missing", ["functional.linear_cross_entropy", "LinearCrossEntropyOptions"])
def test_a_torch_without_the_chunked_loss_is_told(monkeypatch, missing):
    monkeypatch.delattr(f"torch.nn.{missing}", raising=False)
    with pytest.raises(StepError, match="needs a torch with linear_cross_entropy"):
        ChunkedLoss(LanguageModel(simple()), WORKLOAD)
