"""What bounds a step, and what to try about it. This is derived from what the observers measured."""

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from ntp.judge.processes import levels
from ntp.judge.warnings import MAX_FAULTS_PER_STEP, TUNED_YET_CHURNING
from ntp.records.observations import BETWEEN_OPERATORS, Operator, OperatorProfile
from ntp.records.peaks import (
    NOTEWORTHY_RATIO,
    Dtype,
    MachinePeaks,
    RooflinePoint,
    Route,
    ThreadPeaks,
    gemm_shapes,
    matmul_advice,
)
from ntp.records.run import Measurement

Work = Literal["matrix products", "softmax and loss", "optimizer", "elementwise and copies", "between operators"]
"""Kinds of work that take a step's time. Every operator belongs to exactly one."""

_PRODUCT = re.compile(r"mm(?![ai])|matmul|linear(?!\d)|convolution|conv\dd|dot_product|attention")
"""This matches neither gamma nor hamming, nor upsample_bilinear2d."""
_LOSS = re.compile(r"log_softmax|nll_loss|cross_entropy|logsumexp")

NOTEWORTHY_SHARE = 0.05
"""What takes less than this share of a step is not worth a word of advice."""

NEAR_THE_ROOF = 0.5
"""A roof bounds a step that reaches this share of it. Below that, most of the time goes to something else."""


class WorkShare(NamedTuple):
    work: Work
    share: float


class Advice(NamedTuple):
    """Something to try, and how much of a step it could save at most (Amdahl 1967)."""

    text: str
    at_most: float | None = None
    """The share of the step. None where it is unknown."""


class Bottleneck(NamedTuple):
    answer: str
    advice: tuple[Advice, ...]
    shares: tuple[WorkShare, ...]
    """The largest first."""
    point: RooflinePoint | None
    """The place of the whole step under this machine's roofline."""


def bottleneck(measurement: Measurement, peaks: MachinePeaks | None) -> Bottleneck:
    """Say what bounds the step of a measurement, as far as its observers and the roofline show."""
    shares = work_shares(measurement.observations.operators)
    at_threads = peaks.at(measurement.case.runtime.threads) if peaks else None
    point = step_point(measurement, at_threads)
    return Bottleneck(
        answer=_answer(measurement, shares, point, at_threads),
        advice=tuple(sorted(_advice(measurement, shares, peaks), key=lambda advice: -(advice.at_most or 0))),
        shares=shares,
        point=point,
    )


def work_of(operator: Operator) -> Work:
    if operator.name == BETWEEN_OPERATORS or not operator.name.startswith("aten::"):
        return "between operators"  # autograd's own nodes, the optimizer's Python, torch on its way
    if operator.phase == "optimizer":
        return "optimizer"
    if _LOSS.search(operator.name) or (operator.phase == "loss" and operator.name == "aten::_softmax"):
        return "softmax and loss"
    if _PRODUCT.search(operator.name):
        return "matrix products"
    return "elementwise and copies"


def work_shares(profile: OperatorProfile | None) -> tuple[WorkShare, ...]:
    """Add up the self time of the operators by kind of work, the largest first. Empty without a profile."""
    if profile is None:
        return ()
    shares: dict[Work, float] = {}
    for operator in profile.operators:
        work = work_of(operator)
        shares[work] = shares.get(work, 0.0) + profile.share(operator)
    return tuple(WorkShare(*item) for item in sorted(shares.items(), key=lambda item: -item[1]))


def step_point(measurement: Measurement, peaks: ThreadPeaks | None) -> RooflinePoint | None:
    """Place the whole step under the roof by its counted operations, what its operators moved, and its time."""
    flops, operators = measurement.observations.flops, measurement.observations.operators
    if peaks is None or flops is None or not flops.total_flops:
        return None
    # Every step moves something: no bytes at all means that nobody counted them.
    # Not sum: Python 3.12 made that more precise, and the same record gives the same report everywhere.
    moved = (math.fsum(operator.moved_bytes_per_step for operator in operators.operators) if operators else 0) or None
    return peaks.point(flops.total_flops, moved, _step_s(measurement), _dtype(measurement))


def _dtype(measurement: Measurement) -> Dtype:
    """Return the type of the products that bound this step: fp32 ones do not bound a step that computes in bf16."""
    return "fp32" if measurement.case.step.precision == "fp32" else "bf16"


def operator_points(
    measurement: Measurement, peaks: ThreadPeaks | None, most: int = 8
) -> tuple[tuple[Operator, RooflinePoint], ...]:
    """Place the costliest operators that compute or move something under the roof."""
    profile = measurement.observations.operators
    if peaks is None or profile is None:
        return ()
    points = []
    for operator in profile.operators:
        # What takes less than a nanosecond was not measured.
        if operator.self_time_ns_per_step >= 1 and (operator.flops_per_step or operator.moved_bytes_per_step):
            point = peaks.point(
                operator.flops_per_step,
                operator.moved_bytes_per_step,
                operator.self_time_ns_per_step / 1e9,
                _dtype(measurement),
            )
            if point:
                points.append((operator, point))
    return tuple(points[:most])


def _step_s(measurement: Measurement) -> float:
    return levels([measurement])[measurement.case].value_ns / 1e9


def _share(shares: tuple[WorkShare, ...], work: Work) -> float:
    return dict(shares).get(work, 0.0)


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
    """Say how fast the products run by themselves, against what the same route was measured to reach."""
    flops = measurement.observations.flops
    if flops is None or not flops.total_flops:
        return ""
    rate = flops.total_flops / (share * _step_s(measurement))
    text = f" and run at {_gflops(rate)}"
    dtype, route = _route(measurement)
    reached = peaks.rate_flops_per_s(dtype, route)
    if reached:
        text += f", {rate / reached:.0%} of what {_ROUTES[dtype, route]} reaches on a large square"
    return text


_ROUTES: dict[tuple[Dtype, Route], str] = {
    ("fp32", "default"): "torch's own route", ("fp32", "medium"): "oneDNN", ("bf16", "default"): "bf16",
}  # fmt: skip


def _route(measurement: Measurement) -> tuple[Dtype, Route]:
    """Return how the products of this step are computed."""
    dtype = _dtype(measurement)
    return dtype, "medium" if dtype == "fp32" and measurement.case.step.matmul == "onednn" else "default"


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
    """Advise to take a faster route than the step's own. A step in bf16 is on the fastest already."""
    dtype, route = _route(measurement)
    if dtype != "fp32":
        return
    shapes = gemm_shapes(measurement.case.workload)
    measured = shapes if at_threads.products_of("fp32", route, shapes) else ()
    now = at_threads.rate_flops_per_s("fp32", route, measured)
    others = [at_threads.rate_flops_per_s(*other, measured) for other in _OTHER_ROUTES if other != ("fp32", route)]
    best = max((rate for rate in others if rate), default=None)
    sentence = matmul_advice(peaks, route)
    if sentence and now and best and best >= now * NOTEWORTHY_RATIO:
        yield Advice(f"compute the products another way: {sentence}", products * (1 - now / best))


_OTHER_ROUTES: tuple[tuple[Dtype, Route], ...] = (("fp32", "medium"), ("bf16", "default"))
"""The routes that :func:`ntp.records.peaks.matmul_advice` knows how to reach."""
