"""The training step. There is only one: training, benchmarks and profilers all call it.

Shapes: B batch size, T sequence length, V vocabulary size.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from ntp.case import StepConfig, Workload
from ntp.core.data import token_batches
from ntp.core.exactness import check_exact
from ntp.core.language_model import LanguageModel
from ntp.core.losses import ChunkedLoss, DeduplicatedLoss, FullLoss, LossPath, OwnLoss
from ntp.core.model import load_model
from ntp.core.products import products_of
from ntp.errors import StepError

Phase = Callable[[str], AbstractContextManager[object]]
"""Called with a name of :data:`ntp.case.PHASES`, returns the context for that phase, like ``record_function``."""


def _update(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()


@dataclass(frozen=True)
class Method:
    """A step config prepared for one model: what :func:`train_step` needs besides optimizer and tokens."""

    path: LossPath
    products: Callable[[], AbstractContextManager[None]] = nullcontext
    """The context for forward and backward."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    """The context for forward only: the backward pass uses the precisions that it chose."""
    update: Callable[[torch.optim.Optimizer], object] = _update

    @classmethod
    def of(cls, config: StepConfig, model: LanguageModel, workload: Workload) -> Self:
        """Prepare a config for a model.

        Raises:
            StepError: this model, this machine or this torch does not support it.
        """
        products = products_of(config)
        path = _path(config, model, workload)
        if levers := _exact_levers(config, model):
            check_exact(path, model, workload, levers, products if config.exact else nullcontext)
        autocast = partial(torch.autocast, "cpu", torch.bfloat16) if config.precision == "bf16" else nullcontext
        if config.compile == "off":
            return cls(path, products, autocast)
        _check_compiler()
        update = torch.compile(_update) if config.compile == "step" else _update
        return cls(_CompiledPath(path), products, autocast, update)


def _path(config: StepConfig, model: LanguageModel, workload: Workload) -> LossPath:
    if config.loss == "chunked":
        return ChunkedLoss(model, workload)
    if config.loss == "deduplicated":
        return DeduplicatedLoss(model, workload)
    return OwnLoss(model) if model.own_loss else FullLoss(model)


def _exact_levers(config: StepConfig, model: LanguageModel) -> dict[str, str]:
    """Map each lever that claims to be exact to the default to use instead.

    Compilation is left out: it would have to compile for the check's sizes first, which takes a minute.
    """
    values = {name: getattr(config, name) for name in ("loss", "matmul")}
    defaults = {name: StepConfig.model_fields[name].default for name in values}
    levers = {
        f"{name} {value}": f"{name} {defaults[name]}" for name, value in values.items() if value != defaults[name]
    }
    if model.own_loss and config.loss == defaults["loss"]:
        levers["the model's own loss"] = "the mean cross entropy of all positions"
    return levers


class _CompiledPath:
    """Model and loss, compiled in one piece: the loss phase takes all of the time, the forward phase none."""

    def __init__(self, path: LossPath) -> None:
        self._whole = torch.compile(lambda inputs, targets: path.loss(path.predict(inputs, targets), targets))

    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:  # noqa: ARG002  (the loss has them)
        return inputs

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self._whole(predicted, targets)
        return loss


def _check_compiler() -> None:
    """Refuse a missing C++ compiler in one line, where torch.compile would report it on a page."""
    compiler = os.environ.get("CXX")
    if not any(map(shutil.which, [compiler] if compiler else ["g++", "clang++", "c++"])):
        raise StepError(f"compile needs a C++ compiler, but there is no {compiler or 'g++'}: install one, or set CXX")


def make_optimizer(parameters: Iterable[nn.Parameter], config: StepConfig) -> torch.optim.AdamW:
    """Return AdamW with torch's defaults (lr 1e-3), and the kernels that torch chooses, or foreach or fused ones."""
    foreach, fused = (config.optimizer == kernels or None for kernels in ("foreach", "fused"))  # None: torch's choice
    return torch.optim.AdamW(parameters, lr=1e-3, foreach=foreach, fused=fused)


def train_step(method: Method, optimizer: torch.optim.Optimizer, tokens: Tensor, phase: Phase = nullcontext) -> Tensor:
    """Train on ``(B, T+1)`` int64 tokens. Returns the loss before the update, detached, of shape ``()``."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]  # (B, T), (B, T)
    with phase("zero_grad"):
        optimizer.zero_grad()
    with method.products():
        with method.autocast():
            with phase("forward"):
                predicted = method.path.predict(inputs, targets)  # the (B, T, V) logits, or what this path has instead
            with phase("loss"):
                loss = method.path.loss(predicted, targets)  # ()
        del predicted  # what the backward pass needs of it, autograd keeps
        with phase("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
    with phase("optimizer"):
        method.update(optimizer)
    return loss.detach()


@dataclass
class Training:
    """Everything a step needs: a model, the method of its step, its optimizer, and the batches with their generator."""

    language_model: LanguageModel
    method: Method
    optimizer: torch.optim.Optimizer
    batches: Iterator[Tensor]
    generator: torch.Generator

    @classmethod
    def start(cls, workload: Workload, config: StepConfig) -> Self:
        """Seed torch's global generator with ``workload.seed``, then build the model, the batches and the optimizer.

        The batches have their own generator, which continues from the state in which building the model left the global
        one. They are the same batches as if drawn up front, but need no memory, and a model's dropout cannot change
        them.

        Raises:
            ModelError, DataError, StepError: the model, the data or the step config cannot be used. No step has been
                taken then.
        """
        torch.manual_seed(workload.seed)
        model = load_model(workload)
        model.module.train()
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        method = Method.of(config, model, workload)
        optimizer = make_optimizer(model.module.parameters(), config)
        return cls(model, method, optimizer, token_batches(workload, generator), generator)

    @property
    def model(self) -> nn.Module:
        return self.language_model.module

    def step(self, phase: Phase = nullcontext) -> Tensor:
        """Draw the next batch and train on it. Returns the loss, detached, of shape ``()``."""
        with phase("data"):
            tokens = next(self.batches)  # (B, T+1)
        return train_step(self.method, self.optimizer, tokens, phase)
