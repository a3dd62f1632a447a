"""The floating-point operations of a step, counted as it runs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from ntp.case import PHASES
from ntp.records.observations import FlopCount, FlopShare

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

    from ntp.core.step import Training


def flop_pass(training: "Training") -> FlopCount:
    """Count the floating-point operations of one step, with torch's ``FlopCounterMode``.

    It sees the operators that reach torch's dispatcher and knows formulas for matrix products, convolutions and
    attention. Causal attention counts as if nothing were masked, and what a backward pass computes again is counted
    again: these are the operations that are carried out, not those that the model's mathematics asks for.
    """
    from torch.utils.flop_counter import FlopCounterMode

    by_phase = dict.fromkeys(PHASES, 0)
    with FlopCounterMode(display=False, custom_mapping=_formulas_torch_lacks(training)) as counter:
        training.step(_counted_by_phase(counter, by_phase))
    by_operator = counter.get_flop_counts().get("Global", {})
    operators = (FlopShare(name=_operator_name(operator), flops=flops) for operator, flops in by_operator.items())
    return FlopCount(
        phases=tuple(FlopShare(name=phase, flops=flops) for phase, flops in by_phase.items()),
        operators=tuple(sorted(operators, key=lambda operator: (-operator.flops, operator.name))),
    )


def _counted_by_phase(
    counter: "FlopCounterMode", by_phase: dict[str, int]
) -> Callable[[str], AbstractContextManager[None]]:
    @contextmanager
    def phase(name: str) -> Iterator[None]:
        before = counter.get_total_flops()
        yield
        by_phase[name] += counter.get_total_flops() - before

    return phase


def _operator_name(operator: object) -> str:
    """``aten::mm``, as the profiler names it; the counter has it as an object that prints as ``aten.mm``."""
    return str(operator).replace(".", "::", 1)


def _formulas_torch_lacks(training: "Training") -> dict[Any, Callable[..., int]]:
    """Formulas for the fused attention of CPUs, of which torch counts only the CUDA sisters, so that attention would be
    free of charge here; and for the chunked loss, which computes its gradients with itself.
    """
    import torch

    from ntp.core.losses import ChunkedLoss
    from ntp.core.torch_parts import part_of

    formulas: dict[str, Callable[..., int]] = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention_forward_flops,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward_flops,
    }
    # A torch without one of these computes attention by operators that it counts.
    by_operator: dict[Any, Callable[..., int]] = {
        getattr(torch.ops.aten, name): formula for name, formula in formulas.items() if hasattr(torch.ops.aten, name)
    }
    if isinstance(training.method.path, ChunkedLoss):
        by_operator[part_of(torch, "ops.torch_nn._linear_cross_entropy_batch_chunked")] = _chunked_loss_flops
    return by_operator


def _chunked_loss_flops(hidden: tuple[int, ...], weight: tuple[int, ...], *_: object, **__: object) -> int:
    """Count the logits and the gradients of hidden states and weight: three products of ``(M, E)`` and ``(V, E)``."""
    return 3 * 2 * hidden[0] * hidden[1] * weight[0]


def _attention_forward_flops(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: object, **__: object
) -> int:
    """Count QK' and its product with V. Shapes (B, heads, T, head size); keys' T and values' head size may differ."""
    batch, heads, queries, key_size = query
    return 2 * batch * heads * queries * key[2] * (key_size + value[3])


def _attention_backward_flops(
    _gradient: tuple[int, ...],
    query: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    *_: object,
    **__: object,
) -> int:
    """Count QK' again, as the forward pass kept no scores; then the gradients of scores, V, Q and K, as torch does."""
    batch, heads, queries, key_size = query
    return 2 * batch * heads * queries * key[2] * (3 * key_size + 2 * value[3])
