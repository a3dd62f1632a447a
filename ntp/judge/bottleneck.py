"""What bounds a step, and what to try about it. From what the observers saw; nothing is measured here."""

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ntp.judge.statistics import median_interval
from ntp.judge.warnings import MAX_FAULTS_PER_STEP, TUNED_YET_CHURNING
from ntp.records.observations import BETWEEN_OPERATORS, Operator, OperatorProfile
from ntp.records.peaks import (
    NOTEWORTHY_RATIO,
    MachinePeaks,
    RooflinePoint,
    ThreadPeaks,
    gemm_shapes,
    matmul_advice,
)
from ntp.records.run import Measurement

Work = Literal["matrix products", "softmax and loss", "optimizer", "elementwise and copies", "between operators"]
"""Kinds of work that a step's time goes to. Every operator is of exactly one."""

_PRODUCT = re.compile(r"mm(?![ai])|matmul|linear(?!\d)|convolution|conv\dd|dot_product|attention")
"""Not of gamma and hamming, nor of upsample_bilinear2d."""
_LOSS = re.compile(r"log_softmax|nll_loss|cross_entropy|logsumexp")

NOTEWORTHY_SHARE = 0.05
"""Of a step: what takes less is not worth a word of advice."""


NEAR_THE_ROOF = 0.5
"""Share of the roof from which on it may be said to bound a step. Below it, most of the time goes to something else."""


class WorkShare(NamedTuple):
    """How much of a step one kind of work takes."""

    work: Work
    share: float


class Advice(NamedTuple):
    """Something to try, and how much of a step it could save at the very most (Amdahl 1967)."""

    text: str
    at_most: float | None = None
    """Share of the step; None where it cannot be told."""


class Bottleneck(NamedTuple):
    """What bounds a step."""

    answer: str
    advice: tuple[Advice, ...]
    shares: tuple[WorkShare, ...]
    """The largest first."""
    point: RooflinePoint | None
    """The whole step under this machine's roofline."""


def bottleneck(measurement: Measurement, peaks: MachinePeaks | None) -> Bottleneck:
    """Say what bounds the step of a measurement, as far as its observers and the roofline tell."""
    shares = work_shares(measurement.observations.operators)
    at_threads = peaks.at(measurement.case.runtime.threads) if peaks else None
    point = step_point(measurement, at_threads)
    return Bottleneck(
        answer=_answer(measurement, shares, point, at_threads),
        advice=tuple(sorted(_advice(measurement, shares, peaks), key=lambda each: -(each.at_most or 0))),
        shares=shares,
        point=point,
    )


def work_of(operator: Operator) -> Work:
    """What kind of work an operator does."""
    if operator.name == BETWEEN_OPERATORS or not operator.name.startswith("aten::"):
        return "between operators"  # autograd's own nodes, the optimizer's Python, torch on its way
    if operator.phase == "optimizer":
        return "optimizer"
    if _LOSS.search(operator.name):
        return "softmax and loss"
    if _PRODUCT.search(operator.name):
        return "matrix products"
    return "elementwise and copies"


def work_shares(profile: OperatorProfile | None) -> tuple[WorkShare, ...]:
    """The self time of all operators by kind of work, the largest first. Empty without a profile."""
    if profile is None:
        return ()
    shares: dict[Work, float] = {}
    for operator in profile.operators:
        work = work_of(operator)
        shares[work] = shares.get(work, 0.0) + profile.share(operator)
    return tuple(sorted((WorkShare(work, share) for work, share in shares.items()), key=lambda each: -each.share))


def step_point(measurement: Measurement, peaks: ThreadPeaks | None) -> RooflinePoint | None:
    """The whole step under the roof: its counted operations, what its operators moved, its median time."""
    flops, operators = measurement.observations.flops, measurement.observations.operators
    if peaks is None or flops is None or not flops.total_flops:
        return None
    # Every step moves something: no bytes at all means that nobody saw them.
    # Not sum: Python 3.12 made that more precise, and the same record gives the same report everywhere.
    moved = (math.fsum(each.moved_bytes_per_step for each in operators.operators) if operators else 0) or None
    return peaks.point(flops.total_flops, moved, _median_s(measurement))


def operator_points(
    measurement: Measurement, peaks: ThreadPeaks | None, most: int = 8
) -> tuple[tuple[Operator, RooflinePoint], ...]:
    """The costliest operators that compute or move something, under the roof."""
    profile = measurement.observations.operators
    if peaks is None or profile is None:
        return ()
    found = []
    for operator in profile.operators:
        # What takes less than a nanosecond was not measured.
        if operator.self_time_ns_per_step >= 1 and (operator.flops_per_step or operator.moved_bytes_per_step):
            point = peaks.point(
                operator.flops_per_step, operator.moved_bytes_per_step, operator.self_time_ns_per_step / 1e9
            )
            if point:
                found.append((operator, point))
    return tuple(found[:most])


def _median_s(measurement: Measurement) -> float:
    return median_interval(measurement.samples_ns).value / 1e9


def _share(shares: tuple[WorkShare, ...], work: Work) -> float:
    return next((each.share for each in shares if each.work == work), 0.0)


_TAKES: dict[Work, str] = {
    "matrix products": "Matrix products take",
    "softmax and loss": "Softmax and loss take",
    "optimizer": "The optimizer takes",
    "elementwise and copies": "Elementwise work and copies take",
    "between operators": "What lies between operators takes",
}


def _answer(
    measurement: Measurement,
    shares: tuple[WorkShare, ...],
    point: RooflinePoint | None,
    peaks: ThreadPeaks | None,
) -> str:
    if not shares:
        return "The operators of this step were not observed: profile it to see what bounds it."
    first = shares[0]
    answer = f"{_TAKES[first.work]} {first.share:.0%} of the step"
    if first.work == "matrix products" and peaks is not None:
        answer += _product_rate(measurement, first.share, peaks)
    elif len(shares) > 1:
        answer += f", {shares[1].work} {shares[1].share:.0%}"
    if point is not None:
        answer += (
            f". As a whole it does {_gflops(point.achieved_flops_per_s)}, {point.share_of_peak:.0%} of the fastest "
            f"product measured here with as many threads{_bound(point)}"
        )
    return answer + "."


def _product_rate(measurement: Measurement, share: float, peaks: ThreadPeaks) -> str:
    """How fast the products run by themselves, against what the same route was measured to reach."""
    flops = measurement.observations.flops
    if flops is None or not flops.total_flops:
        return ""
    rate = flops.total_flops / (share * _median_s(measurement))
    text = f" and run at {_gflops(rate)}"
    default = peaks.rate_flops_per_s("fp32", "default")
    if default:
        text += f", {rate / default:.0%} of what torch's own route reaches on a large square"
    return text


def _bound(point: RooflinePoint) -> str:
    if point.bound is None or point.share_of_roof is None:
        return ""
    text = f"; with {point.intensity_flops_per_byte:.0f} operations a byte "
    if point.share_of_roof >= NEAR_THE_ROOF:
        return f"{text}it is bound by {point.bound}"
    return f"{text}neither compute nor bandwidth bounds it: its roof is {1 / point.share_of_roof:.1f} times as high"


def _gflops(flops_per_s: float) -> str:
    return f"{flops_per_s / 1e9:.3g} GFLOP/s"


def _advice(measurement: Measurement, shares: tuple[WorkShare, ...], peaks: MachinePeaks | None) -> Iterator[Advice]:
    products = _share(shares, "matrix products")
    at_threads = peaks.at(measurement.case.runtime.threads) if peaks else None
    if products >= NOTEWORTHY_SHARE and at_threads is not None and peaks is not None:
        yield from _product_advice(measurement, products, at_threads, peaks)
    optimizer = _share(shares, "optimizer")
    if optimizer >= NOTEWORTHY_SHARE and measurement.case.step.optimizer != "fused":
        yield Advice(
            "use the fused AdamW (--optimizer fused): it takes one pass over the parameters instead of many", optimizer
        )
    loss = _share(shares, "softmax and loss")
    if loss >= NOTEWORTHY_SHARE:
        yield Advice(
            "make the logits smaller: softmax and loss read and write one number for each token and word", loss
        )
    elementwise = _share(shares, "elementwise and copies")
    if elementwise >= NOTEWORTHY_SHARE:
        yield Advice("fuse elementwise operations: try torch.compile", elementwise)
    between = _share(shares, "between operators")
    if between >= NOTEWORTHY_SHARE:
        yield Advice("give each operator more to do: a larger batch, or torch.compile", between)
    faults = measurement.minor_page_faults_per_step
    if faults > MAX_FAULTS_PER_STEP:
        tuned = measurement.case.runtime.allocator == "glibc-tuned"
        how = TUNED_YET_CHURNING if tuned else "use --allocator glibc-tuned"
        yield Advice(f"keep memory mapped, for there are {faults:,.0f} page faults a step: {how}")


def _product_advice(
    measurement: Measurement, products: float, at_threads: ThreadPeaks, peaks: MachinePeaks
) -> Iterator[Advice]:
    shapes = gemm_shapes(measurement.case.workload)
    known = shapes if at_threads.products_of("fp32", "default", shapes) else ()
    default = at_threads.rate_flops_per_s("fp32", "default", known)
    others = [at_threads.rate_flops_per_s(dtype, route, known) for dtype, route in _OTHER_ROUTES]
    best = max((rate for rate in others if rate), default=None)
    sentence = matmul_advice(peaks)
    if sentence and default and best and best >= default * NOTEWORTHY_RATIO:
        yield Advice(f"compute the products another way: {sentence}", products * (1 - default / best))


_OTHER_ROUTES: tuple[tuple[Literal["fp32", "bf16"], Literal["default", "medium"]], ...] = (
    ("fp32", "medium"),
    ("bf16", "default"),
)
"""The routes that :func:`ntp.records.peaks.matmul_advice` knows how to reach."""
