"""A module as a language model: how its logits are asked for, and found in what it returns.

Shapes: B batch size, T sequence length, V vocabulary size.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ntp.case import Workload
from ntp.errors import ModelError, NtpError
from ntp.lines import first_line

MASK = "attention_mask"
TARGETS = ("targets", "labels")
"""What the parameters are called, wherever the models of the world have them."""


@dataclass(frozen=True)
class LanguageModel:
    """A module, and how its logits are asked for. Decided once, when it is loaded: see :func:`understood`."""

    module: nn.Module
    masked: bool = False
    """Whether its forward is given a mask of ones: every token is to be looked at."""
    targets: str = ""
    """The parameter that takes targets, of a forward that gives the logits of all positions only with them."""
    own_loss: bool = False
    """Whether it then has a loss, too. That is the one to train: computing another would cost what nobody pays."""

    def output(self, ids: Tensor, targets: Tensor | None = None) -> object:
        """What the module returns for ``(B, T)`` int64 ids. Where it wants targets and there are none, any will do."""
        return self.module(ids, **self.arguments(ids, targets))

    def arguments(self, ids: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        """What the forward is given besides the ids."""
        given = {MASK: torch.ones_like(ids)} if self.masked else {}
        if self.targets:
            # In one piece, as training scripts have them: many a model views them as one row.
            given[self.targets] = (ids if targets is None else targets).contiguous()
        return given

    def logits(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """``(B, T)`` ids -> ``(B, T, V)`` logits."""
        return logits_of(self.output(ids, targets))


def logits_of(output: object) -> Tensor:
    """The logits in what a model returned: the tensor itself, the logits of an object or a dict, or a tuple's first.

    Raises:
        ModelError: there are none.
    """
    if isinstance(output, Tensor):
        return output
    for logits in (_named(output, "logits"), _at(output, 0)):
        if isinstance(logits, Tensor):
            return logits
    raise ModelError(
        f"the model returned {type(output).__name__}: its forward must return a tensor, a tuple that begins with one, "
        "or an object or a dict with logits"
    )


def loss_of(output: object) -> Tensor | None:
    """The loss in what a model returned: of an object or a dict, or a tuple's second. Null if there is none."""
    for loss in (_named(output, "loss"), _at(output, 1)):
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
            return loss.squeeze()
    return None


def _named(output: object, name: str) -> object:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _at(output: object, place: int) -> object:
    return output[place] if isinstance(output, tuple | list) and len(output) > place else None


def understood(module: nn.Module, workload: Workload) -> LanguageModel:
    """The module as a language model: the first way of asking that gives logits of all positions.

    Without anything but the ids and what the forward demands, or with a mask, or with targets, where it has parameters
    of these names. A forward pass on ``(2, T)`` ids tells. It leaves no trace: neither the training mode nor the random
    number generator is changed.

    Raises:
        ModelError: there is no such way. The message is of the first.
    """
    refusals = []
    for way in _ways(module):
        try:
            return _checked(way, workload)
        except ModelError as error:
            refusals.append(error)
    raise refusals[0]


def _ways(module: nn.Module) -> Iterator[LanguageModel]:
    """The least first."""
    demanded = _parameters(module)
    targets = next((name for name in TARGETS if name in demanded), "")
    least = LanguageModel(module, demanded.get(MASK, False), targets if demanded.get(targets) else "")
    masked = [least] if least.masked or MASK not in demanded else [least, replace(least, masked=True)]
    yield from masked
    if targets and not least.targets:
        yield from (replace(way, targets=targets) for way in masked)


def _parameters(module: nn.Module) -> dict[str, bool]:
    """The names of what the forward takes, and whether it demands it. Empty where it does not say."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {each.name: each.default is each.empty for each in parameters}


def _checked(model: LanguageModel, workload: Workload) -> LanguageModel:
    """One forward pass on the largest id, laid out as training will lay it out."""
    vocab_size, seq_len = workload.vocab_size, workload.seq_len
    name = f"model {workload.model!r}"
    with evaluating(model.module), model_errors(f"{name}: the forward of (2, {seq_len}) ids failed"):
        ids = torch.full((2, seq_len + 1), vocab_size - 1)[:, :-1]  # (2, T)
        try:
            output = model.output(ids)
            logits = logits_of(output)
        except IndexError:
            model.output(torch.zeros_like(ids))  # if this works, it was the id; if not, the error is another one
            raise ModelError(
                f"{name}: its vocabulary is too small, it has no id {vocab_size - 1}; "
                f"build it with vocab_size or lower --vocab-size {vocab_size}"
            ) from None
        if model.targets and not torch.allclose(logits, model.logits(ids, torch.zeros_like(ids)), equal_nan=True):
            raise ModelError(
                f"{name}: its logits depend on the {model.targets} that it is given: it would be told them"
            )
    shape = tuple(logits.shape)
    if len(shape) != 3 or shape[:2] != ids.shape or not logits.is_floating_point():
        raise ModelError(
            f"{name}: (2, {seq_len}) ids gave {shape} {logits.dtype}; "
            f"the forward must return (2, {seq_len}, {vocab_size}) floating-point logits"
        )
    if shape[2] < vocab_size:
        raise ModelError(
            f"{name}: its vocabulary is too small, {shape[2]} logits a position; "
            f"build it with vocab_size or lower --vocab-size {vocab_size}"
        )
    return replace(model, own_loss=bool(model.targets) and loss_of(output) is not None)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Look at a model and leave no trace: eval mode, no gradients; each module's mode and the RNG are restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training  # not .train(): a submodule may differ from its parent on purpose


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """What the user's own code raises inside it leaves as one line, a ModelError that names the exception. But Ctrl-C
    stays what it is.
    """
    try:
        yield
    except (NtpError, KeyboardInterrupt):
        raise
    except BaseException as exc:
        raise ModelError(f"{what}: {_in_words(exc)}") from exc


_TOO_LARGE = re.compile("Storage size calculation overflowed|Overflow when unpacking")
_SMALLER = "make batch size, sequence length or model smaller"


def _in_words(exc: BaseException) -> str:
    """What was raised. Where torch finds no room, it says so in its own terms, and not what helps."""
    said = first_line(exc)
    if refused := re.search(r"you tried to allocate (\d+) bytes", said):
        return f"there is no memory for {int(refused[1]):,} bytes; {_SMALLER}"
    too_large = isinstance(exc, MemoryError) or _TOO_LARGE.search(said)
    return f"{type(exc).__name__}: {said}{f'; {_SMALLER}' if too_large else ''}"
