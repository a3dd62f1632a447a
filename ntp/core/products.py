"""How the matrix products of a step are computed: in which precision, and by whose library."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ntp.case import ONEDNN_ISA, StepConfig
from ntp.errors import StepError

FORCE_BF16 = "NTP_FORCE_BF16"
"""The environment variable that has bf16 computed where the CPU has no instructions for it."""

_PROBE_SIZE = 128
_EXACT = 1e-5
"""The relative error of a product of that size: about 1e-7 in fp32, and 2e-3 if its factors are rounded to bf16."""


@contextmanager
def medium_precision() -> Iterator[None]:
    """Permit torch to compute fp32 products by way of bf16, and forbid it again as it was.

    On x86 this is what sends them to oneDNN, forward and backward, from whatever module they come. Whether they are
    rounded there depends on the CPU: see :func:`rounds_products`.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def products_of(config: StepConfig) -> Callable[[], AbstractContextManager[None]]:
    """The context in which a step of this config computes its products, checked to be what it says.

    Raises:
        StepError: this machine has no such products.
    """
    if config.precision != "fp32" and not onednn_says("_is_mkldnn_bf16_supported") and not os.environ.get(FORCE_BF16):
        raise StepError(f"precision {config.precision}: this CPU has no bf16 arithmetic; set {FORCE_BF16}=1 to try it")
    if config.matmul == "onednn":
        _check_onednn()
    elif config.precision == "bf16-matmul":
        if not rounds_products() and not os.environ.get(FORCE_BF16):
            raise StepError(
                "precision bf16-matmul: on this CPU, oneDNN computes fp32 products in fp32; take matmul onednn, which "
                f"is the same, or precision bf16 ({FORCE_BF16}=1 has it all the same)"
            )
    else:
        return nullcontext
    return medium_precision


def _check_onednn() -> None:
    # Where oneDNN has sent torch's fp32 products is decided by the same question.
    if not onednn_says("_is_mkldnn_bf16_supported"):
        raise StepError("matmul onednn: on this CPU, torch sends no fp32 product to oneDNN; take matmul default")
    name, value = ONEDNN_ISA
    # oneDNN reads it with its first product, that of the check, and never again.
    with _environment_variable(name, os.environ.get(name, value)):
        if rounds_products():
            raise StepError(
                f"matmul onednn: oneDNN rounds fp32 products to bf16 here; set {name}={value} before the start, or "
                "take precision bf16-matmul"
            )


def rounds_products() -> bool:
    """Whether fp32 products are rounded to bf16 where that is permitted. A small product is computed to see."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(_PROBE_SIZE, _PROBE_SIZE, generator=generator) for _ in range(2))
    with medium_precision():
        product = a @ b
    exact = a.double() @ b.double()
    return float(((product - exact).abs() / exact).max()) > _EXACT


@contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def onednn_says(question: str) -> bool:
    """Whether one of oneDNN's operators for questions exists in this torch and answers yes."""
    operator = getattr(torch.ops.mkldnn, question, None)
    return operator is not None and bool(operator())
