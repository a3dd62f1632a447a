"""Check that a loss path computes what the plain step does for this model, by comparing losses and gradients.

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
"""The positions in a batch of the check, if training has that many: quick to compute, and enough for many tokens to
occur several times."""

_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = 1e-5, 1e-3
"""Relative, for fp32: the order of sums changes a loss by 1e-7 and a gradient by 1e-6, more in a deep model."""

_NEGLIGIBLE = 1e-2
"""The tolerance is relative to at least this norm, or to this fraction of the whole gradient's: where a gradient should
be zero, such as that of a bias before a normalisation, only rounding is left."""


Products = Callable[[], AbstractContextManager[None]]


class _Outcome(NamedTuple):
    losses: list[float]
    """The loss of each batch."""
    gradients: dict[str, Tensor]
    """The gradients of the last batch, by the parameters' names."""


def check_exact(
    path: LossPath,
    model: LanguageModel,
    workload: Workload,
    levers: Mapping[str, str],
    products: Products = nullcontext,
) -> None:
    """Make sure that a path has the loss and the gradients of the full path, in the model's present mode.

    Both run the same two batches, because a model may carry state from one step to the next. Most tokens occur many
    times in them, as words do: anything that depends on the batch as a whole (a normalisation over it, the number of
    its rows) shows up where the path gives the model other rows than training does. The check runs on a copy of the
    parameters with a little noise, because layers are often initialised to zero. Neither the model nor the RNG is
    changed.

    Args:
        path: the path to check.
        model: the model that it was made for.
        workload: what the model is trained on.
        levers: the levers that the path implements, each with the value to use instead, as in
            ``{"loss deduplicated": "loss full"}``.
        products: the context for forward and backward of this path only.

    Raises:
        StepError: they differ, or the path cannot be run.
        ModelError: the model cannot be run.
    """
    batches = _repetitive(workload)
    state = shaken_state(model.module)
    of_model = f"{' and '.join(levers)}: model {workload.model!r}"
    remedy = f"use {' and '.join(levers.values())}"
    with attributes_restored(model.module):
        with model_errors(f"{of_model} failed in a plain training step"):
            expected = _walk(FullLoss(model), model.module, state, batches)
        try:
            with products(), model_errors(f"{of_model} failed"):
                actual = _walk(path, model.module, state, batches)
        except ModelError as error:
            raise StepError(f"{error}; {remedy}") from error.__cause__
        reason = _difference(actual, expected)
        if reason and _difference(_walk(FullLoss(model), model.module, state, batches), expected):
            reason = "the same batch gives a different loss or gradient each time, so nothing can be checked"
    if reason:
        raise StepError(f"{of_model} trains differently with it: {reason}; {remedy}")


def _repetitive(workload: Workload) -> list[Tensor]:
    """Two batches of ``(B, T+1)`` ids with a quarter as many distinct ones. Id 0 is not among them: it pads."""
    rows = min(workload.batch_size, math.ceil(_POSITIONS / workload.seq_len))
    distinct = min(workload.vocab_size - 1, max(2, rows * workload.seq_len // 4))
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(2, rows, workload.seq_len + 1, generator=generator)
    return list(workload.vocab_size - 1 - (distinct * uniform**2).long())  # some are more frequent than others


class _Whole(nn.Module):
    """A model inside its path, so that the path also uses the parameters that replace the model's own."""

    def __init__(self, model: nn.Module, path: LossPath) -> None:
        super().__init__()
        self.model = model
        self._path = path

    def forward(self, batches: Sequence[Tensor]) -> _Outcome:
        """Compute the losses of the batches and the gradients of the last one."""
        losses = [self._loss(tokens[:, :-1], tokens[:, 1:]) for tokens in batches]
        trained = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        gradients: Iterable[Tensor] = ()
        if losses[-1].requires_grad:  # if it does not, the first step reports it
            gradients = torch.autograd.grad(
                losses[-1], list(trained.values()), allow_unused=True, materialize_grads=True
            )
        return _Outcome([loss.item() for loss in losses], dict(zip(trained, gradients, strict=False)))

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._path.loss(self._path.predict(inputs, targets), targets)


def _walk(path: LossPath, model: nn.Module, state: Mapping[str, Tensor], batches: Sequence[Tensor]) -> _Outcome:
    """Run the path on copies of the parameters and buffers in ``state``, with a fixed seed."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    copies = {f"model.{name}": value.clone().requires_grad_(name in trained) for name, value in state.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outcome: _Outcome = functional_call(_Whole(model, path), copies, (batches,))
    return outcome


def _difference(actual: _Outcome, expected: _Outcome) -> str:
    """Describe the first difference that rounding does not explain; empty if there is none."""
    rounding = max((8 * torch.finfo(gradient.dtype).eps for gradient in expected.gradients.values()), default=0)
    for loss, plain in zip(actual.losses, expected.losses, strict=True):
        if not math.isfinite(plain):  # nothing to compare with: training reports it
            return ""
        if not math.isclose(loss, plain, rel_tol=max(_LOSS_TOLERANCE, rounding), abs_tol=_LOSS_TOLERANCE):
            return f"where tokens repeat, its loss is {loss:.6g} instead of {plain:.6g}"
    norms = {name: gradient.norm().item() for name, gradient in expected.gradients.items()}
    # No cross entropy is below zero: where it is zero, so is its gradient, and only what rounding leaves is compared.
    least = max(_NEGLIGIBLE * math.hypot(*norms.values()), 1.0 if expected.losses[-1] == 0 else _NEGLIGIBLE)
    for name, plain_gradient in expected.gradients.items():
        error = (actual.gradients[name] - plain_gradient).norm().item()
        if not error <= max(_GRADIENT_TOLERANCE, rounding) * max(norms[name], least):
            return f"where tokens repeat, the gradient of {name} differs, with the same loss"
    return ""
