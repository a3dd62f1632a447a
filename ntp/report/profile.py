"""A profile as Markdown, with its pictures: what bounds the step, what to try, and everything that was observed."""

import shlex
from collections.abc import Callable, Iterator

from ntp.judge.bottleneck import Advice, Bottleneck, bottleneck, operator_points
from ntp.judge.statistics import quantile
from ntp.judge.warnings import warnings_of
from ntp.records.observations import MemoryProfile, Operator, OperatorProfile, PhaseTimes
from ntp.records.peaks import MachinePeaks, Product, RooflinePoint, ThreadPeaks, closed_form_flops
from ntp.records.run import Measurement, Run
from ntp.report.facts import hardware_facts, software_facts
from ntp.report.markup import code, fenced, prose, table
from ntp.report.sentences import failure_message
from ntp.report.terminal import wrapped
from ntp.report.units import UNKNOWN, duration, durations, ratio, share, significant, size

OPERATORS = 15
"""How many operators are listed."""

POINTS = 8
"""How many operators are drawn under the roofline."""


PICTURES = ("steps.svg", "phases.svg", "operators.svg", "peak.svg", "memory.svg", "roofline.svg")
"""The names of all files that :func:`pictures` may draw."""


def markdown(run: Run) -> str:
    """The profile of a run of one case: the answer first, then phases, operators, memory, roofline, machine."""
    if not run.measurements:
        failures = "\n\n".join(
            f"{code(failure.case_id)}: {prose(failure_message(failure))}" for failure in run.failures
        )
        return f"# Profile\n\n**Nothing was measured.**\n\n{failures}\n"
    measurement = run.measurements[0]
    observations = measurement.observations
    bound_by = bottleneck(measurement, run.peaks)
    peaks = run.peaks.at(measurement.case.runtime.threads) if run.peaks else None
    sections = [
        f"# Profile of {code(measurement.case.id)}",
        f"**{prose(bound_by.answer)}**",
        _advice(bound_by),
        _incomplete(run, measurement),
        _step(measurement),
        _phases(observations.phases) if observations.phases else "",
        _operators(measurement, observations.operators, peaks) if observations.operators else "",
        _flops(measurement),
        _memory(measurement, observations.memory),
        _roofline(measurement, bound_by.point, peaks, run.peaks) if run.peaks and peaks else "",
        _flame(measurement),
        _warnings(measurement),
        _machine(measurement),
        f"## Command\n\n{fenced(shlex.join(run.command))}" if run.command else "",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def terminal(run: Run) -> str:
    """The answer, and what to try."""
    if not run.measurements:
        return "Nothing was measured."
    measurement = run.measurements[0]
    bound_by = bottleneck(measurement, run.peaks)
    median_ns = quantile(measurement.step_time_ns, 0.5)
    lines = [wrapped(f"{measurement.case.id}, {duration(median_ns)} a step: {bound_by.answer}")]
    lines += [wrapped(f"{number}. {_saving(advice)}", "   ") for number, advice in enumerate(bound_by.advice, 1)]
    return "\n".join(lines)


def pictures(run: Run) -> dict[str, Callable[[], str]]:
    """The names of the files for which the run holds something, and what draws each of them as SVG."""
    from ntp.report import charts

    if not run.measurements:
        return {}
    measurement = run.measurements[0]
    observations = measurement.observations
    peaks = run.peaks.at(measurement.case.runtime.threads) if run.peaks else None
    drawn: dict[str, Callable[[], str]] = {"steps.svg": lambda: charts.svg(charts.step_times(measurement))}
    if observations.phases:
        phases = {measurement.case.id: observations.phases}
        drawn["phases.svg"] = lambda: charts.svg(charts.phase_shares(phases))
    if observations.operators:
        profile = observations.operators
        drawn["operators.svg"] = lambda: charts.svg(charts.operator_times(profile))
    if observations.memory:
        memory = observations.memory
        drawn["peak.svg"] = lambda: charts.svg(charts.peak_composition(memory))
        drawn["memory.svg"] = lambda: charts.svg(charts.memory_timeline(memory))
    if peaks and (points := list(_points(measurement, peaks, run.peaks))):
        drawn["roofline.svg"] = lambda: charts.svg(charts.roofline(peaks, points))
    return drawn


def _points(
    measurement: Measurement, peaks: ThreadPeaks, machine: MachinePeaks | None
) -> Iterator[tuple[str, RooflinePoint]]:
    point = bottleneck(measurement, machine).point
    if point is not None:
        yield "whole step", point
    for operator, under_roof in operator_points(measurement, peaks, POINTS):
        if operator.flops_per_step:
            yield f"{operator.name} ({operator.phase})", under_roof


def _advice(bound_by: Bottleneck) -> str:
    lines = [f"{number}. {prose(_saving(advice))}" for number, advice in enumerate(bound_by.advice, 1)]
    return "\n".join(["What to try:", "", *lines]) if lines else ""


def _saving(advice: Advice) -> str:
    saving = "" if advice.at_most is None else f" (saves {advice.at_most:.0%} of the step at the very most)"
    return _sentence(advice.text + saving)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _incomplete(run: Run, measurement: Measurement) -> str:
    failures = (f"{failure.case_id}: {failure_message(failure)}" for failure in run.failures)
    missing = [*failures, *measurement.observations.failures]
    return "\n".join(["**Incomplete:**", "", *(f"- {prose(line)}" for line in missing)]) if missing else ""


def _step(measurement: Measurement) -> str:
    samples = measurement.step_time_ns
    median_ns, *quartiles = (quantile(samples, q) for q in (0.5, 0.25, 0.75))
    tokens_per_s = measurement.case.workload.tokens / max(1.0, median_ns) * 1e9
    return (
        f"## The step\n\n{duration(median_ns)} (the median of {len(samples):,} steps of one process, half of them "
        f"within {durations(*quartiles)}; another process may differ by more), {significant(tokens_per_s)} tokens/s, "
        f"{measurement.parameters:,} parameters.\n\n![Every timed step, in order](steps.svg)"
    )


def _phases(phases: PhaseTimes) -> str:
    rows = [
        (samples.phase, duration(samples.median_ns), share(phases.share[samples.phase])) for samples in phases.phases
    ]
    return (
        f"## Phases\n\n{table(('phase', 'median', 'of the step'), rows)}\n\n"
        f"Together they take {phases.coverage:.2%} of the step. Timing them made a step {_more(phases.cost)} "
        f"({len(phases.bare_step_ns)} pairs of steps with and without).\n\n"
        "![How the step divides into its phases](phases.svg)"
    )


def _more(cost: float) -> str:
    return f"{abs(cost):.2%} {'longer' if cost >= 0 else 'shorter, which is noise'}"


def _operators(measurement: Measurement, profile: OperatorProfile, peaks: ThreadPeaks | None) -> str:
    points = dict(operator_points(measurement, peaks, len(profile.operators)))
    rows = [_operator_row(profile, operator, points.get(operator)) for operator in profile.operators[:OPERATORS]]
    headers = ("operator", "phase", "calls", "self time", "share", "allocated", "GFLOP/s", "FLOP/byte", "bound by")
    shapes = [
        (code(operator.name), operator.phase, code(operator.input_shapes or UNKNOWN),
         significant(operator.calls_per_step), duration(operator.self_time_ns_per_step), share(profile.share(operator)))
        for operator in profile.largest_by_shape[:OPERATORS]
    ]  # fmt: skip
    steps = len(profile.profiled_step_ns)
    return (
        f"## Operators\n\n{table(headers, rows)}\n\n"
        f"Everything is per step, over {steps} profiled steps. FLOP/byte counts four bytes for each element that an "
        f"operator is given, and what it allocates, as if no cache held any. "
        f"The profiler made a step {_more(profile.overhead)}. "
        "The last of them is in `trace.json`, for ui.perfetto.dev.\n\n"
        f"![Self time by operator](operators.svg)\n\n"
        f"By the shapes of their inputs:\n\n"
        f"{table(('operator', 'phase', 'inputs', 'calls', 'self time', 'share'), shapes)}"
    )


def _operator_row(profile: OperatorProfile, operator: Operator, point: RooflinePoint | None) -> tuple[str, ...]:
    computes = point is not None and operator.flops_per_step
    intensity = point.intensity_flops_per_byte if point is not None and computes else None
    return (
        code(operator.name),
        operator.phase,
        significant(operator.calls_per_step),
        duration(operator.self_time_ns_per_step),
        share(profile.share(operator)),
        size(operator.allocated_bytes_per_step),
        significant(point.achieved_flops_per_s / 1e9) if point is not None and computes else UNKNOWN,
        ratio(intensity),
        (point.bound or UNKNOWN) if point is not None else UNKNOWN,
    )


def _flops(measurement: Measurement) -> str:
    count = measurement.observations.flops
    if count is None:
        return ""
    rows = [(phase.name, significant(phase.flops / 1e9)) for phase in count.phases if phase.flops]
    text = f"## Operations\n\nA step takes {count.total_flops / 1e9:,.2f} GFLOP, counted as it ran"
    formula = closed_form_flops(measurement.case.workload)
    if formula is not None:
        text += f"; the closed form 6 (2EH + EV) BT gives {formula / 1e9:,.2f}"
    return (
        f"{text}. Matrix products, convolutions and attention count; embedding, softmax and AdamW do not.\n\n"
        f"{table(('phase', 'GFLOP'), rows)}"
    )


def _memory(measurement: Measurement, memory: MemoryProfile | None) -> str:
    usage, faults = measurement.usage, measurement.minor_page_faults_per_step
    resident = (
        f"The process's resident size peaks at {size(usage.peak_rss_bytes)}, interpreter and libraries included; "
        f"there are {significant(faults)} minor page faults a step, and {usage.major_page_faults} major ones in all."
    )
    if memory is None:
        return f"## Memory\n\n{resident}"
    composition = [
        (name.replace("_", " "), size(count), share(count / memory.peak_bytes)) for name, count in memory.peak if count
    ]
    phases = [(phase.phase, size(phase.peak_bytes), size(phase.live_bytes)) for phase in memory.phases]
    return (
        f"## Memory\n\nTensors take {size(memory.peak_bytes)} at their peak, in {memory.peak_phase}:\n\n"
        f"{table(('at the peak', 'bytes', 'share'), [*composition, ('all', size(memory.peak_bytes), share(1.0))])}\n\n"
        f"{table(('phase', 'peak', 'live at its end'), phases)}\n\n"
        f"![What the peak consists of](peak.svg)\n\n![Live tensor bytes over a step](memory.svg)\n\n{resident}"
    )


def _roofline(measurement: Measurement, point: RooflinePoint | None, peaks: ThreadPeaks, machine: MachinePeaks) -> str:
    rows = [_product_row(product) for product in peaks.products]
    bandwidth = peaks.bandwidth_bytes_per_s
    moved = (
        "" if bandwidth is None else f" Memory bandwidth: {bandwidth / 1e9:.3g} GB/s (the better of copy and triad)."
    )
    skipped = "".join(f"\n- {each.dtype} through {each.route}: {prose(each.reason)}" for each in peaks.skipped)
    doubts = "".join(f"\n- {prose(warning)}" for warning in machine.warnings)
    headers = ("M x K x N", "type", "route", "library", "best GFLOP/s", "median GFLOP/s")
    text = (
        f"## Roofline\n\nMeasured on this machine with {peaks.setting.threads} "
        f"thread{'s' if peaks.setting.threads > 1 else ''}, not read off a data sheet.{moved}\n\n{table(headers, rows)}"
    )
    if point is not None:
        text += f"\n\n{_whole_step(point)}"
    if any(_points(measurement, peaks, machine)):
        text += "\n\n![The step and its operators under the roofline](roofline.svg)"
    return text + (f"\n\nNot measured:\n{skipped}" if skipped else "") + (f"\n\nDoubts:\n{doubts}" if doubts else "")


def _product_row(product: Product) -> tuple[str, ...]:
    return (
        " x ".join(map(str, product.shape)),
        product.dtype,
        product.route,
        product.library,
        significant(product.best_flops_per_s / 1e9),
        significant(product.median_flops_per_s / 1e9),
    )


def _whole_step(point: RooflinePoint) -> str:
    text = (
        f"The whole step does {significant(point.achieved_flops_per_s / 1e9)} GFLOP/s, {share(point.share_of_peak)} of "
        "the best rate"
    )
    if point.bound is not None:
        text += f"; at {significant(point.intensity_flops_per_byte or 0)} FLOP/byte its roof is that of {point.bound}"
    return text + "."


def _flame(measurement: Measurement) -> str:
    flame = measurement.observations.flame
    if flame is None:
        return ""
    lines = []
    if flame.svg:
        lines.append(f"![Where the time goes, by call stack]({flame.svg})")
    if flame.speedscope:
        depth = "down to the C++ of torch" if flame.native else "Python frames only"
        lines.append(
            f"{code(flame.speedscope)} opens in speedscope: {flame.samples} samples at {flame.rate_hz} Hz, {depth}."
        )
    lines += [f"**{doubt.kind}**: {prose(doubt.message)}. {prose(_sentence(doubt.advice))}" for doubt in flame.warnings]
    return "\n\n".join(["## Flame graph", *lines])


def _warnings(measurement: Measurement) -> str:
    lines = [
        f"- **{warning.kind}**: {prose(warning.message)}. {prose(_sentence(warning.advice))}"
        for warning in warnings_of(measurement)
        # A profile begins with what is missing, and says of the step that it has a single process.
        if warning.kind not in {"not-observed", "too-few-processes"}
    ]
    return "\n".join(["## Warnings", "", *lines]) if lines else ""


def _machine(measurement: Measurement) -> str:
    environment = measurement.environment
    facts = (*hardware_facts(environment.machine), *software_facts(environment.software))
    return f"## Machine\n\n{table(('', ''), [(name, prose(text)) for name, text in facts if text])}"
