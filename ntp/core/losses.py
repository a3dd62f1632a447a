"""How the loss of a step is computed: from all logits, from a chunk of them at a time, or from distinct tokens only.

Each way is a :class:`LossPath`: from the inputs to what the model predicts, and from that and the targets to the loss.

Shapes: B batch size, T sequence length, N distinct tokens of a batch, padded, E embedding size, V vocabulary size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (everybody's name for it)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ntp.case import Workload
from ntp.core.language_model import LanguageModel, logits_of, loss_of, model_errors
from ntp.errors import ModelError, StepError

ROWS = 32
"""Distinct tokens are padded to a multiple of this number of rows."""

_LEAST_PROBABILITY = 1e-30
"""The logarithm of a smaller probability is computed from the logits: below 1e-38, fp32 loses digits and ends at 0."""

_CHECKED_SEED = 0
SHAKE = 0.02
"""The standard deviation of the noise that is added to a model's parameters before it is checked."""


class LossPath(Protocol):
    """A way to compute one model's loss."""

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Any:
        """Run the model on ``(B, T)`` int64 ids. Some models need the targets, too."""

    def loss(self, predicted: Any, targets: Tensor) -> Tensor:
        """Return the mean cross entropy over the B*T positions, of shape ``()``, for ``(B, T)`` int64 targets."""


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of ``(B, T, V)`` logits and ``(B, T)`` int64 targets over the B*T positions, in nats.

    At one position the model gives each token x the probability Q(x) = softmax(logits)[x], and the loss there is
    -log Q(x_i) for the token x_i that came next. Why this one: the probability that the model gives to all the data
    is the product of Q(x_i), and training looks for the parameters under which the data is most probable (maximum
    likelihood). The logarithm turns the product into a sum, and the sign a maximum into a minimum. Its gradient with
    respect to the logits is simple: softmax(logits) - one_hot(x_i), divided by B*T for the mean, so that
    probability moves from the tokens that did not come to the one that did (Goodfellow, Bengio, Courville: Deep
    Learning, 5.5 and 6.2.2).

    A model that knows nothing gives 1/V to every token: a loss of log V, 6.9078 for V = 1000.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,) -> ()


class FullLoss:
    """All logits, then their cross entropy: the usual training step."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        return self._model.logits(inputs, targets)  # (B, T, V)

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        return next_token_loss(predicted, targets)


class OwnLoss:
    """The loss that the model computes itself when it is given the targets."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> object:
        return self._model.output(inputs, targets)

    def loss(self, predicted: object, targets: Tensor) -> Tensor:  # noqa: ARG002  (it has had them)
        loss = loss_of(predicted)
        if loss is None:
            raise ModelError("the model returned no loss for its targets, although it did before")
        return loss


class ChunkedLoss:
    """Hidden states, then torch's linear cross entropy, which computes the logits of a chunk of positions at a time.

    It computes the gradient together with the loss, so that no logits are kept for the backward pass.

    Raises:
        StepError: this torch has no such function, or the model has no linear head whose outputs are its logits, or it
            computes its own loss.
    """

    def __init__(self, model: LanguageModel, workload: Workload) -> None:
        if not (hasattr(F, "linear_cross_entropy") and hasattr(nn, "LinearCrossEntropyOptions")):
            raise StepError(f"loss chunked needs a torch with linear_cross_entropy, but this is {torch.__version__}")
        if model.own_loss:
            raise StepError(
                f"loss chunked: model {workload.model!r} computes its own loss, because it returns the logits of all "
                "positions only with targets; use loss full"
            )
        self._model = model
        self._head = find_head(model, workload)
        self._options = nn.LinearCrossEntropyOptions()

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        with _passed_through(self._head):
            return self._model.logits(inputs, targets)  # (B, T, E): the hidden states

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = F.linear_cross_entropy(
            predicted.flatten(0, 1), self._head.weight, targets.flatten(), linear_bias=self._head.bias,
            options=self._options,
        )  # fmt: skip
        return loss


def find_head(model: LanguageModel, workload: Workload) -> nn.Linear:
    """Find the linear layer whose unchanged outputs are the model's logits.

    Raises:
        StepError: there is none.
    """
    outputs: list[tuple[nn.Linear, Tensor]] = []
    hooks = [
        linear.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
        for linear in model.module.modules()
        if isinstance(linear, nn.Linear)
    ]
    try:
        logits = _logits(model, _some_ids(workload, 1))
    finally:
        for hook in hooks:
            hook.remove()
    for module, output in reversed(outputs):
        if output.shape == logits.shape and torch.equal(output, logits):
            return module
    raise StepError(
        f"loss chunked: model {workload.model!r} has no nn.Linear whose outputs are its logits; use loss full"
    )


@contextmanager
def _passed_through(head: nn.Linear) -> Iterator[None]:
    """Replace the head by the identity."""
    head.forward = lambda input: input  # type: ignore[method-assign]  # noqa: A006
    try:
        yield
    finally:
        del head.forward  # uncovers the method of the class


class Distinct(NamedTuple):
    """A context-free model's prediction for a batch: the logits of its distinct tokens, and where these are."""

    logits: Tensor
    """``(N, V)``."""
    counts: Tensor
    """``(N,)`` int64: the number of positions of each token."""
    rows: Tensor
    """``(B*T,)`` int64: which of the N tokens is at each position."""


class DeduplicatedLoss:
    """The logits of the distinct tokens only, weighted by how often each occurs.

    If the logits at a position depend only on the token there, equal tokens have equal logits. Loss and gradients are
    those of the full path up to the order of their sums, at a cost that the vocabulary bounds, however many positions
    there are.

    Raises:
        StepError: the model is not context-free.
    """

    def __init__(self, model: LanguageModel, workload: Workload) -> None:
        check_context_free(model, workload)
        self._model = model

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Distinct:  # noqa: ARG002  (of all positions)
        ids, counts, rows = distinct(inputs.flatten())
        # As sequences of one token each: a model may not support sequences as long as N.
        # squeeze, not [:, 0], whose gradient would be copied into a tensor of zeros.
        return Distinct(self._model.logits(ids[:, None]).squeeze(1), counts, rows)

    def loss(self, predicted: Distinct, targets: Tensor) -> Tensor:
        return weighted_cross_entropy(predicted, targets.flatten())


@torch.compiler.disable  # type: ignore[untyped-decorator]  # their number depends on the data: only what follows is compiled
def distinct(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find the distinct of ``(M,)`` non-negative int64 ids: in ascending order, with their counts and each id's row.

    Like ``torch.unique(ids, return_inverse=True, return_counts=True)``, but it counts instead of sorting. The distinct
    ids are padded with zeros of count 0 to the next multiple of :data:`ROWS`: their number differs a little from batch
    to batch, and every new size would need new memory and a new oneDNN kernel.
    """
    tokens = ids.numpy()  # an operator of torch's costs more than counting a few thousand numbers
    counts = np.bincount(tokens)  # (largest id + 1,)
    present = np.flatnonzero(counts)
    row_of = np.empty_like(counts)
    row_of[present] = np.arange(present.size)
    padded = np.zeros((2, -(-present.size // ROWS) * ROWS), np.int64)
    padded[0, : present.size] = present
    padded[1, : present.size] = counts[present]
    padded_ids, padded_counts = torch.from_numpy(padded)  # (N,), (N,)
    return padded_ids, padded_counts, torch.from_numpy(row_of[tokens])  # (N,), (N,), (M,)


def weighted_cross_entropy(predicted: Distinct, targets: Tensor) -> Tensor:
    """Mean cross entropy over all positions from the logits of the distinct tokens, and ``(M,)`` int64 targets.

    With n_i the number of positions that have token i, y_j the target and i_j the token at position j, of M:
    loss = (sum_i n_i logsumexp(logits_i) - sum_j logits[i_j, y_j]) / M, which is the usual mean of
    -log softmax with its terms sorted by token. The gradient is (n_i softmax(logits_i) - the number of times that each
    token followed i) / M.
    """
    loss: Tensor = _WeightedCrossEntropy.apply(*predicted, targets)  # type: ignore[no-untyped-call]
    return loss


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        full = logits.float()  # (N, V)
        probabilities = full.softmax(dim=1)  # (N, V): the gradient needs them, so that no exponential is computed twice
        ctx.save_for_backward(probabilities, counts, rows, targets)
        ctx.dtype = logits.dtype
        of_targets = probabilities[rows, targets]  # (M,)
        # torch.compile cannot look at values; what it makes of both softmaxes shares their sums.
        if torch.compiler.is_compiling() or not of_targets.amin() > _LEAST_PROBABILITY:
            return -full.log_softmax(dim=1)[rows, targets].mean()
        return -of_targets.log().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        probabilities, counts, rows, targets = ctx.saved_tensors
        share = gradient / targets.numel()
        wanted = probabilities.mul_((counts * share)[:, None])  # (N, V), in place: the tensor is this function's own
        cells = rows * wanted.shape[1] + targets  # (M,): places in the (N, V) logits, row by row
        wanted.view(-1).index_add_(0, cells, (-share).expand(cells.numel()))
        return wanted.to(ctx.dtype), None, None, None


def check_context_free(model: LanguageModel, workload: Workload) -> None:
    """Make sure that the logits at a position depend on the token there alone.

    The model is run on the same tokens in two orders, in its present mode, on a copy of the parameters with a little
    noise: layers are often initialised to zero, which hides what they will do once they are trained.

    Raises:
        StepError: they depend on something else.
    """
    ids = _some_ids(workload, 2)  # (2, T)
    order = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(_CHECKED_SEED))
    shuffled = ids.flatten()[order].view_as(ids)
    logits, again, of_shuffled = (
        _logits(model, tokens, shake=SHAKE, seed=seed).flatten(0, 1)
        for tokens, seed in ((ids, 0), (ids, 1), (shuffled, 0))
    )
    scale = float(logits.abs().max())
    if float((logits - again).abs().max()) > 1e-4 * scale:
        reason = "it draws random numbers, so equal tokens have different logits (is it dropout?)"
    elif float((logits[order] - of_shuffled).abs().max()) > 1e-4 * scale:
        reason = "its logits depend on the tokens around a position, or on the position"
    else:
        return
    raise StepError(f"loss deduplicated: model {workload.model!r} is not context-free: {reason}; use loss full")


def _some_ids(workload: Workload, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(_CHECKED_SEED)
    return torch.randint(0, workload.vocab_size, (rows, workload.seq_len), generator=generator)


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """Restore the plain attributes of modules afterwards, such as counters."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def shaken_state(model: nn.Module, shake: float = SHAKE) -> dict[str, Tensor]:
    """Copy a model's parameters and buffers, by name, and add noise to the parameters: the same every time.

    Args:
        model: the model, which is not changed.
        shake: the standard deviation of the noise.
    """
    generator = torch.Generator().manual_seed(_CHECKED_SEED)
    state = {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    for name, parameter in model.named_parameters():
        if shake and parameter.is_floating_point():
            state[name] += shake * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return state


def _logits(model: LanguageModel, ids: Tensor, *, shake: float = 0.0, seed: int = 0) -> Tensor:
    """Compute the logits of ``(B, T)`` ids in the model's present mode, without changing the model or the RNG.

    Args:
        model: the model.
        ids: its input.
        shake: as in :func:`shaken_state`.
        seed: the seed of the random numbers that it may draw.
    """
    state = shaken_state(model.module, shake)
    with attributes_restored(model.module), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with model_errors("checking the model failed"):
            return logits_of(functional_call(model.module, state, (ids,), model.arguments(ids)))
