"""How the matrix products of a step are computed: in which precision, and by which library."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ntp.case import ONEDNN_ISA, StepConfig
from ntp.errors import StepError

FORCE_BF16 = "NTP_FORCE_BF16"
"""The environment variable that allows bf16 on a CPU without instructions for it."""

_PROBE_SIZE = 128
_EXACT = 1e-5
"""The relative error of a product of that size: about 1e-7 in fp32, and 2e-3 if its factors are rounded to bf16."""


@contextmanager
def medium_precision() -> Iterator[None]:
    """Permit torch to compute fp32 products through bf16 inside the block.

    On x86 this sends the products of every module to oneDNN, forward and backward. Whether they are rounded there
    depends on the CPU: see :func:`rounds_products`.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def products_of(config: StepConfig) -> Callable[[], AbstractContextManager[None]]:
    """Return the context in which a step of this config computes its products, after checking that it works here.

    Raises:
        StepError: this machine cannot compute such products.
    """
    if config.precision != "fp32" and not onednn_says("_is_mkldnn_bf16_supported") and not os.environ.get(FORCE_BF16):
        raise StepError(f"precision {config.precision}: this CPU has no bf16 arithmetic; set {FORCE_BF16}=1 to try it")
    if config.matmul == "onednn":
        _check_onednn()
    elif config.precision == "bf16-matmul":
        if not rounds_products() and not os.environ.get(FORCE_BF16):
            raise StepError(
                "precision bf16-matmul: on this CPU, oneDNN computes fp32 products in fp32; use matmul onednn, which "
                f"is the same, or precision bf16 ({FORCE_BF16}=1 forces it)"
            )
    else:
        return nullcontext
    return medium_precision


def _check_onednn() -> None:
    # torch decides by the same question whether to send fp32 products to oneDNN.
    if not onednn_says("_is_mkldnn_bf16_supported"):
        raise StepError("matmul onednn: on this CPU, torch sends no fp32 product to oneDNN; use matmul default")
    name, value = ONEDNN_ISA
    # oneDNN reads the variable at its first product, which is that of the check, and never again.
    with _environment_variable(name, os.environ.get(name, value)):
        if rounds_products():
            raise StepError(
                f"matmul onednn: oneDNN rounds fp32 products to bf16 here; set {name}={value} before starting ntp, or "
                "use precision bf16-matmul"
            )


def rounds_products() -> bool:
    """Compute a small product to see whether fp32 products are rounded to bf16 where that is permitted."""
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
    """Return whether torch's oneDNN operator for this question exists and answers yes."""
    operator = getattr(torch.ops.mkldnn, question, None)
    return operator is not None and bool(operator())
