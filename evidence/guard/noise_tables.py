"""Tables of where the noise comes from, and of what becomes of it in other ways to measure and to sum up."""

import math
from collections.abc import Sequence

from draws import COMPARED, LENGTHS
from error_tables import Drawn
from recordings import CASES, CONDITIONS, Recorded
from spread import SUMMARIES, deviation, levels, pairs_for_a_pass
from suites import THRESHOLD, joined, summed_up, usual_plan
from wording import CONDITION, NOT_RECORDED, missing, shares

from ntp.judge.guard import METRICS, TAIL, TYPICAL
from ntp.records.guard import Pair
from ntp.report.markup import code, table
from ntp.report.units import UNKNOWN


def noise(recorded: Recorded) -> str:
    """Table: the standard deviation that arises at each level."""
    rows = []
    for name in CONDITIONS:
        if name not in recorded.pools:
            rows.append(missing(CONDITION[name], 8))
            continue
        for cell, pairs in recorded.pools[name].pairs.items():
            parts = levels(pairs)
            sds = [UNKNOWN if math.isnan(part) else f"{part:.2%}" for part in parts]
            rows.append((f"{CONDITION[name]}: {code(cell)}", str(len(pairs)), *sds))
    headers = ("identical code", "pairs", "step", "turn", "turn, shared", "process", "pair", "log-ratio")
    return table(headers, rows)


ON_NOISE = """\
Standard deviations of the logarithm of the step time: from step to step within a turn; from turn to turn, of one side
alone and of both alike; from process to process; from pair to pair, of both alike. What both sides share drops out of
the log-ratio of their means, whose standard deviation is the last column. Where a turn is one step, the first column is
part of the second. (Nested random effects, by the method of moments.)"""


def ablation(recorded: Recorded) -> str:
    """Table: the spread of a pair's log-ratio, with one thing changed in each arm."""
    cells = list(dict.fromkeys(cell for arm in recorded.ablation.values() for cell in arm))
    if not cells:
        return f"Pairs measured in other ways: {NOT_RECORDED}."
    rows = []
    for arm, by_cell in recorded.ablation.items():
        row = [arm]
        for cell in cells:
            row += [str(len(by_cell.get(cell, ()))), *(_sd(by_cell.get(cell, ()), each) for each in (TYPICAL, TAIL))]
        rows.append(tuple(row))
    headers = [header for cell in cells for header in (f"{code(cell)}: pairs", TYPICAL, TAIL)]
    return table(("arm", *headers), rows)


def _sd(pairs: Sequence[Pair], statistic: str) -> str:
    if len(pairs) < 2:
        return UNKNOWN
    sd = deviation(list(map(METRICS[statistic], pairs)))
    return f"{sd.value:.2%} ({sd.low:.2%} to {sd.high:.2%})"


ON_ABLATION = f"""\
The standard deviation of the log-ratio of a pair of identical code (`{TYPICAL}` and `{TAIL}`), in its 95% interval,
with one thing changed in each arm; the arms took turns."""


def summaries(recorded: Recorded, drawn: Drawn, name: str) -> str:
    """Table: for each way to sum up a pair, its spread on identical code, and how guards end that guard it alone."""
    if name not in recorded.pools:
        return NOT_RECORDED.capitalize() + "."
    pool, plan = recorded.pools[name], usual_plan()
    rows = []
    for each, summary in SUMMARIES.items():
        sds = [deviation(summed_up(pool, summary)[cell]).value for cell in CASES]
        needed = [pairs_for_a_pass(sd, plan, THRESHOLD) for sd in sds]
        letters = [drawn["statistics"].get(kind, {}).get(each, "") for kind in (name, "busy-2")]
        rows.append(
            (
                each,
                *(f"{sd:.2%}" for sd in sds),
                ", ".join("never" if n is None else str(n) for n in needed),
                shares(letters[0], "r", bounds=False),
                shares(letters[0], "p", bounds=False),
                shares(letters[1], "r", bounds=False) if letters[1] else NOT_RECORDED,
            )
        )
    return table(("statistic", *map(code, CASES), "pairs for a pass", "false alarm", "passed", "+2% found"), rows)


ON_SUMMARIES = f"""\
The standard deviation of the log-ratio of a pair of identical code, by cell; about how many pairs of that spread, with
a mean of zero, pass at {THRESHOLD:.0%}, by cell (never: not within the plan); and how resampled guards end that guard
this statistic alone. *Turns*: the log-ratio of each turn and the one beside it, by their median steps, then the median
of those, or another centre; the others compare the two processes."""


def lengths(recorded: Recorded, drawn: Drawn) -> str:
    """Table: how guards end whose pairs are longer."""
    if CONDITIONS[0] not in recorded.pools:
        return NOT_RECORDED.capitalize() + "."
    rows = []
    for times in LENGTHS:
        ends = {name: drawn["longer"].get(name, {}).get(str(times), "") for name in COMPARED}
        rows.append(
            (
                f"{times} x",
                *(_spread(recorded.pools[CONDITIONS[0]].pairs[cell], times) for cell in CASES),
                *(shares(ends[name], "p") for name in CONDITIONS),
                shares(ends["busy-2"], "r"),
            )
        )
    passed = [f"passed, {CONDITION[name]}" for name in CONDITIONS]
    return table(("pair", *map(code, CASES), *passed, "+2% found"), rows)


def _spread(pairs: Sequence[Pair], times: int) -> str:
    """The standard deviation of the log-ratio of the pairs, each joined with those after it."""
    if len(pairs) < 2 * times:
        return UNKNOWN
    groups = [pairs[start : start + times] for start in range(0, len(pairs) - times + 1, times)]
    return f"{deviation([METRICS[TYPICAL](joined(group)) for group in groups]).value:.2%}"


ON_LENGTHS = """\
Pairs two and three times as long, put together from recorded ones that took their turns one after the other: the
standard deviation of their log-ratio, quiet, and how resampled guards end that are made of them, in the same time. A
longer pair is less noisy, but fewer of them fit into a budget."""
