"""A module as a language model: how to call it, and where its logits are in what it returns.

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
"""The usual names of the parameter, in nanoGPT and transformers."""


@dataclass(frozen=True)
class LanguageModel:
    """A module, and how to call it for its logits, which :func:`understood` decides when it is loaded."""

    module: nn.Module
    masked: bool = False
    """Whether its forward gets a mask of ones, so that every token counts."""
    targets: str = ""
    """The parameter for targets, if the forward returns the logits of all positions only with them; or empty."""
    own_loss: bool = False
    """Whether it then returns a loss, too. That one is trained: computing another would add a cost that nobody pays."""

    def output(self, ids: Tensor, targets: Tensor | None = None) -> object:
        """Call the module with ``(B, T)`` int64 ids. If it needs targets and there are none, the ids stand in."""
        return self.module(ids, **self.arguments(ids, targets))

    def arguments(self, ids: Tensor, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Return the arguments of the forward besides the ids."""
        given = {MASK: torch.ones_like(ids)} if self.masked else {}
        if self.targets:
            # Contiguous, as in training scripts: many models view them as one row.
            given[self.targets] = (ids if targets is None else targets).contiguous()
        return given

    def logits(self, ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """``(B, T)`` ids -> ``(B, T, V)`` logits."""
        return logits_of(self.output(ids, targets))


def logits_of(output: object) -> Tensor:
    """Find the logits in a model's output: the tensor itself, ``logits`` of an object or dict, or the first of a tuple.

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
    """Find the loss in a model's output: ``loss`` of an object or dict, or the second of a tuple; or None."""
    for loss in (_named(output, "loss"), _at(output, 1)):
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.is_floating_point():
            return loss.squeeze()
    return None


def _named(output: object, name: str) -> object:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _at(output: object, place: int) -> object:
    return output[place] if isinstance(output, tuple | list) and len(output) > place else None


def understood(module: nn.Module, workload: Workload) -> LanguageModel:
    """Find the first way to call the module that returns the logits of all positions.

    It is called with the ids and the arguments that the forward requires, then with a mask, then with targets, if it
    has parameters of these names. Each way is tried on ``(2, T)`` ids, which changes neither the training mode nor the
    random number generator.

    Raises:
        ModelError: there is no such way. The message is that of the first one.
    """
    refusals = []
    for way in _ways(module):
        try:
            return _checked(way, workload)
        except ModelError as error:
            refusals.append(error)
    raise refusals[0]


def _ways(module: nn.Module) -> Iterator[LanguageModel]:
    """Yield the ways to call a module, the one with the fewest arguments first."""
    required = _parameters(module)
    targets = next((name for name in TARGETS if name in required), "")
    least = LanguageModel(module, required.get(MASK, False), targets if required.get(targets) else "")
    masked = [least] if least.masked or MASK not in required else [least, replace(least, masked=True)]
    yield from masked
    if targets and not least.targets:
        yield from (replace(way, targets=targets) for way in masked)


def _parameters(module: nn.Module) -> dict[str, bool]:
    """Map the forward's parameters to whether they are required; empty if it has no signature."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {parameter.name: parameter.default is parameter.empty for parameter in parameters}


def _checked(model: LanguageModel, workload: Workload) -> LanguageModel:
    """Run one forward pass on the largest id, with the memory layout of training."""
    vocab_size, seq_len = workload.vocab_size, workload.seq_len
    name = f"model {workload.model!r}"
    with evaluating(model.module), model_errors(f"{name}: its forward failed on (2, {seq_len}) ids"):
        ids = torch.full((2, seq_len + 1), vocab_size - 1)[:, :-1]  # (2, T)
        try:
            output = model.output(ids)
            logits = logits_of(output)
        except IndexError:
            model.output(torch.zeros_like(ids))  # if this works, it was the id; if not, it raises the real error
            raise ModelError(
                f"{name}: its vocabulary is too small, it has no id {vocab_size - 1}; "
                f"build it with vocab_size or lower --vocab-size {vocab_size}"
            ) from None
        if model.targets and not torch.allclose(logits, model.logits(ids, torch.zeros_like(ids)), equal_nan=True):
            raise ModelError(
                f"{name}: its logits depend on the {model.targets} that it is given, so it would be told the answers"
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
    """Switch a model to eval mode without gradients, and restore each module's mode and the RNG afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes:
            module.training = training  # not .train(): a submodule may deliberately differ from its parent


@contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Turn what the user's code raises inside the block into a ModelError that names the exception, except Ctrl-C."""
    try:
        yield
    except (NtpError, KeyboardInterrupt):
        raise
    except BaseException as exc:
        raise ModelError(f"{what}: {_in_words(exc)}") from exc


_TOO_LARGE = re.compile("Storage size calculation overflowed|Overflow when unpacking")
_SMALLER = "make batch size, sequence length or model smaller"


def _in_words(exc: BaseException) -> str:
    """Describe an exception. Torch reports a lack of memory in its own terms, without a remedy."""
    message = first_line(exc)
    if refused := re.search(r"you tried to allocate (\d+) bytes", message):
        return f"there is not enough memory for {int(refused[1]):,} bytes; {_SMALLER}"
    too_large = isinstance(exc, MemoryError) or _TOO_LARGE.search(message)
    return f"{type(exc).__name__}: {message}{f'; {_SMALLER}' if too_large else ''}"
