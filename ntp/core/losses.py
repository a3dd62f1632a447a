"""Ways to the loss of a step: through all logits, through a part of them at a time, or through distinct tokens alone.

Each is a :class:`LossPath`: from the inputs to what the model predicts, from there and the targets to the loss.

Shapes: B batch size, T sequence length, N distinct tokens of a batch, padded, E embedding size, V vocabulary size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  (everybody's name for it)
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from ntp.case import Workload
from ntp.core.language_model import LanguageModel, logits_of, loss_of, model_errors
from ntp.errors import ModelError, StepError

ROWS = 32
"""Of how many rows a multiple is computed where only the distinct tokens are."""

_CHECKED_SEED = 0
SHAKE = 0.02
"""By what the parameters of a model are changed before it is looked at, in standard deviations of a normal."""


class LossPath(Protocol):
    """A way to the loss, for one model."""

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Any:
        """From ``(B, T)`` int64 ids to what the model makes of them. Some models want the targets for it."""

    def loss(self, predicted: Any, targets: Tensor) -> Tensor:
        """From that and ``(B, T)`` int64 ids to the mean cross entropy over the B*T positions, of shape ``()``."""


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of ``(B, T, V)`` logits and ``(B, T)`` int64 targets over the B*T positions, in nats.

    At one position the model gives each token x the probability Q(x) = softmax(logits)[x], and the loss there is
    -log Q(x_i) for the token x_i that came next. Why this one: the probability that the model gives to the whole data
    is the product of Q(x_i), and training looks for the parameters under which the data is most probable (maximum
    likelihood). The logarithm turns the product into a sum, and the sign a maximum into a minimum. Its gradient with
    respect to the logits is as simple as can be: softmax(logits) - one_hot(x_i), divided by B*T for the mean, so that
    probability moves from the tokens that did not come to the one that did (Goodfellow, Bengio, Courville: Deep
    Learning, 5.5 and 6.2.2).

    A model that knows nothing gives 1/V to every token: a loss of log V, 6.9078 for V = 1000.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # (B*T, V), (B*T,) -> ()


class FullLoss:
    """All logits, then their cross entropy: the step as everybody writes it."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """``(B, T)`` ids -> ``(B, T, V)`` logits."""
        return self._model.logits(inputs, targets)

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets -> the loss."""
        return next_token_loss(predicted, targets)


class OwnLoss:
    """The loss that the model itself computes with its logits, given the targets."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> object:
        """``(B, T)`` ids and targets -> what the model returns."""
        return self._model.output(inputs, targets)

    def loss(self, predicted: object, targets: Tensor) -> Tensor:  # noqa: ARG002  (it has had them)
        """What it returned -> the loss."""
        loss = loss_of(predicted)
        if loss is None:
            raise ModelError("the model returned no loss, though it was given targets, and returned one before")
        return loss


class ChunkedLoss:
    """Hidden states, then torch's own linear cross entropy: the logits of a chunk of positions at a time.

    It has the gradient computed when the loss is, so that no logits need to be kept for the backward pass.

    Raises:
        StepError: this torch has no such function, or the model has no linear head whose outputs are its logits, or has
            to compute a loss of its own with them.
    """

    def __init__(self, model: LanguageModel, workload: Workload) -> None:
        if not (hasattr(F, "linear_cross_entropy") and hasattr(nn, "LinearCrossEntropyOptions")):
            raise StepError(f"loss chunked needs a torch with linear_cross_entropy, and this is {torch.__version__}")
        if model.own_loss:
            raise StepError(
                f"loss chunked: model {workload.model!r} computes its own loss with its logits, for it gives those of "
                "all positions only with targets; take loss full"
            )
        self._model = model
        self._head = find_head(model, workload)
        self._options = nn.LinearCrossEntropyOptions()

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        """``(B, T)`` ids -> ``(B, T, E)`` hidden states."""
        with _passed_through(self._head):
            return self._model.logits(inputs, targets)

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Hidden states and targets -> the loss."""
        loss: Tensor = F.linear_cross_entropy(
            predicted.flatten(0, 1), self._head.weight, targets.flatten(), linear_bias=self._head.bias,
            options=self._options,
        )  # fmt: skip
        return loss


def find_head(model: LanguageModel, workload: Workload) -> nn.Linear:
    """The linear layer whose outputs are the model's logits, as they are.

    Raises:
        StepError: there is none, or something is done to its outputs.
    """
    outputs: list[tuple[nn.Linear, Tensor]] = []
    hooks = [
        each.register_forward_hook(lambda module, _, output: outputs.append((module, output)))
        for each in model.module.modules()
        if isinstance(each, nn.Linear)
    ]
    try:
        logits = _looked_at(model, _some_ids(workload, 1))
    finally:
        for hook in hooks:
            hook.remove()
    for module, output in reversed(outputs):
        if output.shape == logits.shape and torch.equal(output, logits):
            return module
    raise StepError(
        f"loss chunked: model {workload.model!r} has no nn.Linear whose outputs are its logits; take loss full"
    )


@contextmanager
def _passed_through(head: nn.Linear) -> Iterator[None]:
    """The head hands on what it is given."""
    head.forward = lambda input: input  # type: ignore[method-assign]  # noqa: A006
    try:
        yield
    finally:
        del head.forward  # the class's own is seen again


class Distinct(NamedTuple):
    """What a context-free model makes of a batch: the logits of its distinct tokens, and who they are."""

    logits: Tensor
    """``(N, V)``."""
    counts: Tensor
    """``(N,)`` int64: at how many positions each is."""
    rows: Tensor
    """``(B*T,)`` int64: which of the N is at each position."""


class DeduplicatedLoss:
    """The logits of the distinct tokens alone, weighted by how often each comes.

    Where the logits at a position depend on the token there and on nothing else, equal tokens have equal logits. Loss
    and gradients are those of the full path up to the order of their sums, at a cost that the vocabulary bounds,
    however many positions there are.

    Raises:
        StepError: the model is not context-free.
    """

    def __init__(self, model: LanguageModel, workload: Workload) -> None:
        check_context_free(model, workload)
        self._model = model

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Distinct:  # noqa: ARG002  (of all positions)
        """``(B, T)`` ids -> the logits of the N distinct among them."""
        ids, counts, rows = distinct(inputs.flatten())
        # As sequences of one token each: a model may know no sequence as long as N.
        return Distinct(self._model.logits(ids[:, None])[:, 0], counts, rows)

    def loss(self, predicted: Distinct, targets: Tensor) -> Tensor:
        """Those logits and the targets -> the loss."""
        return weighted_cross_entropy(predicted, targets.flatten())


@torch.compiler.disable  # type: ignore[untyped-decorator]  # how many there are is known when they are counted: compiled is what comes after
def distinct(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct of ``(M,)`` int64 ids that are not negative: ids in ascending order, how often each, and its row.

    As ``torch.unique(ids, return_inverse=True, return_counts=True)``, which sorts; this counts. After the distinct ids
    come zeros that count for nothing, up to the next multiple of :data:`ROWS`: a batch has a few tokens more than the
    last, or less, and every new size would want new memory and a new kernel of oneDNN.
    """
    counts = torch.bincount(ids)  # (largest id + 1,)
    there = counts.nonzero().squeeze(1)
    row_of = torch.empty_like(counts)
    row_of[there] = torch.arange(there.numel())
    padding = (0, -there.numel() % ROWS)
    return F.pad(there, padding), F.pad(counts[there], padding), row_of[ids]  # (N,), (N,), (M,)


def weighted_cross_entropy(predicted: Distinct, targets: Tensor) -> Tensor:
    """Mean cross entropy over all positions from the logits of the distinct tokens, and ``(M,)`` int64 targets.

    With n_i the number of positions that have token i, y_j the target and i_j the token at position j, of M:
    loss = (sum_i n_i logsumexp(logits_i) - sum_j logits[i_j, y_j]) / M, which is the mean of -log softmax as
    everywhere, its terms sorted by token. The gradient is (n_i softmax(logits_i) - how often i was followed by each
    token) / M.
    """
    loss: Tensor = _WeightedCrossEntropy.apply(*predicted, targets)  # type: ignore[no-untyped-call]
    return loss


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        log_probabilities = logits.float().log_softmax(dim=1)  # (N, V)
        cells = rows * logits.shape[1] + targets  # (M,): places in the (N, V) logits, row by row
        ctx.save_for_backward(log_probabilities, counts, cells)
        ctx.dtype = logits.dtype
        return -log_probabilities.view(-1)[cells].mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_probabilities, counts, cells = ctx.saved_tensors
        share = gradient / cells.numel()
        # exp and both factors in place: the saved tensor is this function's own.
        wanted = log_probabilities.exp_().mul_((counts * share)[:, None])  # (N, V)
        wanted.view(-1).index_add_(0, cells, (-share).expand(cells.numel()))
        return wanted.to(ctx.dtype), None, None, None


def check_context_free(model: LanguageModel, workload: Workload) -> None:
    """Make sure that the logits at a position depend on the token there alone.

    The same tokens are shown in two orders, in the mode that training is in. The parameters are changed a little for
    it, in a copy: layers are often initialised to zero, and what they will do when trained is not seen before.

    Raises:
        StepError: they depend on something else.
    """
    ids = _some_ids(workload, 2)  # (2, T)
    order = torch.randperm(ids.numel(), generator=torch.Generator().manual_seed(_CHECKED_SEED))
    shuffled = ids.flatten()[order].view_as(ids)
    logits, again, of_shuffled = (
        _looked_at(model, each, shake=SHAKE, seed=seed).flatten(0, 1)
        for each, seed in ((ids, 0), (ids, 1), (shuffled, 0))
    )
    scale = float(logits.abs().max())
    if float((logits - again).abs().max()) > 1e-4 * scale:
        reason = "it draws random numbers, so that equal tokens have different logits (is it dropout?)"
    elif float((logits[order] - of_shuffled).abs().max()) > 1e-4 * scale:
        reason = "its logits depend on the tokens around a position, or on where it is"
    else:
        return
    raise StepError(f"loss deduplicated: model {workload.model!r} is not context-free: {reason}; take loss full")


def _some_ids(workload: Workload, rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(_CHECKED_SEED)
    return torch.randint(0, workload.vocab_size, (rows, workload.seq_len), generator=generator)


@contextmanager
def attributes_restored(model: nn.Module) -> Iterator[None]:
    """What modules keep in plain attributes, as counters, is afterwards what it was."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def shaken_state(model: nn.Module, shake: float = SHAKE) -> dict[str, Tensor]:
    """Copies of a model's parameters and buffers, by name. What is added to the parameters is the same every time.

    Args:
        model: the model, which stays as it is.
        shake: the standard deviation of what is added.
    """
    generator = torch.Generator().manual_seed(_CHECKED_SEED)
    state = {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}
    for name, parameter in model.named_parameters():
        if shake and parameter.is_floating_point():
            state[name] += shake * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return state


def _looked_at(model: LanguageModel, ids: Tensor, *, shake: float = 0.0, seed: int = 0) -> Tensor:
    """The logits of ``(B, T)`` ids, in the model's present mode. Neither the model nor the RNG is changed by it.

    Args:
        model: the model.
        ids: what it is shown.
        shake: the standard deviation of what is added to its parameters for the time being, always the same.
        seed: of the random numbers that it may draw.
    """
    state = shaken_state(model.module, shake)
    with attributes_restored(model.module), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with model_errors("looking at the model failed"):
            return logits_of(functional_call(model.module, state, (ids,), model.arguments(ids)))
