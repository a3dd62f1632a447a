"""The most that a machine can do, as measured, and what that says about a step or an operator: the roofline model.

This holds values and arithmetic, without torch or a process. :mod:`ntp.runners.roofline` measures.

Source: Williams, Waterman, Patterson: Roofline, an insightful visual performance model for multicore architectures.
Communications of the ACM 52(4), 2009. Bandwidth as in McCalpin's STREAM: copy counts two arrays, triad three, and the
lines that a CPU reads only in order to overwrite them are not counted.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from ntp.case import Amount, Count, Frozen, Positive, Workload
from ntp.records.environment import NamedValues

Shape = tuple[Positive, Positive, Positive]
"""M, K, N of a product (M, K) x (K, N) -> (M, N). It takes 2*M*K*N floating-point operations."""

Dtype = Literal["fp32", "bf16"]

Route = Literal["default", "onednn", "medium"]
"""How a product reaches its library: as torch does by itself; through oneDNN's own operator; or as torch does under
``torch.set_float32_matmul_precision("medium")``, which permits fp32 products to be computed by way of bf16."""

NOTEWORTHY_RATIO = 1.15
"""Rates closer to each other than this count as equal: a smaller gain disappears in the rest of a step."""

DISTURBED_SHARE = 0.10
"""If others took more than this share of the CPU time, peaks are too low. A machine at rest uses a few percent."""

FP32_ERROR = 1e-5
"""A product with a smaller error kept the accuracy of fp32: errors are 1e-7 to 1e-6 then, and over 1e-3 with bf16."""

_MAX_PRODUCT_FLOPS = 2 * 2048**3
_MIN_ROWS = 256


def gemm_flops(shape: Shape) -> int:
    """Count the operations of one product: a multiplication and an addition for each of M*K*N."""
    return 2 * math.prod(shape)


def gemm_shapes(workload: Workload) -> tuple[Shape, ...]:
    """Return the products of the simple model's forward pass: (B*T, E, H), (B*T, H, E), (B*T, E, V). Empty for others.

    Where a product would take longer than one of 2048 x 2048 matrices, it gets fewer rows: with that many rows the rate
    no longer depends on their number.
    """
    if workload.model != "simple":
        return ()
    embed, hidden, vocab = workload.embed_dim, workload.hidden_dim, workload.vocab_size
    layers = dict.fromkeys(((embed, hidden), (hidden, embed), (embed, vocab)))
    return tuple((_rows(workload.tokens, k, n), k, n) for k, n in layers)


def closed_form_flops(workload: Workload) -> int | None:
    """Return the floating-point operations of a step of the simple model, a multiply-add counted as two; else null.

    A token goes through three matrices in the forward pass, E x H, H x E and E x V: 2 (2 E H + E V) operations. The
    backward pass has two products for each of them, one for the gradient of what went in and one for that of the
    matrix: three times the forward in all. (Kaplan et al., Scaling Laws for Neural Language Models, 2020, 2.1: 6 N a
    token.) It is exactly what :func:`ntp.observe.flops.flop_pass` counts: the first matrix is no exception, as the
    embedding below it wants the gradient of what went in.

    The embedding, biases, ReLU, softmax and AdamW are no matrix products, and are not counted.
    """
    if workload.model != "simple":
        return None
    embed_dim, hidden_dim, vocab_size = workload.embed_dim, workload.hidden_dim, workload.vocab_size
    forward_per_token = 2 * (2 * embed_dim * hidden_dim + embed_dim * vocab_size)
    return 3 * forward_per_token * workload.tokens


def _rows(rows: int, k: int, n: int) -> int:
    return min(rows, max(_MIN_ROWS, _MAX_PRODUCT_FLOPS // (2 * k * n)))


class Timed(Frozen):
    """Something that was run several times. The best time shows what the machine can do when nothing disturbs it."""

    time_ns: tuple[Count, ...] = Field(min_length=1)
    """The samples, in order."""

    @property
    def best_ns(self) -> int:
        """The shortest sample; a nanosecond where no time passed on the clock."""
        return max(1, min(self.time_ns))

    @property
    def median_ns(self) -> float:
        """The median sample. If it is far above the best, something disturbed the measurement."""
        return max(1.0, statistics.median(self.time_ns))


class Product(Timed):
    """One matrix product by one route."""

    dtype: Dtype
    route: Route
    library: str  # mkl, onednn, open, accelerate, ...
    shape: Shape
    error: Amount
    """The error of this route on a small product: the largest deviation from float64, over the largest element."""

    @property
    def best_flops_per_s(self) -> float:
        return gemm_flops(self.shape) / self.best_ns * 1e9

    @property
    def median_flops_per_s(self) -> float:
        return gemm_flops(self.shape) / self.median_ns * 1e9


class Stream(Timed):
    """One pass over arrays that no cache can hold: ``copy`` is a = b, ``triad`` is a = b + s*c."""

    kernel: Literal["copy", "triad"]
    array_bytes: Positive

    @property
    def bytes_per_pass(self) -> int:
        """The bytes that the program reads and writes: two arrays for copy, three for triad."""
        return self.array_bytes * (2 if self.kernel == "copy" else 3)

    @property
    def best_bytes_per_s(self) -> float:
        return self.bytes_per_pass / self.best_ns * 1e9

    @property
    def median_bytes_per_s(self) -> float:
        return self.bytes_per_pass / self.median_ns * 1e9


class Skipped(Frozen):
    """A route that this machine or this torch does not have."""

    dtype: Dtype
    route: Route
    reason: str


class Setting(Frozen):
    """What the peaks of one machine and one software depend on: measurements with equal settings can be merged."""

    threads: Positive
    cpus: tuple[Count, ...] | None = None  # those the threads ran on; null: the platform pins nothing
    quota_cpus: Amount | None = None
    variables: NamedValues = ()  # of the environment, those that steer the matrix libraries


class RooflinePoint(Frozen):
    """A step, or an operator, under the roof of the machine it ran on.

    The bytes are those its operators read and write, as if no cache held any of them: an upper bound of what crosses
    the memory bus, so that the intensity is a lower bound. Null bytes mean unknown.
    """

    flops: float = Field(ge=0)
    bytes_moved: float | None = Field(None, ge=0)
    time_s: float = Field(gt=0)
    peak_flops_per_s: float = Field(gt=0)
    bandwidth_bytes_per_s: float = Field(gt=0)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.flops and self.bytes_moved == 0:
            raise ValueError("neither computes nor moves anything: it has no place under a roofline")
        return self

    @property
    def achieved_flops_per_s(self) -> float:
        return self.flops / self.time_s

    @property
    def share_of_peak(self) -> float:
        """The achieved rate over the best rate, whatever bounds it. Above 1 if the peak was disturbed when measured."""
        return self.achieved_flops_per_s / self.peak_flops_per_s

    @property
    def intensity_flops_per_byte(self) -> float | None:
        """The arithmetic intensity, which is infinite where nothing is moved."""
        if self.bytes_moved is None:
            return None
        return self.flops / self.bytes_moved if self.bytes_moved else math.inf

    @property
    def attainable_flops_per_s(self) -> float | None:
        """The roof above this intensity."""
        intensity = self.intensity_flops_per_byte
        if intensity is None:
            return None
        return attainable_flops_per_s(intensity, self.peak_flops_per_s, self.bandwidth_bytes_per_s)

    @property
    def bound(self) -> Literal["compute", "bandwidth"] | None:
        """Which would take longer at its best: the arithmetic or moving the bytes."""
        intensity = self.intensity_flops_per_byte
        if intensity is None:
            return None
        ridge = ridge_flops_per_byte(self.peak_flops_per_s, self.bandwidth_bytes_per_s)
        return "compute" if intensity >= ridge else "bandwidth"

    @property
    def share_of_roof(self) -> float | None:
        """The shortest time that the roof allows, over the time taken, even if nothing is computed.

        Above 1 where caches, not memory, delivered the bytes.
        """
        if self.bytes_moved is None:
            return None
        least_s = max(self.flops / self.peak_flops_per_s, self.bytes_moved / self.bandwidth_bytes_per_s)
        return least_s / self.time_s


def attainable_flops_per_s(
    intensity_flops_per_byte: float, peak_flops_per_s: float, bandwidth_bytes_per_s: float
) -> float:
    """Return the roofline: min(peak, intensity * bandwidth) (Williams et al. 2009)."""
    return min(peak_flops_per_s, intensity_flops_per_byte * bandwidth_bytes_per_s)


def ridge_flops_per_byte(peak_flops_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return the intensity at which the roof stops rising. What lies below it is bound by bandwidth."""
    return peak_flops_per_s / bandwidth_bytes_per_s


class ThreadPeaks(Frozen):
    """The most that a number of threads can do."""

    setting: Setting
    products: tuple[Product, ...] = ()
    streams: tuple[Stream, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    other_cpu_share: float | None = Field(None, ge=0, le=1)
    """The share of the CPU time that other processes and other guests took meanwhile. It makes the peaks too low."""

    @property
    def disturbed(self) -> bool:
        """Whether others took too much of the CPUs to trust the peaks."""
        return self.other_cpu_share is not None and self.other_cpu_share > DISTURBED_SHARE

    @property
    def shapes(self) -> set[Shape]:
        """The shapes of the products that were measured."""
        return {product.shape for product in self.products}

    def peak_flops_per_s(self, dtype: Dtype = "fp32") -> float | None:
        """Return the best rate of any library and shape in the accuracy of ``dtype``; null where it was skipped."""
        rates = (p.best_flops_per_s for p in self.products if p.dtype == dtype and p.route != "medium")
        return max(rates, default=None)

    @property
    def bandwidth_bytes_per_s(self) -> float | None:
        """The best rate of copy and triad."""
        return max((stream.best_bytes_per_s for stream in self.streams), default=None)

    def products_of(self, dtype: Dtype, route: Route, shapes: Collection[Shape] = ()) -> list[Product]:
        """Return the products of one route: those of ``shapes``, else the largest. Empty where one is missing."""
        by_shape = {p.shape: p for p in self.products if p.dtype == dtype and p.route == route}
        wanted = shapes or [max(by_shape, key=gemm_flops)] if by_shape else shapes
        return [by_shape[shape] for shape in wanted] if by_shape.keys() >= set(wanted) else []

    def rate_flops_per_s(self, dtype: Dtype, route: Route, shapes: Collection[Shape] = ()) -> float | None:
        """Return the rate of the products of ``shapes`` at their best, one after another; else of the largest."""
        products = self.products_of(dtype, route, shapes)
        if not products:
            return None
        return sum(gemm_flops(p.shape) for p in products) / sum(p.best_ns for p in products) * 1e9

    def point(
        self, flops: float, bytes_moved: float | None, time_s: float, dtype: Dtype = "fp32"
    ) -> RooflinePoint | None:
        """Place a step or an operator under this roof; null where the roof was not measured for ``dtype``."""
        peak, bandwidth = self.peak_flops_per_s(dtype), self.bandwidth_bytes_per_s
        if peak is None or bandwidth is None:
            return None
        return RooflinePoint(
            flops=flops,
            bytes_moved=bytes_moved,
            time_s=time_s,
            peak_flops_per_s=peak,
            bandwidth_bytes_per_s=bandwidth,
        )

    def merged(self, other: "ThreadPeaks") -> "ThreadPeaks":
        """Merge both measurements. What both hold is taken from ``other``, the newer one."""
        assert self.setting == other.setting
        kept = [product for product in self.products if product.shape not in other.shapes]
        return ThreadPeaks(
            setting=self.setting,
            products=(*kept, *other.products),
            streams=other.streams or self.streams,
            skipped=other.skipped if other.products else self.skipped,
            other_cpu_share=max(filter(None, (self.other_cpu_share, other.other_cpu_share)), default=None),
        )


class MachinePeaks(Frozen):
    """The roofline of one machine with one software, by thread count."""

    schema_version: Literal[1] = 1
    machine: str
    """:attr:`ntp.records.environment.Machine.fingerprint`."""
    software: str
    """:attr:`ntp.records.environment.Software.fingerprint`."""
    shapes: tuple[Shape, ...] = ()
    """The workload's own products, which were measured besides the large square."""
    by_threads: tuple[ThreadPeaks, ...] = ()
    warnings: tuple[str, ...] = ()
    """What went wrong without costing the result, each with its remedy."""

    def at(self, threads: int) -> ThreadPeaks | None:
        """Return the peaks of this number of threads, if they were measured."""
        return next((peaks for peaks in self.by_threads if peaks.setting.threads == threads), None)


def matmul_advice(peaks: MachinePeaks, route: Route = "default") -> str | None:
    """Say in a sentence which faster matrix products are possible, and how to get them. None if torch chooses well.

    It compares the workload's own products, or the large square without a workload, at the most threads that were
    measured undisturbed. Every setting that it names was measured on this machine; less than 15% is not worth a word.

    Args:
        peaks: what was measured.
        route: that of the fp32 products now.
    """
    if not peaks.by_threads:
        return None
    most = max(peaks.by_threads, key=lambda item: (not item.disturbed, item.setting.threads))
    now = most.rate_flops_per_s("fp32", route, peaks.shapes)
    if now is None:
        return None
    fp32 = _fp32_advice(most, now, peaks.shapes) if route == "default" else None
    parts = [part for part in (fp32, _bf16_advice(most, now, peaks.shapes)) if part]
    if not parts:
        return None
    library = most.products_of("fp32", route, peaks.shapes)[0].library
    return f"fp32 products run at {_a_thread(now, most)} a thread through {library_name(library)}: {'; '.join(parts)}"


def _fp32_advice(peaks: ThreadPeaks, default: float, shapes: Sequence[Shape]) -> str | None:
    medium, onednn = (peaks.rate_flops_per_s("fp32", route, shapes) for route in ("medium", "onednn"))
    if medium is not None and medium >= default * NOTEWORTHY_RATIO:
        exact = all(product.error < FP32_ERROR for product in peaks.products_of("fp32", "medium", shapes))
        price = "keeps fp32's accuracy on this CPU" if exact else "rounds their factors to bf16"
        return (
            f"torch.set_float32_matmul_precision('medium') takes them to {_a_thread(medium, peaks)} "
            f"({medium / default:.1f}x) through oneDNN and {price}"
        )
    if onednn is not None and onednn >= default * NOTEWORTHY_RATIO:
        return (
            f"oneDNN reaches {_a_thread(onednn, peaks)} ({onednn / default:.1f}x), but no setting of torch takes the "
            "products of training there on this CPU"
        )
    if medium is not None and medium * NOTEWORTHY_RATIO <= default:
        return (
            "leave torch.set_float32_matmul_precision at 'highest', because 'medium' brings them down to "
            f"{_a_thread(medium, peaks)}"
        )
    return None


def _bf16_advice(peaks: ThreadPeaks, fp32: float, shapes: Sequence[Shape]) -> str | None:
    bf16 = peaks.rate_flops_per_s("bf16", "default", shapes)
    if bf16 is not None and bf16 >= fp32 * NOTEWORTHY_RATIO:
        return (
            f"bf16 reaches {_a_thread(bf16, peaks)} ({bf16 / fp32:.1f}x), so where the model tolerates its 8 "
            "significant bits run the forward pass under torch.autocast('cpu', dtype=torch.bfloat16)"
        )
    if bf16 is not None and bf16 * NOTEWORTHY_RATIO <= fp32:
        return f"stay with fp32, because bf16 reaches only {_a_thread(bf16, peaks)}"
    return None


def _a_thread(flops_per_s: float, peaks: ThreadPeaks) -> str:
    return f"{flops_per_s / peaks.setting.threads / 1e9:.3g} GFLOP/s"


def library_name(library: str) -> str:
    """Spell a matrix library as its makers do."""
    names = {"mkl": "MKL", "onednn": "oneDNN", "open": "OpenBLAS", "accelerate": "Accelerate", "blis": "BLIS"}
    return names.get(library, library)
