"""Tables of how guards end, and of what other tools would have said of the same times."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from draws import LONG_BUDGET_S, NORMAL, WIDE_WALL_THRESHOLD
from other_tools import TOOLS
from pools import CASES, CONDITIONS, Pool, Recorded
from recordings import NOT_RECORDED, Row, seconds
from slower import SLOWDOWNS
from spread import clopper_pearson, mean_of_cases
from suites import LETTERS, THRESHOLD, summed_up

from ntp.judge.guard import CPU, METRICS, verdict_on
from ntp.judge.statistics import Interval
from ntp.records.guard import GuardedCase, GuardRecord
from ntp.report.document import terminal
from ntp.report.guard import report
from ntp.report.markup import code, fenced, prose, table
from ntp.report.units import UNKNOWN

EXITS = (0, 1, 3, 4)
"""The exit statuses of a guard that reached a verdict."""

Drawn = Mapping[str, Any]
"""The result of :func:`draws.draw`."""


def share(letters: str, wanted: str) -> Interval:
    return clopper_pearson(letters.count(wanted), len(letters))


def shares(letters: str, wanted: str, bounds: bool = True) -> str:
    """Write a share with its interval, unless that would mislead."""
    if not letters:
        return UNKNOWN
    value, low, high = share(letters, wanted)
    return f"{value:.1%} ({low:.1%} to {high:.1%})" if bounds else f"{value:.1%}"


def missing(label: str, columns: int) -> Row:
    return (label, NOT_RECORDED, *[UNKNOWN] * (columns - 2))


def headline(recorded: Recorded, drawn: Drawn) -> str:
    if "quiet" not in recorded.pools:
        return f"**Identical code: {NOT_RECORDED}.**"
    ends = drawn["resampled"]["quiet"]
    letters = ends["verdicts"]
    passed, open_, alarms = (share(letters, letter) for letter in "pur")
    identical = (
        f"Of {len(letters):,} guards of identical code, {letters.count('r')} raised a false alarm (at most "
        f"{alarms.high:.1%}), {passed.value:.0%} passed and {open_.value:.0%} were left undecided. The median took "
        f"{statistics.median(ends['pairs']):.0f} pairs and {seconds(statistics.median(ends['elapsed_s']))}."
    )
    slowdowns = [
        f"{SLOWDOWNS[name].share:.0%} slower in {share(drawn['resampled'][name]['verdicts'], 'r').value:.0%}"
        for name in ("busy-2", "busy-3", "busy-5")
        if name in recorded.pools
    ]
    return f"**{identical}{f' A step was found to be {_listed(slowdowns)}.' if slowdowns else ''}**"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


_ENDS = ("false alarm", "passed", "undecided", "called faster", "pairs", "time")


def false_alarms(recorded: Recorded, drawn: Drawn) -> str:
    rows = []
    for name in CONDITIONS:
        what = CONDITIONS[name]
        if name in recorded.pools:
            rows.append(_ends(f"{what}: resampled", drawn["resampled"][name]))
            rows.append(_ends(f"{what}: in the order recorded", drawn["in order"][name], bounds=False))
            if name in drawn["wide"]:
                options = f"--wall-threshold {WIDE_WALL_THRESHOLD:.0%} --budget {LONG_BUDGET_S:.0f}s"
                label = f"{what}: resampled, {code(options)}"
                rows.append(_ends(label, drawn["wide"][name]))
        else:
            rows.append(missing(f"{what}: resampled", 8))
        if name in recorded.runs:
            rows.append(_real(f"{what}: really run", recorded.runs[name]))
    return table(("identical code", "guards", *_ENDS), rows)


def _ends(label: str, ends: Mapping[str, Any], bounds: bool = True) -> Row:
    letters = ends["verdicts"]
    parts = [shares(letters, letter, bounds) for letter in "rpui"]
    return (label, f"{len(letters):,}", *parts, *_effort(ends["pairs"], ends["elapsed_s"]))


def _effort(pairs: Sequence[int], times_s: Sequence[float]) -> Row:
    """Give the median, and what nine in ten do not exceed."""
    return tuple(
        f"{text(statistics.median(values))}, {text(sorted(values)[math.ceil(0.9 * len(values)) - 1])}"
        for values, text in ((pairs, lambda value: f"{value:.0f}"), (times_s, seconds))
    )


def _real(label: str, runs: Sequence[Mapping[str, Any]]) -> Row:
    ended = [run for run in runs if run["status"] in EXITS]
    if not ended:
        return missing(label, 8)
    judged = [verdict_on(_record(run["record"])) for run in ended]
    ends = {
        "verdicts": "".join(LETTERS[guard.verdict] for guard in judged),
        "pairs": [sum(case.times.pairs for case in guard.cases) for guard in judged],
        "elapsed_s": [run["wall_time_s"] for run in ended],
    }
    failed = f", {len(runs) - len(ended)} failed" if len(runs) > len(ended) else ""
    return (label, f"{len(runs)}{failed}", *_ends(label, ends)[2:])


def _record(document: Mapping[str, Any]) -> GuardRecord:
    return GuardRecord.model_validate({key: value for key, value in document.items() if key != "verdict"})


ON_FALSE_ALARMS = """\
Pairs and time are the median, and what nine in ten guards do not exceed. *In the order recorded* means a guard that
starts at each pair and takes those that followed it in time; these guards share pairs, so their shares have no bounds.
The bounds of resampled guards are those of the draws: another recording would have other pairs, and its shares would
differ by more. *Really run* means `ntp guard --base HEAD` in a clean clone."""


def power(recorded: Recorded, drawn: Drawn) -> str:
    rows = []
    for name, slowdown in SLOWDOWNS.items():
        if name not in recorded.pools:
            continue
        label = f"{code(name)}: {slowdown.what}"
        pool, ends = recorded.pools[name], drawn["resampled"][name]
        parts = [shares(ends["verdicts"], letter) for letter in "rpu"]
        efforts = _effort(ends["pairs"], ends["elapsed_s"])
        rows.append((label, _counted(pool), *_slowdown(pool), *parts, *efforts))
    headers = ("every step", "counts that rose", "slowdown", "cases", "found", "passed", "undecided", "pairs", "time")
    return table(headers, rows)


def _counted(pool: Pool) -> str:
    """Name what the guard's exact counts detect, whatever the times say."""
    worse = [prose(str(change)) for change in pool.changes if change.worse]
    return "none" if not worse else ", ".join(worse[:2]) + (f" and {len(worse) - 2} more" if len(worse) > 2 else "")


def _cpu_times(pool: Pool) -> list[tuple[float, ...]]:
    return list(summed_up(pool, METRICS[CPU]).values())


def _slowdown(pool: Pool) -> Row:
    """Give the mean of the cases in its 95% interval, then the smallest and the largest of their means."""
    mean, means = mean_of_cases(_cpu_times(pool)), [statistics.fmean(values) for values in _cpu_times(pool)]
    return (
        f"{_percent(mean.value)} ({_percent(mean.low)} to {_percent(mean.high)})",
        f"{_percent(min(means))} to {_percent(max(means))}",
    )


def _percent(log_ratio: float) -> str:
    return f"{math.expm1(log_ratio):+.2%}"


def detected(pool: Pool, drawn: Drawn) -> tuple[float, float]:
    slowdown = math.expm1(mean_of_cases(_cpu_times(pool)).value)
    return slowdown, share(drawn["resampled"][pool.name]["verdicts"], "r").value


ON_POWER = f"""\
Shares, pairs and time are those of guards that looked only at the times: in a real one, a count that rises is a
regression at once. The slowdown is that of the CPU time (`{CPU}`): the mean of the four cases in its 95% interval,
then the smallest and the largest of the four. The busy steps spin for a share of the CPU time that the step
just took, so they are slower by exactly that, and no count rises. A slowdown of 1% lies on the threshold: there, either
verdict is wrong at most as often as the plan allows."""


def told(pool: Pool) -> str:
    """Return what a guard says of all pairs of a pool."""
    cases = tuple(GuardedCase(case_id=case_id, pairs=pairs) for case_id, pairs in pool.pairs.items())
    record = GuardRecord.model_validate({**pool.facts, "cases": cases})
    return fenced(terminal(report(record, verdict_on(record))).rstrip("\n"))


WAITS = "waits-5"
"""The slowdown whose report is shown: one that only waits."""

ON_WAITING = f"""\
This is what a guard says of all pairs of {code(WAITS)}, which sleeps for 5% of every step and computes nothing."""


def coverage(recorded: Recorded, drawn: Drawn) -> str:
    rows = []
    for name in CONDITIONS:
        if name not in recorded.pools:
            rows.append(missing(f"identical, {CONDITIONS[name]}", 8))
            continue
        ends = drawn["resampled"][name]
        rows += [
            (f"identical, {CONDITIONS[name]}: exactly 1", *_held(ends["holds_one"]), "", "", ""),
            ("the same, in the order recorded: exactly 1", *_held(drawn["in order"][name]["holds_one"]), "", "", ""),
            ("the same, resampled: the mean of all pairs", *_held_beside_normal(recorded.pools[name], drawn)),
        ]
    slower = recorded.slower.items()
    rows += [(f"{code(name)}: the mean of all pairs", *_held_beside_normal(pool, drawn)) for name, pool in slower]
    return table(("truth", "all cases", *map(code, CASES), "pairs a case", "normal, as few", "normal, all new"), rows)


def _held_beside_normal(pool: Pool, drawn: Drawn) -> Row:
    held = drawn["resampled"][pool.name]["holds_mean"]
    normal = (_held(drawn["normal"][pool.name][kind])[0] for kind in NORMAL)
    return (*_held(held), str(pool.rounds), *normal)


def _held(held: Mapping[str, str]) -> Row:
    return tuple(f"{letters.count('1') / len(letters):.1%}" for letters in ("".join(held.values()), *held.values()))


ON_COVERAGE = """\
This is how often the plain 95% interval of the ratio, which a guard reports beside the one that decides, holds the
truth at the guard's end, early stopping included; the interval that decides is wider. The mean of all pairs of
identical code is not exactly 1 either: resampled guards share its error, so they hold 1 less often, and raise an alarm
more often, than real guards. The last two columns are simulated, to show where a shortfall comes from: guards of
normal pairs with the same means and standard deviations, drawn with replacement from as few as were recorded, or each
of them new. Where the last is too low as well, the rule causes it: a guard that stops when an interval leaves the
threshold stops more often at an interval that is off."""


def tools(recorded: Recorded, drawn: Drawn) -> str:
    """Make the table of the share of suites in which a tool's rule calls any of the four cases slower."""
    columns = {(name, kind): f"{name}, {_LAID[kind]}" for name in CONDITIONS for kind in ("beside", "before")}
    columns |= {(f"busy-{percent}", "beside"): f"+{percent}%" for percent in (2, 3, 5)}
    columns = {key: title for key, title in columns.items() if key[0] in recorded.pools}

    def cells(alarm: str, letters: Callable[[str, str], str]) -> Iterator[str]:
        for name, kind in columns:
            yield shares(letters(name, kind), alarm)

    guards = cells("r", lambda name, kind: drawn["resampled"][name]["verdicts"] if kind == "beside" else "")
    rows = [
        ("**`ntp guard`**", f"interval beyond {THRESHOLD:.0%}, as above", *guards),
        *((*tool[:2], *cells("1", lambda name, kind, tool=tool: drawn[kind][name][tool.key])) for tool in TOOLS),
    ]
    return table(("tool", "rule", *columns.values()), rows)


_LAID = {"beside": "alternating", "before": "a round apart"}

ON_TOOLS = """\
This is the share of suites of four cases in which a tool would call at least one slower: false alarms on identical
code on the left, slowdowns found on the right. A suite is a round of the recording, one process of each side for each
case, and a process stands for one run of the tool. *Alternating* means that both sides ran at once or in turn, as
in a guard, which is kinder to these rules than their own way; *a round apart* means that the base was measured a round
before the head, which is closer to it. Only calls of "slower" count, though some of these tools report differences of
either sign. The guard's row is from the tables above; it takes as many pairs as it needs."""


def sources() -> str:
    return "\n".join(f"- {tool.name}, {tool.rule}: {tool.source}" for tool in TOOLS)
