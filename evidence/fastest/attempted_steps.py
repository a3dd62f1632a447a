"""Ways that were tried to make the fastest exact step faster, all in one process: a step of each, in random order.

``python evidence/fastest attempts`` starts this as a process and reads what it prints: one JSON object.

Shapes: B batch size, T sequence length, N distinct tokens of a batch, padded, E embedding size, V vocabulary size.
"""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ntp.case import Case
from ntp.core.losses import ROWS, DeduplicatedLoss, Distinct, distinct, weighted_cross_entropy
from ntp.core.step import Training, train_step
from ntp.machine.cpus import available_cpus
from ntp.machine.procfs import thread_cpu_ns
from ntp.worker.worker import die_with, spread_threads

WARM_UP_ROUNDS = 5
BLOCK_ROWS = 124
"""The rows of a block whose logits stay in a cache of 512 KiB."""

COLUMNS = 64
"""Columns of the head are padded to a multiple of this."""

CPUS = available_cpus().cpus

Step = Callable[[], Tensor]


class Attempt(NamedTuple):
    what: str
    change: Callable[[Training], Step]
    """Takes a training of its own, and returns its step."""
    in_bf16: bool = True
    """Whether autocast reaches its products."""


def _same(training: Training) -> Step:
    return training.step


def _with_path(path: type[DeduplicatedLoss]) -> Callable[[Training], Step]:
    """Make an attempt of another way to compute the loss."""

    def change(training: Training) -> Step:
        other = object.__new__(path)  # the model has been checked already
        other._model = training.language_model
        training.method = replace(training.method, path=other)
        return training.step

    return change


# What the step did before, and does no longer.


class _Sorted(DeduplicatedLoss):
    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Distinct:  # noqa: ARG002
        ids, rows, counts = torch.unique(inputs.flatten(), return_inverse=True, return_counts=True)
        padding = -len(ids) % ROWS
        ids, counts = (F.pad(values, (0, padding)) for values in (ids, counts))
        return Distinct(self._model.logits(ids[:, None]).squeeze(1), counts, rows)


class _Indexed(DeduplicatedLoss):
    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Distinct:  # noqa: ARG002
        ids, counts, rows = distinct(inputs.flatten())
        return Distinct(self._model.logits(ids[:, None])[:, 0], counts, rows)


class _GradientFunction(torch.autograd.Function):
    """A loss whose gradient with respect to its first input is computed with it."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (wanted,) = ctx.saved_tensors
        assert float(gradient) == 1
        return wanted, None, None, None


def _cells(rows: Tensor, targets: Tensor, columns: int) -> Tensor:
    return rows * columns + targets  # (M,): places in the (N, V) logits, row by row


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        log_probabilities = logits.float().log_softmax(dim=1)
        ctx.save_for_backward(log_probabilities, counts, rows, targets)
        ctx.dtype = logits.dtype
        return -log_probabilities[rows, targets].mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        log_probabilities, counts, rows, targets = ctx.saved_tensors
        share = gradient / targets.numel()
        wanted = log_probabilities.exp_().mul_((counts * share)[:, None])
        cells = _cells(rows, targets, wanted.shape[1])
        wanted.view(-1).index_add_(0, cells, (-share).expand(cells.numel()))
        return wanted.to(ctx.dtype), None, None, None


# Other ways to subtract from the cells of the targets.


def _put(wanted: Tensor, cells: Tensor, share: Tensor) -> None:
    wanted.view(-1).index_put_((cells,), (-share).expand(cells.numel()), accumulate=True)


def _scatter(wanted: Tensor, cells: Tensor, share: Tensor) -> None:
    wanted.view(-1).scatter_add_(0, cells, (-share).expand(cells.numel()))


def _count(wanted: Tensor, cells: Tensor, share: Tensor) -> None:
    times = np.bincount(cells.numpy(), minlength=wanted.numel()).astype(np.float32)
    wanted.view(-1).addcmul_(torch.from_numpy(times), -share)


def _scattered(subtract: Callable[[Tensor, Tensor, Tensor], None]) -> type[torch.autograd.Function]:
    class Scattered(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, counts: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
            probabilities = logits.float().softmax(dim=1)
            ctx.save_for_backward(probabilities, counts, rows, targets)
            ctx.dtype = logits.dtype
            return -probabilities[rows, targets].log().mean()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            probabilities, counts, rows, targets = ctx.saved_tensors
            share = gradient / targets.numel()
            wanted = probabilities.mul_((counts * share)[:, None])
            subtract(wanted, _cells(rows, targets, wanted.shape[1]), share)
            return wanted.to(ctx.dtype), None, None, None

    return Scattered


def _with_loss(function: type[torch.autograd.Function]) -> Callable[[Training], Step]:
    class Path(DeduplicatedLoss):
        def loss(self, predicted: Distinct, targets: Tensor) -> Tensor:
            loss: Tensor = function.apply(*predicted, targets.flatten())  # type: ignore[no-untyped-call]
            return loss

    return _with_path(Path)


# Logits and their gradient in one pass over a block of rows, while it is in cache.


class _InBlocks(_GradientFunction):
    """Softmax and gradient, block by block. The logits are there already."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, counts: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        wanted = torch.empty(logits.shape)
        shares = (counts / targets.numel())[:, None]  # (N, 1)
        of_targets = torch.empty(targets.shape)
        for first in range(0, len(logits), BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            torch.softmax(logits[block].float(), dim=1, out=wanted[block])
            wanted[block] *= shares[block]
        of_targets = wanted[rows, targets] / shares[rows, 0]
        cells = _cells(rows, targets, wanted.shape[1])
        wanted.view(-1).index_add_(0, cells, torch.full((), -1 / targets.numel()).expand(cells.numel()))
        ctx.save_for_backward(wanted.to(logits.dtype))
        return -of_targets.log().mean()


class _HeadInBlocks(torch.autograd.Function):
    """The head's product, softmax, gradient and the head's two backward products, block by block."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, counts: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        shares = (counts / targets.numel())[:, None]  # (N, 1)
        order = torch.from_numpy(np.argsort(rows.numpy(), kind="stable"))
        rows, targets = rows[order], targets[order]
        ends = np.cumsum(counts.numpy())
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        minus = torch.full((), -1 / targets.numel())
        loss = torch.zeros(())
        for first in range(0, len(hidden), 2 * BLOCK_ROWS):
            last = min(first + 2 * BLOCK_ROWS, len(hidden))
            block = hidden[first:last]
            wanted = torch.mm(block, weight.t()).softmax(dim=1)
            here = slice(int(ends[first - 1]) if first else 0, int(ends[last - 1]))
            cells = _cells(rows[here] - first, targets[here], wanted.shape[1])
            loss -= wanted.view(-1)[cells].log().sum()
            wanted *= shares[first:last]
            wanted.view(-1).index_add_(0, cells, minus.expand(cells.numel()))
            torch.mm(wanted, weight, out=of_hidden[first:last])
            of_weight.addmm_(wanted.t(), block)
        ctx.save_for_backward(of_hidden, of_weight)
        return loss / targets.numel()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        assert float(gradient) == 1
        return *ctx.saved_tensors, *[None] * 3


class _HeadLast(DeduplicatedLoss):
    """A path that takes the hidden states in place of the logits, and computes these itself."""

    def loss(self, predicted: Distinct, targets: Tensor) -> Tensor:
        weight = self._model.module.output_head.weight
        loss: Tensor = self.function.apply(predicted[0], weight, *predicted[1:], targets.flatten())
        return loss


def _head_last(function: type[torch.autograd.Function]) -> Callable[[Training], Step]:
    class Path(_HeadLast):
        pass

    Path.function = function  # type: ignore[attr-defined]

    def change(training: Training) -> Step:
        training.model.output_head.forward = lambda input: input  # noqa: A006
        return _with_path(Path)(training)

    return change


# Products in shapes and layouts that suit the library.


def _padded_head(training: Training) -> Step:
    """Let the head compute columns that no token has, and give them a probability of 0."""
    head = training.model.output_head
    padding = -head.out_features % COLUMNS

    def forward(_: nn.Linear, hidden: Tensor) -> Tensor:
        logits = F.linear(hidden, F.pad(head.weight, (0, 0, 0, padding)))
        mask = torch.zeros(head.out_features + padding)
        mask[head.out_features :] = -torch.inf
        return logits + mask

    head.forward = MethodType(forward, head)
    return training.step


class _PaddedLogits(torch.autograd.Function):
    """The logits with columns of -inf, in one product, and a gradient that leaves the padded columns out."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, padding: int) -> Tensor:
        padded = F.pad(weight, (0, 0, 0, padding))  # (V + padding, E)
        ctx.save_for_backward(hidden, padded)
        ctx.columns = len(weight)
        logits = torch.mm(hidden, padded.t())
        logits[:, ctx.columns :] = -torch.inf
        return logits

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, padded = ctx.saved_tensors
        return torch.mm(gradient, padded), torch.mm(gradient.t(), hidden)[: ctx.columns], None


def _padded_head_in_place(training: Training) -> Step:
    head = training.model.output_head
    padding = -head.out_features % COLUMNS

    def forward(_: nn.Linear, hidden: Tensor) -> Tensor:
        logits: Tensor = _PaddedLogits.apply(hidden.squeeze(1), head.weight, padding)
        return logits[:, None]

    head.forward = MethodType(forward, head)
    return training.step


class _PackedLinear(torch.autograd.Function):
    """A product with the weight in oneDNN's blocked layout. It has to be packed again after every update."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), len(inputs))
        return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_bias = gradient.sum(dim=0) if ctx.has_bias else None
        return gradient @ weight, gradient.t() @ inputs, of_bias


def _packed_weights(training: Training) -> Step:
    def forward(linear: nn.Linear, inputs: Tensor) -> Tensor:
        outputs: Tensor = _PackedLinear.apply(inputs.squeeze(1), linear.weight, linear.bias)
        return outputs[:, None]

    for module in training.model.modules():
        if isinstance(module, nn.Linear):
            module.forward = MethodType(forward, module)
    return training.step


class _LinearReLU(torch.autograd.Function):
    """A linear layer and its ReLU as one product of oneDNN's."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "relu", [], "")
        ctx.save_for_backward(inputs, weight, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, outputs = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, outputs, 0)
        return gradient @ weight, gradient.t() @ inputs, gradient.sum(dim=0)


def _fused_relu(training: Training) -> Step:
    linear, relu, _ = training.model.mlp

    def forward(_: nn.Linear, inputs: Tensor) -> Tensor:
        outputs: Tensor = _LinearReLU.apply(inputs.squeeze(1), linear.weight, linear.bias)
        return outputs[:, None]

    linear.forward = MethodType(forward, linear)
    relu.forward = MethodType(lambda _, inputs: inputs, relu)
    return training.step


def _relu_in_place(training: Training) -> Step:
    training.model.mlp[1].inplace = True
    return training.step


# The embedding's gradient without a scatter.


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return weight.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        real = int(ids.argmax()) + 1  # ascending ids, then padding
        return torch.zeros(ctx.shape).index_copy_(0, ids[:real], gradient[:real].float()), None


def _copied_rows(training: Training) -> Step:
    def forward(embedding: nn.Embedding, ids: Tensor) -> Tensor:
        rows: Tensor = _Rows.apply(embedding.weight, ids[:, 0])
        return rows[:, None]

    embedding = training.model.embedding
    embedding.forward = MethodType(forward, embedding)
    return training.step


# Threads that each take half of the rows, from the embedding to the gradients.


class _Halves(DeduplicatedLoss):
    def predict(self, inputs: Tensor, targets: Tensor | None = None) -> Any:  # noqa: ARG002
        return distinct(inputs.flatten())


def _two_halves(training: Training) -> Step:
    """Compute each half of the distinct tokens in a thread of its own, on one CPU, and add the gradients."""
    parameters = list(training.model.parameters())
    model = training.language_model
    work: dict[int, Callable[[], Any]] = {}
    results: dict[int, Any] = {}
    begun, ready, done = (threading.Barrier(3) for _ in range(3))

    def serve(half: int) -> None:
        torch.set_num_threads(1)
        os.sched_setaffinity(threading.get_native_id(), [CPUS[half]])
        begun.wait()
        while True:
            ready.wait()
            try:
                results[half] = work[half]()
            finally:
                done.wait()

    threads = torch.get_num_threads()
    for half in range(2):
        threading.Thread(target=serve, args=(half,), daemon=True).start()

    def gradients(ids: Tensor, counts: Tensor, rows: Tensor, targets: Tensor, share: float) -> Any:
        with training.method.products():
            with training.method.autocast():
                logits = model.logits(ids[:, None]).squeeze(1)
                loss = weighted_cross_entropy(Distinct(logits, counts, rows), targets) * share
            return loss.detach(), torch.autograd.grad(loss, parameters)

    def step() -> Tensor:
        tokens = next(training.batches)
        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        ids, counts, rows = distinct(inputs.flatten())
        middle = len(ids) // 2
        for half, (first, last) in enumerate(((0, middle), (middle, len(ids)))):
            mine = (rows >= first) & (rows < last)
            at, of = rows[mine] - first, targets[mine]
            share = len(at) / len(rows)
            work[half] = lambda i=ids[first:last], c=counts[first:last], r=at, t=of, s=share: gradients(i, c, r, t, s)
        ready.wait()
        done.wait()
        (loss, of_first), (other, of_second) = results[0], results[1]
        for parameter, one, two in zip(parameters, of_first, of_second, strict=True):
            parameter.grad = one.add_(two)
        training.optimizer.step()
        return loss + other

    begun.wait()
    torch.set_num_threads(threads)  # of MKL it is global: the last one counts
    return step


# The optimizer.


def _flat_parameters(training: Training) -> Step:
    """Give AdamW one parameter, of which all others, and their gradients, are parts."""
    parameters = list(training.model.parameters())
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    at = 0
    for parameter in parameters:
        part = slice(at, at + parameter.numel())
        parameter.data, parameter.grad = flat.data[part].view_as(parameter), flat.grad[part].view_as(parameter)
        at = part.stop
    optimizer = torch.optim.AdamW([flat], lr=1e-3, fused=True)
    optimizer.zero_grad = lambda: flat.grad.zero_()  # type: ignore[method-assign]
    return lambda: train_step(training.method, optimizer, next(training.batches))


def _direct_kernel(training: Training) -> Step:
    """Call AdamW's kernel without the Python around it."""
    parameters = list(training.model.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    steps = [torch.zeros(()) for _ in parameters]

    def update(_: torch.optim.Optimizer) -> None:
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            [p.detach() for p in parameters], [p.grad for p in parameters], first, second, [], steps,
            lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=1e-2, eps=1e-8, amsgrad=False, maximize=False,
        )  # fmt: skip

    training.method = replace(training.method, update=update)
    return training.step


def _plain_zero_grad(training: Training) -> Step:
    parameters = list(training.model.parameters())

    def zero_grad() -> None:
        for parameter in parameters:
            parameter.grad = None

    training.optimizer.zero_grad = zero_grad  # type: ignore[method-assign]
    return training.step


ATTEMPTS: Mapping[str, Attempt] = {
    "same": Attempt("the same step, which shows the noise", _same),
    "unique": Attempt("`torch.unique` in place of counting with numpy, as it was", _with_path(_Sorted)),
    "indexed": Attempt("`[:, 0]` in place of `squeeze(1)`, as it was", _with_path(_Indexed)),
    "log-softmax": Attempt("log-softmax, and its exponential for the gradient, as it was", _with_loss(_LogSoftmax)),
    "index-put": Attempt("`index_put_` in place of `index_add_`", _with_loss(_scattered(_put))),
    "scatter-add": Attempt("`scatter_add_` in place of `index_add_`", _with_loss(_scattered(_scatter))),
    "bincount": Attempt("`bincount` in place of `index_add_`", _with_loss(_scattered(_count))),
    "blocks": Attempt("softmax and gradient in one pass over blocks of rows", _with_loss(_InBlocks)),
    "head-blocks": Attempt("the head's products in the same blocks, too", _head_last(_HeadInBlocks), in_bf16=False),
    "padded-head": Attempt("the head padded to a multiple of 64 columns, by torch's operators", _padded_head),
    "padded-columns": Attempt("the same in a function of its own", _padded_head_in_place, in_bf16=False),
    "packed": Attempt("weights in oneDNN's blocked layout", _packed_weights, in_bf16=False),
    "fused-relu": Attempt("product and ReLU as one operator of oneDNN's", _fused_relu, in_bf16=False),
    "relu-in-place": Attempt("ReLU in place", _relu_in_place),
    "copied-rows": Attempt("the embedding's gradient as a copy of rows", _copied_rows),
    "halves": Attempt("a thread for each half of the rows, with products on one CPU", _two_halves),
    "flat": Attempt("fused AdamW over one flat parameter", _flat_parameters),
    "direct": Attempt("AdamW's kernel called directly", _direct_kernel),
    "zero-grad": Attempt("gradients dropped in a loop of our own", _plain_zero_grad),
}
REFERENCE = "reference"
"""The name of the step as it is."""

LOSSES = 10
"""The first losses of each attempt are kept: they show whether it computes the same."""


def run(case: Case, seed: int, rounds: int) -> dict[str, dict[str, object]]:
    """Run a step of every attempt in each round. Returns their times and first losses, or why one failed, by name."""
    torch.set_num_threads(case.runtime.threads)
    steps: dict[str, Step] = {REFERENCE: Training.start(case.workload, case.step).step}
    results: dict[str, dict[str, object]] = {}
    before = thread_cpu_ns()
    steps[REFERENCE]()
    ran = {thread: cpu_ns - before.get(thread, 0) for thread, cpu_ns in thread_cpu_ns().items()}
    spread_threads(list(CPUS), ran)
    steps[REFERENCE] = Training.start(case.workload, case.step).step
    losses: dict[str, list[float]] = {}
    for name, attempt in ATTEMPTS.items():
        if case.step.precision != "fp32" and not attempt.in_bf16:
            continue
        step = attempt.change(Training.start(case.workload, case.step))
        try:
            losses[name] = [float(step())]
        except Exception as error:  # noqa: BLE001  (an attempt that does not work here is a result, too)
            results[name] = {"failure": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        else:
            steps[name] = step
    losses[REFERENCE] = [float(steps[REFERENCE]())]
    times_ns: dict[str, list[int]] = {name: [] for name in steps}
    order = random.Random(seed)
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in order.sample(list(steps), len(steps)):
            start_ns = time.perf_counter_ns()
            loss = steps[name]()
            elapsed_ns = time.perf_counter_ns() - start_ns
            if number >= WARM_UP_ROUNDS:
                times_ns[name].append(elapsed_ns)
            if len(losses[name]) < LOSSES:
                losses[name].append(float(loss))
    return {name: {"step_time_ns": times_ns[name], "losses": losses[name]} for name in steps} | results


if __name__ == "__main__":
    case_id, seed, rounds, parent = sys.argv[1:]
    die_with(int(parent))
    json.dump(run(Case.parse(case_id), int(seed), int(rounds)), sys.stdout)
