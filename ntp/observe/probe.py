"""What this process can do at most: matrix products by every route that torch has, and passes over large arrays.

:mod:`ntp.runners.roofline` asks a worker that holds no case for it.

Shapes: M, K, N of a product (M, K) x (K, N) -> (M, N).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ntp.case import Frozen
from ntp.lines import first_line
from ntp.machine.software import parse_torch_config
from ntp.observe.rounds import Job, time_in_rounds
from ntp.records.peaks import Dtype, Product, Route, Shape, Skipped, Stream

if TYPE_CHECKING:
    from torch import Tensor

_CHECK_SHAPE = (256, 256, 256)


class Request(Frozen):
    """What is to be measured."""

    threads: int
    cpus: tuple[int, ...] | None = None
    shapes: tuple[Shape, ...] = ()
    array_bytes: int | None = None
    """Null: no bandwidth is measured."""
    products_budget_s: float = 3.5
    streams_budget_s: float = 0.5


class Answer(Frozen):
    products: tuple[Product, ...] = ()
    streams: tuple[Stream, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class GemmRoute:
    """A way for a product to reach a matrix library. ``multiply(a, b, out)`` returns the product; it may ignore out."""

    dtype: Dtype
    route: Route
    library: str
    multiply: "Callable[[Tensor, Tensor, Tensor], Tensor]"
    setting: Callable[[], AbstractContextManager[object]] = nullcontext

    def operands(self, shape: Shape) -> "tuple[Tensor, Tensor, Tensor]":
        """Random factors and room for their product, the second factor transposed as nn.Linear keeps its weight."""
        import torch

        m, k, n = shape
        dtype = torch.float32 if self.dtype == "fp32" else torch.bfloat16
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(m, k, generator=generator).to(dtype)
        b = torch.randn(n, k, generator=generator).to(dtype).t()
        return a, b, torch.empty(m, n, dtype=dtype)

    def job(self, shape: Shape) -> Job:
        a, b, out = self.operands(shape)

        def run() -> None:
            self.multiply(a, b, out)

        def run_in_setting() -> None:
            with self.setting():
                self.multiply(a, b, out)

        return run if self.setting is nullcontext else run_in_setting

    def error(self) -> float:
        """The largest deviation from a small product in float64, over its largest element."""
        a, b, out = self.operands(_CHECK_SHAPE)
        exact = a.double() @ b.double()
        with self.setting():
            product = self.multiply(a, b, out)
        return float((product.double() - exact).abs().max() / exact.abs().max())


def _through_torch(a: "Tensor", b: "Tensor", out: "Tensor") -> "Tensor":
    import torch

    return torch.mm(a, b, out=out)


def _through_onednn(a: "Tensor", b: "Tensor", _out: "Tensor") -> "Tensor":
    """Call oneDNN's inner product, as torch.compile does. It allocates its result; its weight is (N, K)."""
    import torch

    from ntp.core.torch_parts import part_of

    product: Tensor = part_of(torch, "ops.mkldnn._linear_pointwise")(a, b.t(), None, "none", [], "")
    return product


def gemm_routes() -> Iterator[GemmRoute | Skipped]:
    """Every route of every dtype, or why it does not work here."""
    import torch

    from ntp.core.products import medium_precision, onednn_says

    onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    bf16 = onednn and onednn_says("_is_mkldnn_bf16_supported")
    blas = parse_torch_config(torch.__config__.show()).blas or "unknown"
    # With Arm's Compute Library, torch.mm itself goes through oneDNN.
    library = "onednn" if onednn and onednn_says("_is_mkldnn_acl_supported") else blas.lower()
    no_onednn, no_bf16 = "torch was built without oneDNN", "this CPU has no bf16 arithmetic that oneDNN uses"
    yield _tried(GemmRoute("fp32", "default", library, _through_torch))
    wanted = (
        (onednn, GemmRoute("fp32", "onednn", "onednn", _through_onednn)),
        (bf16, GemmRoute("fp32", "medium", "onednn", _through_torch, medium_precision)),
        (bf16, GemmRoute("bf16", "default", "onednn", _through_torch)),
    )
    for possible, route in wanted:
        reason = no_bf16 if onednn else no_onednn
        yield _tried(route) if possible else Skipped(dtype=route.dtype, route=route.route, reason=reason)


def _tried(route: GemmRoute) -> GemmRoute | Skipped:
    """Try one product: not every build of torch has every operator."""
    try:
        route.error()
    except (RuntimeError, AttributeError, TypeError) as error:  # NotImplementedError is a RuntimeError
        return Skipped(dtype=route.dtype, route=route.route, reason=f"torch refuses it: {first_line(error)}")
    return route


def measure_products(shapes: Sequence[Shape], budget_s: float) -> tuple[tuple[Product, ...], tuple[Skipped, ...]]:
    """Time a product of each shape by each route."""
    tried = tuple(gemm_routes())
    routes = [route for route in tried if isinstance(route, GemmRoute)]
    skipped = tuple(route for route in tried if isinstance(route, Skipped))
    errors = {id(route): route.error() for route in routes}
    pairs = [(route, shape) for shape in shapes for route in routes]
    times = time_in_rounds([route.job(shape) for route, shape in pairs], budget_s)
    products = tuple(
        Product(
            dtype=route.dtype,
            route=route.route,
            library=route.library,
            shape=shape,
            error=errors[id(route)],
            time_ns=time_ns,
        )
        for (route, shape), time_ns in zip(pairs, times, strict=True)
    )
    return products, skipped


def measure_streams(array_bytes: int, budget_s: float) -> tuple[Stream, ...]:
    """Time copy and triad over three fp32 arrays, whose pages the same threads have touched before."""
    import torch

    a, b, c = (torch.empty(array_bytes // 4).fill_(value) for value in (0.0, 1.0, 2.0))
    copy, triad = time_in_rounds([lambda: a.copy_(b), lambda: torch.add(b, c, alpha=3.0, out=a)], budget_s)
    size = a.numel() * 4
    return (
        Stream(kernel="copy", array_bytes=size, time_ns=copy),
        Stream(kernel="triad", array_bytes=size, time_ns=triad),
    )


def answer(request: Request) -> Answer:
    """Take the CPUs, import torch, measure."""
    if request.cpus is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request.cpus)

    import torch

    torch.set_num_threads(request.threads)
    torch.set_num_interop_threads(1)
    streams = measure_streams(request.array_bytes, request.streams_budget_s) if request.array_bytes else ()
    products, skipped = measure_products(request.shapes, request.products_budget_s) if request.shapes else ((), ())
    return Answer(products=products, streams=streams, skipped=skipped)
