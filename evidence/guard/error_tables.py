"""Tables of how guards end, and of how other tools would have ended on the same times."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from draws import NORMAL
from other_tools import TOOLS, Tool
from recordings import CASES, CONDITIONS, Pool, Recorded
from slower import SLOWDOWNS
from spread import clopper_pearson, mean_of_cells
from suites import LETTERS, THRESHOLD, summed_up
from wording import CONDITION, NOT_RECORDED, Row, missing, seconds, share, shares

from ntp.judge.guard import METRICS, TYPICAL, verdict_on
from ntp.records.guard import GuardRecord
from ntp.report.markup import code, prose, table

EXITS = (0, 1, 3, 4)
"""Exit statuses of a guard that came to a verdict."""

Drawn = Mapping[str, Any]
"""What :func:`draws.draw` gives."""


def headline(recorded: Recorded, drawn: Drawn) -> str:
    """The answer in two sentences."""
    if "quiet" not in recorded.pools:
        return f"**Identical code: {NOT_RECORDED}.**"
    ends = drawn["resampled"]["quiet"]
    letters = ends["verdicts"]
    alarms = clopper_pearson(letters.count("r"), len(letters))
    identical = (
        f"Of {len(letters):,} guards of identical code, {letters.count('r')} raised a false alarm (at most "
        f"{alarms.high:.1%}), {share(letters, 'p').value:.0%} passed and {share(letters, 'u').value:.0%} were left "
        f"undecided. The median took "
        f"{statistics.median(ends['pairs']):.0f} pairs and {seconds(statistics.median(ends['elapsed_s']))}."
    )
    found = [
        f"{SLOWDOWNS[name].share:.0%} slower in {share(drawn['resampled'][name]['verdicts'], 'r').value:.0%}"
        for name in ("busy-2", "busy-3", "busy-5")
        if name in recorded.pools
    ]
    return f"**{identical}{f' A step was found to be {_listed(found)}.' if found else ''}**"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


_ENDS = ("false alarm", "passed", "undecided", "called faster", "pairs", "time")


def false_alarms(recorded: Recorded, drawn: Drawn) -> str:
    """Table: how guards of identical code end."""
    rows = []
    for name in CONDITIONS:
        what = CONDITION[name]
        if name in recorded.pools:
            rows.append(_ends(f"{what}: resampled", drawn["resampled"][name]))
            rows.append(_ends(f"{what}: in the order recorded", drawn["in order"][name], bounds=False))
        else:
            rows.append(missing(f"{what}: resampled", 8))
        rows.append(_real(f"{what}: really run", recorded.runs.get(name, [])))
    return table(("identical code", "guards", *_ENDS), rows)


def _ends(label: str, ends: Mapping[str, Any], bounds: bool = True) -> Row:
    letters = ends["verdicts"]
    parts = [shares(letters, letter, bounds) for letter in "rpui"]
    return (label, f"{len(letters):,}", *parts, *_effort(ends["pairs"], ends["elapsed_s"]))


def _effort(pairs: Sequence[int], times_s: Sequence[float]) -> Row:
    """The median, and what nine in ten do not exceed."""
    return tuple(
        f"{text(statistics.median(values))}, {text(sorted(values)[math.ceil(0.9 * len(values)) - 1])}"
        for values, text in ((pairs, lambda value: f"{value:.0f}"), (times_s, seconds))
    )


def _real(label: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    ended = [run for run in runs if run["status"] in EXITS]
    if not ended:
        return missing(label, 8)
    judged = [verdict_on(_record(run["record"])) for run in ended]
    letters = "".join(LETTERS[each.verdict] for each in judged)
    pairs = [sum(cell.times.pairs for cell in each.cases) for each in judged]
    parts = [shares(letters, letter) for letter in "rpui"]
    return (label, f"{len(runs)}{_failed(runs)}", *parts, *_effort(pairs, [run["wall_time_s"] for run in ended]))


def _failed(runs: Sequence[Mapping[str, Any]]) -> str:
    failed = sum(run["status"] not in EXITS for run in runs)
    return f", {failed} failed" if failed else ""


def _record(document: Mapping[str, Any]) -> GuardRecord:
    return GuardRecord.model_validate({key: value for key, value in document.items() if key != "verdict"})


ON_FALSE_ALARMS = """\
Pairs and time: the median, and what nine in ten guards do not exceed. *In the order recorded*: a guard from each pair
on, with pairs that were neighbours in time; these guards share pairs, so their shares have no bounds. The bounds of
resampled guards are those of the draws: another recording would have other pairs, and its shares would differ by more.
*Really run*: `ntp guard --base HEAD` in a clean clone."""


def power(recorded: Recorded, drawn: Drawn) -> str:
    """Table: how guards of slower code end."""
    rows = []
    for name, slowdown in SLOWDOWNS.items():
        label = f"{code(name)}: {slowdown.what}"
        if name not in recorded.pools:
            rows.append(missing(label, 9))
            continue
        pool, ends = recorded.pools[name], drawn["resampled"][name]
        parts = [shares(ends["verdicts"], letter) for letter in "rpu"]
        efforts = _effort(ends["pairs"], ends["elapsed_s"])
        rows.append((label, _counted(pool), _slowdown(pool), _by_cell(pool), *parts, *efforts))
    headers = ("every step", "counts that rose", "slowdown", "cases", "found", "passed", "undecided", "pairs", "time")
    return table(headers, rows)


def _counted(pool: Pool) -> str:
    """What the guard's exact counts say, whatever the times say."""
    worse = [prose(str(change)) for change in pool.changes if change.worse]
    return "none" if not worse else ", ".join(worse[:2]) + (f" and {len(worse) - 2} more" if len(worse) > 2 else "")


def _typical(pool: Pool) -> list[tuple[float, ...]]:
    return list(summed_up(pool, METRICS[TYPICAL]).values())


def _slowdown(pool: Pool) -> str:
    """The mean of the cells, in its 95% interval."""
    mean = mean_of_cells(_typical(pool))
    return f"{_percent(mean.value)} ({_percent(mean.low)} to {_percent(mean.high)})"


def _by_cell(pool: Pool) -> str:
    means = [statistics.fmean(values) for values in _typical(pool)]
    return f"{_percent(min(means))} to {_percent(max(means))}"


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.2%}"


def found(pool: Pool, drawn: Drawn) -> tuple[float, float]:
    """A slowdown, as a share, and the share of guards that found it."""
    slowdown = math.expm1(mean_of_cells(_typical(pool)).value)
    return slowdown, share(drawn["resampled"][pool.name]["verdicts"], "r").value


def suites_of(drawn: Drawn) -> int:
    """How many guards were drawn from each pool."""
    return max((len(ends["verdicts"]) for ends in drawn["resampled"].values()), default=0)


ON_POWER = f"""\
Shares, pairs and time are those of guards that looked at the times alone: in a real one, a count that rises is a
regression at once. Slowdown: of the typical step (`{TYPICAL}`), the mean of the four cells in its 95% interval, then
the least and the most of them. The busy steps spin for a share of the time that the step just took, so they are slower
by just that, and no count tells. What is 1% slower lies on the threshold: there, either verdict is wrong at most as
often as the plan allows."""


def coverage(recorded: Recorded, drawn: Drawn) -> str:
    """Table: how often the plain 95% intervals hold the truth at the end of a guard."""
    rows = []
    for name in CONDITIONS:
        if name not in recorded.pools:
            rows.append(missing(f"identical, {CONDITION[name]}", 8))
            continue
        ends = drawn["resampled"][name]
        rows += [
            (f"identical, {CONDITION[name]}: exactly 1", *_held(ends["holds_one"]), "", "", ""),
            ("the same, in the order recorded: exactly 1", *_held(drawn["in order"][name]["holds_one"]), "", "", ""),
            ("the same, resampled: the mean of all pairs", *_held_beside_normal(recorded.pools[name], drawn)),
        ]
    slower = recorded.slower.items()
    rows += [(f"{code(name)}: the mean of all pairs", *_held_beside_normal(pool, drawn)) for name, pool in slower]
    return table(("truth", "all cells", *map(code, CASES), "pairs a cell", "normal, as few", "normal, ever new"), rows)


def _held_beside_normal(pool: Pool, drawn: Drawn) -> Row:
    held = drawn["resampled"][pool.name]["holds_mean"]
    normal = (_held(drawn["normal"][pool.name][kind])[0] for kind in NORMAL)
    return (*_held(held), str(pool.rounds), *normal)


def _held(held: Mapping[str, str]) -> Row:
    """In all cells, then in each."""
    return tuple(f"{letters.count('1') / len(letters):.1%}" for letters in ("".join(held.values()), *held.values()))


ON_COVERAGE = """\
How often the plain 95% interval of the ratio, which a guard reports beside the one that decides, holds the truth at the
guard's end, early stopping and all; the interval that decides is wider. The mean of all pairs of identical code is not
exactly 1 either: resampled guards share what it is off by, so they hold 1 less often, and are alarmed rather more
often, than guards in earnest. The last two columns are simulated, to tell whose a shortfall is: guards of normal pairs
with the same means and standard deviations, drawn with replacement from as few as were recorded, and each of them new.
Where the last is short as well, it is the rule: who stops when an interval leaves the threshold, stops rather more
often at one that is off."""


def tools(recorded: Recorded, drawn: Drawn) -> str:
    """Table: the share of suites in which each tool's rule calls any of the four cells slower."""
    columns = [(name, kind) for name in CONDITIONS for kind in ("beside", "before")]
    columns += [(f"busy-{percent}", "beside") for percent in (3, 5, 10)]

    def row(label: str, rule: str, alarm: str, letters: Callable[[str, str], str]) -> Row:
        cells = (shares(letters(*each), alarm) if each[0] in recorded.pools else NOT_RECORDED for each in columns)
        return (label, rule, *cells)

    def of_guards(name: str, kind: str) -> str:
        return drawn["resampled"][name]["verdicts"] if kind == "beside" else ""

    def of_tool(tool: Tool) -> Callable[[str, str], str]:
        return lambda name, kind: drawn[kind][name][tool.key]

    rows = [
        row("**`ntp guard`**", f"interval beyond {THRESHOLD:.0%}, as above", "r", of_guards),
        *(row(tool.name, tool.rule, "1", of_tool(tool)) for tool in TOOLS),
    ]
    headers = ("tool", "rule", *(f"{name}, {_LAID[kind]}" for name, kind in columns[:4]), "+3%", "+5%", "+10%")
    return table(headers, rows)


_LAID = {"beside": "in turn", "before": "a round apart"}

ON_TOOLS = """\
The share of suites of four cells in which a tool would call one slower, at least: false alarms on identical code on the
left, slowdowns found on the right. A suite is a round of the recording, one process of each side for each cell, and a
process stands for one run of the tool. *In turn*: both sides ran in turn, as the guard has them, which is kinder to
these rules than their own way; *a round apart*: the base was measured a round before the head, which is nearer to it.
Only calls of slower count, though some of these tools tell differences of either sign. The guard's row is from the
tables above; it takes as many pairs as it needs."""


def sources() -> str:
    """Where each rule is written down."""
    return "\n".join(f"- {tool.name}, {tool.rule}: {tool.source}" for tool in TOOLS)
