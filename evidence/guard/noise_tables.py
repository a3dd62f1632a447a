"""Tables of where the noise comes from, and of how much is left in other ways to measure and to sum up."""

import math
from collections.abc import Sequence

from draws import COMPARED, LENGTHS
from error_tables import Drawn, missing, shares
from pools import CASES, CONDITIONS, Recorded
from recordings import NOT_RECORDED, Row, seconds
from spread import SUMMARIES, deviation, levels, pairs_for_a_pass
from suites import THRESHOLD, joined, summed_up, usual_plan

from ntp.judge.guard import CPU, METRICS, WALL
from ntp.records.pairs import Pair
from ntp.report.markup import code, table
from ntp.report.units import UNKNOWN


def noise(recorded: Recorded) -> str:
    rows = []
    for name in CONDITIONS:
        if name not in recorded.pools:
            rows.append(missing(CONDITIONS[name], 8))
            continue
        for case, pairs in recorded.pools[name].pairs.items():
            parts = levels(pairs)
            sds = [UNKNOWN if math.isnan(part) else f"{part:.2%}" for part in parts]
            rows.append((f"{CONDITIONS[name]}: {code(case)}", str(len(pairs)), *sds))
    headers = ("identical code", "pairs", "step", "block", "round", "process", "pair", "log-ratio")
    return table(headers, rows)


ON_NOISE = """\
These are standard deviations of the logarithm of a step's CPU time: from step to step within a block; from block to
block of one side; from round to round, of both sides alike; from process to process; and from pair to pair, of both
sides alike. What both sides share drops out of the log-ratio of their means, whose standard deviation is the last
column. Where a block is one step, the first column is part of the second. (Nested random effects, by the method of
moments.)"""


def ablation(recorded: Recorded) -> str:
    if not recorded.ablation:
        return f"Pairs measured in other ways: {NOT_RECORDED}."
    rows = []
    for case in CASES:
        for arm, by_case in recorded.ablation.items():
            if case in by_case:
                pairs, pair_s = by_case[case]
                cells = [cell for metric in (CPU, WALL) for cell in spread_and_power(pairs, metric, pair_s)]
                rows.append((code(case), arm, str(len(pairs)), seconds(pair_s), *cells))
    headers = ("case", "arm", "pairs", "a pair takes", *(f"{what}, {name}" for name in (CPU, WALL) for what in _WHAT))
    return table(headers, rows)


_WHAT = ("spread", "power")


def spread_and_power(pairs: Sequence[Pair], metric: str, pair_s: float) -> Row:
    """Write the standard deviation of a pair's log-ratio in its 95% interval, and in percent for a second of pairs."""
    if len(pairs) < 2:
        return (UNKNOWN, UNKNOWN)
    sd = deviation(list(map(METRICS[metric], pairs)))
    return f"{sd.value:.2%} ({sd.low:.2%} to {sd.high:.2%})", f"{100 * sd.value * math.sqrt(pair_s):.2f}"


ON_ABLATION = f"""\
*Spread* is the standard deviation of the log-ratio of a pair of identical code (`{CPU}` and `{WALL}`) in its 95%
interval; *power* is that in percent times the square root of the seconds that a pair takes: the less, the sooner a
guard is done. The arms alternated, in random order. *In turn* lets the sides have a step each in turn, and never at
once; *in blocks* is the way of sides that are unlike: warm until steady, then blocks of 50 ms in turn, as guards had it
before; *one after the other* measures all of one side first."""


def summaries(recorded: Recorded, drawn: Drawn, name: str) -> str:
    """Make the table of the ways to sum up a pair: their spread on identical code, and how guards end with it alone."""
    if name not in recorded.pools:
        return NOT_RECORDED.capitalize() + "."
    pool, plan = recorded.pools[name], usual_plan()
    rows = []
    for metric, summary in SUMMARIES.items():
        sds = [deviation(summed_up(pool, summary)[case]).value for case in CASES]
        needed = [pairs_for_a_pass(sd, plan, THRESHOLD) for sd in sds]
        letters = [drawn["metrics"].get(kind, {}).get(metric, "") for kind in (name, "busy-2")]
        rows.append(
            (
                metric,
                *(f"{sd:.2%}" for sd in sds),
                ", ".join("never" if n is None else str(n) for n in needed),
                shares(letters[0], "r", bounds=False),
                shares(letters[0], "p", bounds=False),
                shares(letters[1], "r", bounds=False) if letters[1] else NOT_RECORDED,
            )
        )
    return table(("metric", *map(code, CASES), "pairs for a pass", "false alarm", "passed", "+2% found"), rows)


ON_SUMMARIES = f"""\
This is the standard deviation of the log-ratio of a pair of identical code, by case; about how many pairs with this
spread and a mean of zero pass at {THRESHOLD:.0%}, by case (never: not within the plan); and how resampled guards end
that guard this metric alone. *Rounds* compares the two blocks of each round by their median steps, and takes the
median of the log-ratios, or another centre; the other metrics compare the two processes."""


def lengths(recorded: Recorded, drawn: Drawn) -> str:
    if "quiet" not in recorded.pools:
        return NOT_RECORDED.capitalize() + "."
    rows = []
    for times in LENGTHS:
        ends = {name: drawn["longer"].get(name, {}).get(str(times), "") for name in COMPARED}
        rows.append(
            (
                f"{times} x",
                *(_spread(recorded.pools["quiet"].pairs[case], times) for case in CASES),
                *(shares(ends[name], "p") for name in CONDITIONS),
                shares(ends["busy-2"], "r"),
            )
        )
    passed = [f"passed, {CONDITIONS[name]}" for name in CONDITIONS]
    return table(("pair", *map(code, CASES), *passed, "+2% found"), rows)


def _spread(pairs: Sequence[Pair], times: int) -> str:
    if len(pairs) < 2 * times:
        return UNKNOWN
    groups = [pairs[start : start + times] for start in range(0, len(pairs) - times + 1, times)]
    return f"{deviation([METRICS[CPU](joined(group)) for group in groups]).value:.2%}"


ON_LENGTHS = """\
Pairs two and three times as long are put together from recorded ones: this is the standard deviation of their log-
ratio with nothing else running, and how resampled guards of such pairs end in the same time. A longer pair is less
noisy, but fewer of them fit into a budget."""
