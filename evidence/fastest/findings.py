"""The report as Markdown, and its chart: pure functions of what was recorded."""

import statistics
from collections.abc import Mapping, Sequence

import altair as alt
from attempts import Attempts, attempts_table
from comparisons import COMPARISONS, COMPILED, LEVERS, THREADS
from races import Raced, Recorded, Recording, Searched
from recordings import NOT_RECORDED, origin

from ntp.case import Case
from ntp.judge.statistics import Interval
from ntp.judge.tuning import incumbent, mean_ratio
from ntp.records.pairs import SideName
from ntp.records.peaks import MachinePeaks
from ntp.report.drawing import BARS_WIDTH, SKY, chart_of, finished, names, svg, value_texts
from ntp.report.markup import code, prose, table
from ntp.report.units import UNKNOWN, duration, share, significant, size

_RANKED = 5
"""A table shows this many of all cases."""


def files(recorded: Recorded) -> Mapping[str, str]:
    charts = {"fastest.svg": chart(recorded)} if recorded.pairs else {}
    return {"README.md": markdown(recorded), **charts}


def headline(recorded: Recorded) -> str:
    times = _speed_ups(recorded.pairs)
    if "exact" not in times:
        return f"{NOT_RECORDED.capitalize()}."
    exact = f"The fastest exact step is {_words(times['exact'])} times as fast as the plain loop"
    bf16 = f"; with bf16 products {_words(times['bf16'])} times" if "bf16" in times else ""
    return f"{exact}{bf16}."


def markdown(recorded: Recorded) -> str:
    pairs, compiling = recorded.pairs, recorded.compiling
    sections = [
        "# How fast a training step can be",
        f"**{headline(recorded)}**",
        "![times as fast as the plain loop](fastest.svg)" if pairs else "",
        "## Against the plain loop, torch.compile and JAX",
        _comparisons(pairs) if pairs else _NOTHING,
        _ON_COMPARISONS,
        "## What limits it",
        _limits(pairs, recorded.peaks) if pairs and recorded.peaks else _NOTHING,
        _ON_LIMITS,
        "## What was tried to come closer to the peak",
        attempts_table(recorded.attempts) if recorded.attempts else _NOTHING,
        _ON_ATTEMPTS,
        "## Memory and page faults",
        _used(pairs) if pairs else _NOTHING,
        _ON_USED,
        "## torch.compile",
        _compiling(compiling) if compiling else _NOTHING,
        _ON_COMPILING,
        "## The search",
        *(_search(name, searched) for name, searched in recorded.searches.items()),
        _ON_SEARCH,
        "## The recordings",
        _files(recorded),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


_NOTHING = f"{NOT_RECORDED.capitalize()}."


def _speed_ups(recording: Recording | None) -> dict[str, Interval]:
    ratios = {race.name: mean_ratio(race.pairs) for race in recording.races} if recording else {}
    return {name: _inverse(ratio) for name, ratio in ratios.items() if ratio}


def _inverse(ratio: Interval) -> Interval:
    return Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low)


def _words(times: Interval) -> str:
    return f"{significant(times.value)} ({significant(times.low)} to {significant(times.high)})"


def _comparisons(recording: Recording) -> str:
    times = _speed_ups(recording)
    rows = []
    for race in recording.races:
        comparison = COMPARISONS[race.name]
        base = f"{race.peer}: {race.base}" if race.peer else race.base
        got = _words(times[race.name]) if race.name in times else prose(race.failure or NOT_RECORDED)
        target = UNKNOWN if comparison.target is None else f"{comparison.target:g}"
        rows.append((prose(comparison.what), code(base), code(race.head), got, target, str(len(race.pairs))))
    return table(("what", "base", "head", "times as fast", "hoped for", "pairs"), rows)


_ON_COMPARISONS = """\
"Times as fast" is the base's step time over the head's, in pairs of fresh processes that ran in alternating blocks,
with the 95% interval of t over pairs. The plain loop runs as an ordinary Python process does: with glibc's allocator
and OpenMP as they come, and threads free to move (`glibc-free`). All run on two threads."""


def _limits(recording: Recording, machine: MachinePeaks) -> str:
    """Make the table of how much of this machine's peak a step reaches, and how fast it would be with all of it."""
    peaks = machine.at(THREADS)
    rows = []
    for race in (race for race in recording.races if race.name in _LIMITED and race.pairs):
        flops = race.sides[0]["head"].flops
        precision = Case.parse(race.head).step.precision
        peak = peaks and peaks.peak_flops_per_s("fp32" if precision == "fp32" else "bf16")
        if flops and peak:
            head_ns, least_ns = _median_ns(race, "head"), flops / peak * 1e9
            rows.append(
                (
                    code(race.head),
                    significant(flops / 1e9),
                    significant(flops / head_ns),
                    significant(peak / 1e9),
                    share(least_ns / head_ns),
                    significant(_median_ns(race, "base") / least_ns),
                )
            )
    headers = ("case", "GFLOP a step", "GFLOP/s", "peak GFLOP/s", "of peak", "times as fast, at the peak")
    return table(headers, rows)


_LIMITED = ("exact", "bf16", "long")

_ON_LIMITS = """\
The rate is that of the matrix products that are left of a step after deduplication, counted, over its median time.
The peak is the best product of its precision that `python evidence/fastest peaks` could reach on this machine with
any library. "At the peak" is the ratio to the plain loop if a step were nothing but these products at that rate."""


_ON_ATTEMPTS = """\
This is how much longer or shorter a step becomes, in its 95% interval over processes; in each process, every attempt
had one step in turn, in an order drawn for each round. None of the first ten losses differs by more than 1e-5 from
those of the step as it is, unless the table says so. [attempted_steps.py](../../evidence/fastest/attempted_steps.py)
contains the attempts. bf16 products of fp32 tensors (`bf16-matmul`) are missing because ntp refuses them on a CPU
whose oneDNN computes fp32 products in fp32."""


def _used(recording: Recording) -> str:
    rows: dict[str, tuple[str, ...]] = {}
    for race in recording.races:
        for side, case_id in _sides(race):
            observed = [sides[side] for sides in race.sides]
            if observed and case_id not in rows and observed[0].peak_tensor_bytes is not None:
                faults = statistics.median(used.minor_page_faults_per_step for used in observed)
                rss = statistics.median(used.peak_rss_bytes for used in observed)
                flops = UNKNOWN if observed[0].flops is None else significant(observed[0].flops / 1e9)
                rows[case_id] = (
                    code(case_id), size(observed[0].peak_tensor_bytes), size(rss), significant(faults), flops,
                    duration(_median_ns(race, side)),
                )  # fmt: skip
    headers = ("case", "peak tensors", "peak RSS", "page faults a step", "GFLOP a step", "step time")
    return table(headers, list(rows.values()))


_ON_USED = """\
Each case is shown as it was first measured. Step times are medians over the steps of one comparison, and can be
compared only within it."""


def _sides(race: Raced) -> Sequence[tuple[SideName, str]]:
    return (("head", race.head),) if race.peer else (("base", race.base), ("head", race.head))


def _median_ns(race: Raced, side: SideName) -> float:
    return statistics.median(time_ns for pair in race.pairs for time_ns in pair.samples(side))


def _compiling(recording: Recording) -> str:
    names = {comparison.what for comparison in COMPILED}
    rows = []
    for race in (race for race in recording.races if race.name in names):
        ratio = mean_ratio(race.pairs)
        if ratio is None:
            rows.append((prose(race.name), *[prose(race.failure or NOT_RECORDED)] * 3))
            continue
        extra_ns = statistics.median(_compile_ns(race, i) for i in range(len(race.pairs)))
        told = not ratio.low <= 1 <= ratio.high
        pays_after = _break_even(race, extra_ns) if told else "cannot be told"
        rows.append((prose(race.name), duration(extra_ns), _words(_inverse(ratio)), pays_after))
    return table(("case", "compile time", "times as fast as eager", "pays after"), rows)


def _compile_ns(race: Raced, pair: int) -> float:
    """Return the time that the compiling steps took beyond as many ordinary steps."""
    steps = race.sides[pair]["head"].compiling_step_ns
    usual_ns = statistics.median(race.pairs[pair].samples("head"))
    return max(0.0, sum(steps) - len(steps) * usual_ns)


def _break_even(race: Raced, extra_ns: float) -> str:
    gain_ns = _median_ns(race, "base") - _median_ns(race, "head")
    return "never" if gain_ns <= 0 else f"{extra_ns / gain_ns:,.0f} steps"


_ON_COMPILING = """\
The compile time is what the first three steps take beyond three ordinary steps, without any of torch.compile's caches.
It pays after the steps that save this time, and never where a compiled step is slower; where the interval holds 1,
that cannot be told. The whole step is compiled: the model, its loss and the optimizer's update (`--compile step`)."""


def _search(name: str, searched: Searched) -> str:
    pairs = sum(len(case.pairs) for case in searched.cases)
    cases = sum(bool(case.pairs) for case in searched.cases)
    place = {case_id: at for at, (case_id, _) in enumerate(searched.ranking, 1)}
    lines = [f"`{name}`: {cases} cases could be measured, with {pairs} pairs; the fastest is {code(searched.best)}."]
    if searched.tuning is not None:
        winner = incumbent(searched.tuning)
        used = sum(len(race.pairs) for race in searched.tuning.races)
        lines.append(
            f"The search used {used} pairs ({used / pairs:.0%}) and found {code(winner)}, "
            f"number {place[winner]} of them."
        )
    if searched.final is not None and (ratio := mean_ratio(searched.final.pairs)):
        lines.append(
            f"Raced against the fastest in {len(searched.final.pairs)} more pairs, its time differs by "
            f"{ratio.value - 1:+.1%} from that one's ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})."
        )
    rows = [(code(case_id), f"{significant(1 / ratio)}x") for case_id, ratio in searched.ranking[:_RANKED]]
    return " ".join(lines) + "\n\n" + table((f"{name}: the fastest of {len(place)}", "speed against the default"), rows)


_ON_SEARCH = f"""\
Every case that the levers {", ".join(map(code, LEVERS))} make was raced against the default, in equally many pairs;
then `ntp tune` searched the same levers until it had used a fifth as many pairs. The fastest of many cases is partly
lucky, so the search's winner is raced against it in pairs of their own."""


def _files(recorded: Recorded) -> str:
    files: dict[str, Recording | Searched | Attempts | None] = {
        "pairs": recorded.pairs,
        "compiling": recorded.compiling,
        "attempts": recorded.attempts,
        **{f"search-{name}": searched for name, searched in recorded.searches.items()},
    }
    rows = []
    for name, recording in files.items():
        if recording is not None:
            machine = recording.machine.model_dump()
            where = origin(recording.started, recording.wall_time_s, _commits(recording), machine)
            rows.append((code(f"{name}.json.gz"), *where, code(" ".join(recording.command))))
    return table(("file", "UTC", "took", "commit", "machine", "command"), rows)


def _commits(recording: Recording | Searched | Attempts) -> Sequence[str]:
    others: list[str] = []
    if isinstance(recording, Searched):
        others = [recording.cases_commit]
    elif isinstance(recording, Recording):
        others = [race.commit for race in recording.races]
    return list(dict.fromkeys(filter(None, (recording.commit, *others))))


_SHOWN = {
    "quiet": "quiet runtime", "exact": "exact: onednn+deduplicated+fused", "bf16": "bf16+deduplicated+fused",
}  # fmt: skip


def chart(recorded: Recorded) -> str:
    speed_ups = _speed_ups(recorded.pairs)
    rows = [
        {"step": label, "times": times.value, "low": times.low, "high": times.high, "text": _words(times)}
        for name, label in _SHOWN.items()
        if (times := speed_ups.get(name))
    ]
    bars = chart_of(*rows).encode(names("step"), alt.X("times:Q").title("times as fast, with the 95% interval"))
    intervals = bars.mark_rule(color="black").encode(alt.X("low:Q"), alt.X2("high:Q"))
    layers = alt.layer(bars.mark_bar(color=SKY), intervals, value_texts(bars, "high"))
    return svg(finished(layers.properties(width=BARS_WIDTH, height=alt.Step(34)), "Times as fast as the plain loop"))
