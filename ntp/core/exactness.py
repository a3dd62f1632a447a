"""Whether a path computes what the plain step does for this model: loss and gradients held against each other.

Shapes: B batch size, T sequence length, V vocabulary size.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ntp.case import Workload
from ntp.core.language_model import LanguageModel, model_errors
from ntp.core.losses import FullLoss, LossPath, attributes_restored, shaken_state
from ntp.errors import ModelError, StepError

_POSITIONS = 128
"""How many positions a batch of the check has at least, where training has as many: soon computed, and enough that many
tokens come several times."""

_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = 1e-5, 1e-3
"""Relative, for fp32: the order of sums changes a loss by 1e-7 and a gradient by 1e-6, a deep model's by some more."""

_NEGLIGIBLE = 1e-2
"""A gradient that is smaller than this, or than this part of the whole, is held to that: what is left where a sum
should be zero, as of a bias before a normalisation, is nothing but rounding."""


Products = Callable[[], AbstractContextManager[None]]


class _Seen(NamedTuple):
    """What one way through the batches came to."""

    losses: list[float]
    """Of each."""
    gradients: dict[str, Tensor]
    """Of the last, by the names of parameters."""


def check_exact(
    path: LossPath,
    model: LanguageModel,
    workload: Workload,
    levers: Mapping[str, str],
    products: Products = nullcontext,
) -> None:
    """Make sure that a path has the loss and the gradients of the full one, in the mode that training is in.

    Both go through the same two batches, since a model may carry something from one step to the next. In these most
    tokens come many times, as words do: what depends on the batch as a whole (a normalisation over it, the
    number of its rows) shows where the path lets the model see other rows than training has. The parameters are changed
    a little for it, in a copy, as layers are often initialised to zero. Neither the model nor the RNG is changed.

    Args:
        path: the way to the loss.
        model: the model that it is for.
        workload: what the model is trained on.
        levers: what the path is taken for, as ``{"loss deduplicated": "loss full"}``, and what to take instead.
        products: surrounds forward and backward of the path, and of nothing else.

    Raises:
        StepError: they differ, or the path cannot be run.
        ModelError: the model cannot be run.
    """
    batches = _repetitive(workload)
    state = shaken_state(model.module)
    of_model = f"{' and '.join(levers)}: model {workload.model!r}"
    remedy = f"take {' and '.join(levers.values())}"
    with attributes_restored(model.module):
        with model_errors(f"{of_model} failed in a training step of its own"):
            expected = _walk(FullLoss(model), model.module, state, batches)
        try:
            with products(), model_errors(f"{of_model} failed"):
                found = _walk(path, model.module, state, batches)
        except ModelError as error:
            raise StepError(f"{error}; {remedy}") from error.__cause__
        reason = _difference(found, expected)
        if reason and _difference(_walk(FullLoss(model), model.module, state, batches), expected):
            reason = "the same batch gives another loss or gradient each time, so that nothing can be checked"
    if reason:
        raise StepError(f"{of_model} trains differently with it: {reason}; {remedy}")


def _repetitive(workload: Workload) -> list[Tensor]:
    """Two batches of ``(B, T+1)`` ids, of a quarter as many different ones. The first id is not used: it pads."""
    rows = min(workload.batch_size, math.ceil(_POSITIONS / workload.seq_len))
    different = min(workload.vocab_size - 1, max(2, rows * workload.seq_len // 4))
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2, rows, workload.seq_len + 1, generator=generator)
    return list(workload.vocab_size - 1 - (different * uniform**2).long())  # some come more often than others


class _Whole(nn.Module):
    """A model with a path around it, so that the path, too, meets what stands in for the model's own parameters."""

    def __init__(self, model: nn.Module, path: LossPath) -> None:
        super().__init__()
        self.model = model
        self._path = path

    def forward(self, batches: Sequence[Tensor]) -> _Seen:
        """Train on the batches, but for the updates."""
        losses = [self._loss(tokens[:, :-1], tokens[:, 1:]) for tokens in batches]
        learned = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        gradients: Iterable[Tensor] = ()
        if losses[-1].requires_grad:  # if not, the first step will say so
            gradients = torch.autograd.grad(
                losses[-1], list(learned.values()), allow_unused=True, materialize_grads=True
            )
        return _Seen([loss.item() for loss in losses], dict(zip(learned, gradients, strict=False)))

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._path.loss(self._path.predict(inputs, targets), targets)


def _walk(path: LossPath, model: nn.Module, state: Mapping[str, Tensor], batches: Sequence[Tensor]) -> _Seen:
    """Take the path with copies of what is in ``state`` for parameters and buffers, and an RNG that starts alike."""
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    copies = {f"model.{name}": each.clone().requires_grad_(name in learned) for name, each in state.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        seen: _Seen = functional_call(_Whole(model, path), copies, (batches,))
    return seen


def _difference(found: _Seen, expected: _Seen) -> str:
    """What differs by more than rounding does; nothing if all is alike."""
    rounding = max((8 * torch.finfo(each.dtype).eps for each in expected.gradients.values()), default=0)
    for loss, plain in zip(found.losses, expected.losses, strict=True):
        if not math.isfinite(plain):  # nothing to be held against: training will say so
            return ""
        if not math.isclose(loss, plain, rel_tol=max(_LOSS_TOLERANCE, rounding), abs_tol=_LOSS_TOLERANCE):
            return f"where tokens repeat, its loss is {loss:.6g} instead of {plain:.6g}"
    norms = {name: each.norm().item() for name, each in expected.gradients.items()}
    least = max(_NEGLIGIBLE * math.hypot(*norms.values()), _NEGLIGIBLE)
    for name, plain_gradient in expected.gradients.items():
        error = (found.gradients[name] - plain_gradient).norm().item()
        if not error <= max(_GRADIENT_TOLERANCE, rounding) * max(norms[name], least):
            return f"where tokens repeat, the gradient of {name} is another, with the same loss"
    return ""
