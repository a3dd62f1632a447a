"""The report as Markdown: a pure function of the recordings."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import components
import recording
import runtime_effects
import runtimes
import sweep_coverage
from caterpillar import caterpillar
from peers import PEERS
from recording import CONDITIONS, RecordedSweep
from recordings import NOT_RECORDED, origin, seconds
from runtimes import RecordedModel
from sweep_coverage import Coverage
from sweeps import Sweep, arrays, complete

from ntp.judge.between_runs import DEFAULT_NOISE
from ntp.judge.statistics import Interval, median_interval
from ntp.report.drawing import svg
from ntp.report.markup import code, table

SWEEPS, RUNTIMES = "sweeps.json.gz", "runtimes.json.gz"


def files(folder: Path) -> dict[str, str]:
    """Make the page and its charts from the recordings in a folder."""
    recorded = recording.load(folder / SWEEPS)
    whole, models = complete(recorded), runtimes.load(folder / RUNTIMES)
    texts = {f"{name}.svg": text for name, text in _charts(whole).items()}
    return {"README.md": markdown(recorded, whole, models, list(texts)), **texts}


def markdown(
    recorded: Sequence[RecordedSweep],
    whole: Sequence[RecordedSweep],
    models: Sequence[RecordedModel],
    pictures: Sequence[str],
) -> str:
    sections = ["# How far the intervals of a sweep can be trusted"]
    if enough(whole):
        sweeps = [arrays(sweep) for sweep in whole]
        quiet = [sweep for sweep in sweeps if sweep.condition == "quiet"]
        sections += [
            headline(sweep_coverage.of_ntp(whole, sweeps), _since(whole)),
            _counts(recorded, whole),
            ON_SWEEPS,
            "## Two sweeps of identical code",
            table(sweep_coverage.HEADERS, sweep_coverage.rows(whole, sweeps)),
            ON_COVERAGE,
            *(f"![{name.removesuffix('.svg')}]({name})" for name in pictures),
            "\n".join(f"- {peer.name}, {peer.rule}: {peer.source}" for peer in PEERS if peer.source),
            "## Where the noise is",
            table(components.HEADERS, list(components.rows(quiet))),
            ON_COMPONENTS,
            "## What would buy more",
            table(sweep_coverage.HEADERS, list(components.variants(whole, sweep_coverage.CHOSEN))),
            ON_VARIANTS,
            table(("computed", "half-width in a run", "between runs"), list(components.computed(quiet))),
            ON_COMPUTED,
        ]
    else:
        sections.append(f"Sweeps: {NOT_RECORDED}.")
    sections += ["## Which runtime serves the answer", runtime_tables(models), "## The recordings"]
    return "\n\n".join([*sections, _files(recorded, models), _AGAIN]) + "\n"


def enough(whole: Sequence[RecordedSweep]) -> bool:
    """Whether there are two quiet sweeps to compare, and a third to learn from."""
    return sum(sweep.condition == "quiet" for sweep in whole) > 2


TARGET_DIFFERENT = {"quiet": 0.07, "neighbour": 0.10}
TARGET_LEVEL, TARGET_RATIO, TARGET_SPEEDUPS = 0.02, 0.05, 0.07


METHOD_CHOSEN = "2026-11-27T11:05"
"""When the method of ``ntp compare`` was chosen, by the sweeps that had been recorded until then."""


def _since(whole: Sequence[RecordedSweep]) -> Coverage:
    later = [sweep for sweep in whole if sweep.run.started > METHOD_CHOSEN]
    return sweep_coverage.of_ntp(later, [arrays(sweep) for sweep in later])


def headline(ntp: Coverage, later: Coverage) -> str:
    """Say what was to be reached, and what was."""

    def against(value: float, target: float, what: str, of: Sequence[bool] = ()) -> tuple[str, ...]:
        count = f" ({sum(of)} of {len(of)})" if of else ""
        return (what, f"{value:.1%}{count}", f"at most {target:.0%}", "yes" if value <= target else "**no**")

    def wrong(flags: Sequence[bool], target: float, what: str) -> list[tuple[str, ...]]:
        return [against(sum(flags) / len(flags), target, what, flags)] if flags else []

    identical = "intervals of two sweeps of identical code that exclude 1"
    rows = [
        *wrong(ntp.different["quiet"], TARGET_DIFFERENT["quiet"], f"{identical}, {CONDITIONS['quiet']}"),
        *wrong(later.different["quiet"], TARGET_DIFFERENT["quiet"], "those recorded after the method was chosen"),
        *wrong(ntp.different["neighbour"], TARGET_DIFFERENT["neighbour"], f"{identical}, {CONDITIONS['neighbour']}"),
        against(median(ntp.level), TARGET_LEVEL, "half-width of a level within a run, median of quiet sweeps"),
        against(median(ntp.ratio), TARGET_RATIO, "half-width of a ratio between runs, median of quiet sweeps"),
        *wrong(
            ntp.speedups["quiet"],
            TARGET_SPEEDUPS,
            "speed-ups that differ between two quiet sweeps by more than allowed",
        ),
    ]
    return table(("`ntp compare` on this machine", "measured", "wanted", "reached"), rows)


def _counts(recorded: Sequence[RecordedSweep], whole: Sequence[RecordedSweep]) -> str:
    parts = []
    for name, words in CONDITIONS.items():
        number = sum(sweep.condition == name for sweep in whole)
        parts.append(f"{number} with {words}, which make {number * (number - 1) // 2} comparisons of each case")
    left_out = len(recorded) - len(whole)
    return f"Sweeps: {'; '.join(parts)}. {f'{left_out} incomplete ones are left out.' if left_out else ''}".strip()


ON_SWEEPS = """\
Each sweep is what `pytest --benchmark-only bench/bench_train_step.py` does without options, minutes after the one
before; the last came three hours later, when only reports had changed in the code. Every two sweeps of one condition
are compared, case by case: an interval of their ratio that excludes 1 is wrong. The comparisons share sweeps, so that
they are far from independent: between one set of sweeps and another, these shares vary by much more than a binomial
distribution would let them."""

ON_COVERAGE = f"""\
*Half-width* is the median over the quiet sweeps, *speed-ups* are of two threads over one: how many of them differ
between two sweeps by more than the two intervals allow. The rows of other tools are readings of what they show, and
most of them show a spread, not an interval. *Noise of the other sweeps* is a variance between runs that was learned
from the quiet sweeps other than the two compared; the default is a standard deviation of {DEFAULT_NOISE.spread:.1%}.
It was assumed before these sweeps were recorded, and nothing else in a row was fitted to more than the two sweeps that
it compares. But the method of `ntp compare` was chosen by such a table, made of the first of these sweeps; the table at
the top also says what it does for those that were recorded later.

Every process also times a matrix product of its own, the calibration kernel, between the blocks of its steps. What
slows the machine down for a while slows both. *Relative to the kernel* divides one by the other. *As a covariate*, the
slope of log times over log kernel times is fitted: it is close to 1 while nothing else runs. Beside a busy process,
which takes turns with the short kernel on one CPU, it is close to 0: there the quotient is useless, and the covariate
costs nothing. A level is that at the kernel's mean time in its run; two runs are compared as if the kernel had been as
fast in both."""

ON_COMPONENTS = """\
Standard deviations of the logarithm of a process's median step time, and their shares of its variance, of the quiet
sweeps. More rounds make what lies between processes and rounds smaller; what lies between runs they leave as it is. The
kernel takes out what it sees. What is left between processes is still several times what an interval of ±2% from five
processes would need: this machine's CPUs are shared with others, and their speed changes from second to second."""

ON_VARIANTS = """\
All rows are of times relative to the kernel with the default noise added, from the same recordings: with fewer of their
rounds or steps, or with the steps of a process summed up in another way. Fewer rounds widen the intervals, most of all
within a run; no other summary makes them much narrower without more of them being wrong."""

ON_COMPUTED = """\
Computed from the components relative to the kernel: what half-widths would be typical with other numbers of rounds, if
the noise between runs were known exactly."""


def _charts(whole: Sequence[RecordedSweep]) -> dict[str, str]:
    if not enough(whole):
        return {}
    quiet = [sweep for sweep in whole if sweep.condition == "quiet"]
    note = f"Every two of {len(quiet)} quiet sweeps of identical code, each case"
    pairs = list(itertools.combinations(quiet, 2))
    before = [ratio for a, b in pairs for ratio in _of_one_process(arrays(a), arrays(b))]
    now = [ratio.interval for a, b in pairs for ratio in sweep_coverage.compared(a, b) if ratio.interval]
    return {
        "one-process": svg(caterpillar(before, "Made of one process's steps", note)),
        "processes": svg(caterpillar(now, "As ntp compare makes them", note)),
    }


def _of_one_process(first: Sweep, second: Sweep) -> Iterator[Interval]:
    for a, b in zip(first.steps, second.steps, strict=True):
        (a_value, a_low, a_high), (b_value, b_low, b_high) = (median_interval(steps[0].tolist()) for steps in (a, b))
        yield Interval(a_value / b_value, a_low / b_high, a_high / b_low)


def runtime_tables(models: Sequence[RecordedModel]) -> str:
    if not models:
        return f"Runtimes: {NOT_RECORDED}."
    recorded = runtime_effects.recorded(models)
    names = [f"{code(of.name)}, {of.rounds} rounds, {seconds(of.default_s)}" for of in recorded]
    return "\n\n".join(
        [
            ON_RUNTIMES,
            "\n".join(runtime_effects.conclusions(recorded)),
            ON_DEFAULTS,
            table(("setting", *names), list(runtime_effects.setting_rows(recorded))),
            ON_SETTINGS,
            table((", ".join(map(code, runtimes.FACTORS)), *names), list(runtime_effects.combination_rows(recorded))),
        ]
    )


ON_RUNTIMES = f"""\
Each model runs on {runtimes.THREADS} threads under every combination of three settings, in rounds of one process each.
The models: `simple-small` and `simple-large` are the built-in one with 8 x 64 and 32 x 128 tokens, `transformer` is
`examples/transformer.py:small` and `gpt2` is `examples/gpt2.py:tiny`, both with 8 x 64. Their headings give the rounds,
and the step time under the defaults."""

ON_DEFAULTS = """\
The default is `unset`, because the answer is to be that of a user's own process. Threads that sleep as soon as they
wait have to be woken for every short operator, which changes the very time that is measured, and most of all in models
of many short operators; `active` threads would take the CPU from whatever runs beside them. The allocator and the
affinity are chosen for a small spread: where this machine's noise hides what they gain, they also cost nothing that can
be told."""

ON_SETTINGS = """\
Times relative to those with the default value, in the 95% interval over the rounds, averaged over the other settings;
then the ratio of the spreads between processes, likewise. Below, each combination relative to the default one, with its
spread."""


def _files(recorded: Sequence[RecordedSweep], models: Sequence[RecordedModel]) -> str:
    rows = []
    for condition in CONDITIONS:
        if runs := [sweep.run for sweep in recorded if sweep.condition == condition]:
            environments = [run.measurements[0].environment for run in runs if run.measurements]
            commits = dict.fromkeys(environment.git.commit or "" for environment in environments)
            took_s = sum(run.wall_time_s for run in runs)
            machine = environments[0].machine.model_dump()
            rows.append((code(SWEEPS), f"{len(runs)} {condition}", *origin(runs[0].started, took_s, commits, machine)))
    rows += [
        (
            code(RUNTIMES),
            code(model.name),
            *origin(model.started, model.wall_time_s, [model.commit], model.machine.model_dump()),
        )
        for model in models
    ]
    return table(("file", "what", "UTC", "took", "commit", "machine"), rows) if rows else ""


_AGAIN = """\
`python evidence/sweep tables` makes this page from these files; `record` and `runtimes` make the files."""
