"""The training step. The only one: training, benchmarks and profilers all call it.

Shapes: B batch size, T sequence length, V vocabulary size.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812  (everybody's name for it)
from torch import Tensor, nn

from ntp.case import StepConfig, Workload
from ntp.data import token_batches
from ntp.model import load_model, logits_of

Phase = Callable[[str], AbstractContextManager[object]]
"""Called with a name of :data:`ntp.case.PHASES`; gives what is to surround that part, as ``record_function`` does."""


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


def make_optimizer(parameters: Iterable[nn.Parameter], config: StepConfig) -> torch.optim.AdamW:
    """AdamW with torch's defaults (lr 1e-3), as torch chooses to run it, or with its foreach or fused kernels."""
    foreach, fused = (config.optimizer == kernels or None for kernels in ("foreach", "fused"))  # None: torch's choice
    return torch.optim.AdamW(parameters, lr=1e-3, foreach=foreach, fused=fused)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, phase: Phase = nullcontext
) -> Tensor:
    """One step on ``(B, T+1)`` int64 tokens. Returns the loss before the update, detached, of shape ``()``."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]  # (B, T), (B, T)
    with phase("zero_grad"):
        optimizer.zero_grad()
    with phase("forward"):
        logits = logits_of(model(inputs))  # (B, T, V)
    with phase("loss"):
        loss = next_token_loss(logits, targets)  # ()
    with phase("backward"):
        loss.backward()  # type: ignore[no-untyped-call]
    with phase("optimizer"):
        optimizer.step()
    return loss.detach()


@dataclass
class Training:
    """All that a step needs: a model, its optimizer, and the batches with the generator that they are drawn from."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterator[Tensor]
    generator: torch.Generator

    @classmethod
    def start(cls, workload: Workload, config: StepConfig) -> Self:
        """Seed torch's global generator with ``workload.seed``, then build the model, the batches and the optimizer.

        The batches have a generator of their own that goes on from where building the model left the global one. They
        are the batches one would draw up front, but cost no memory, and a model's dropout cannot change them.

        Raises:
            ModelError, DataError: the model or the data cannot be used; no step has been taken then.
        """
        torch.manual_seed(workload.seed)
        model = load_model(workload).train()
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
        return cls(model, make_optimizer(model.parameters(), config), token_batches(workload, generator), generator)

    def step(self, phase: Phase = nullcontext) -> Tensor:
        """Draw the next batch and train on it. Returns the loss, detached, of shape ``()``."""
        with phase("data"):
            tokens = next(self.batches)  # (B, T+1)
        return train_step(self.model, self.optimizer, tokens, phase)
