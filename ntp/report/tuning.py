"""The report of a search: the winner, what it gains, what each lever is worth, and how to have the same elsewhere."""

from collections.abc import Iterator, Mapping, Sequence
from textwrap import indent
from typing import TYPE_CHECKING

from ntp.case import EAGER, Case, Options
from ntp.judge.tuning import Contribution, Ranking, Winner
from ntp.lines import one_line
from ntp.records.endings import Ending
from ntp.records.levers import recipes_of
from ntp.records.tuning import Race, Tuning
from ntp.report.columns import Column, Table
from ntp.report.document import Listing, Report
from ntp.report.environment import exports
from ntp.report.units import duration, significant, size
from ntp.report.verdicts import counted, doubts

if TYPE_CHECKING:
    from ntp.records.pairs import SideName

_SHOWN = 10
"""How many cases of the standings, and races that failed, a report shows before it says how many more there are."""

_SHORT = 40
"""The length of a message that fits into a table."""


def report(tuning: Tuning, winner: Winner, variables: Mapping[str, str], cpus: Sequence[int] | None = None) -> Report:
    """Say what the search found.

    Args:
        tuning: the search.
        winner: what it came to.
        variables: the environment that the winner's workers are started with.
        cpus: those that the winner is pinned to, if it is.
    """
    sections: list[Table | Listing] = [
        Table(_LEVERS, winner.contributions, "What each lever is worth"),
        Listing("To reproduce it", "\n".join(_recipe(winner.case, variables, cpus))),
        Table(_STANDINGS, winner.standings[:_SHOWN], "What was tried"),
    ]
    return Report([_answer(tuning, winner)], sections, list(_notes(tuning, winner)), heading="The fastest case")


def _answer(tuning: Tuning, winner: Winner) -> str:
    races = sum(race.purpose == "search" for race in tuning.races)
    effort = f"{counted(races, 'candidate')} in {duration(tuning.wall_time_s * 1e9)}"
    if winner.case.id == tuning.default:
        return f"Nothing tried is faster than {tuning.default} ({effort})."
    if winner.ratio is None:
        return f"Fastest: {winner.case.id}; there was no time to compare it with the default ({effort})."
    gain = winner.ratio
    speeds = f"{_times(gain.value)} ({_times(gain.high)} to {_times(gain.low)})"
    return f"Fastest: {winner.case.id}, {speeds} times as fast as {tuning.default} ({effort})."


def _times(ratio: float) -> str:
    return significant(1 / ratio)


def _gain(contribution: Contribution) -> str:
    ratio, message = contribution.ratio, one_line(contribution.message)
    if ratio is None:
        return message if len(message) <= _SHORT else "could not be run"
    gain = f"{ratio.value - 1:+.1%} time ({ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
    # It won its race, and the longer look does not confirm it.
    return f"{gain}: not confirmed" if ratio.low <= 1 else gain


def _speed(speed: float) -> str:
    return f"{significant(speed)}x"


_LEVERS = (
    Column[Contribution]("lever", lambda lever: f"{lever.field}={lever.value}", is_code=True),
    Column[Contribution]("instead of", lambda lever: lever.instead, is_code=True),
    Column[Contribution]("without it", _gain, by=lambda lever: lever.ratio and lever.ratio.value),
)
_STANDINGS = (
    Column[Ranking]("case", lambda ranking: ranking.case_id, is_code=True),
    Column[Ranking]("speed against the default", lambda ranking: 1 / ranking.ratio, _speed),
)


def _notes(tuning: Tuning, winner: Winner) -> Iterator[str]:
    for doubt in doubts(list(_endings(tuning, winner.case.id)), winner.case.step):
        yield f"{winner.case.id}: {doubt}"
    search = [race for race in tuning.races if race.purpose == "search"]
    pruned = sum(race.outcome == "pruned" for race in search)
    if pruned:
        yield f"given up in the warm-up as much slower than the best so far: {counted(pruned, 'candidate')}"
    largest = max((race.peak_rss_bytes or 0 for race in search), default=0)
    if tuning.memory_limit_bytes:
        limit = size(tuning.memory_limit_bytes)
        yield f"at most {limit} of memory was allowed; the largest case needed {size(largest)}"
    without = [race for race in tuning.races if race.outcome in ("refused", "failed", "too large")]
    for race in without[:_SHOWN]:
        yield f"{race.outcome}: {_message(race)}"
    if len(without) > _SHOWN:
        yield f"and {len(without) - _SHOWN} more of these"


def _endings(tuning: Tuning, case_id: str) -> Iterator[Ending]:
    """The states in which a case left its processes, in all of its races."""
    for race in tuning.races:
        names: dict[SideName, str] = {"base": race.against, "head": race.case_id}
        for side, name in names.items():
            if name == case_id:
                yield from (ending for pair in race.pairs for ending in pair.endings_of(side))


def _message(race: Race) -> str:
    """A worker's message names its case already."""
    return race.message if race.case_id in race.message else f"{race.case_id}: {race.message}"


def _recipe(case: Case, variables: Mapping[str, str], cpus: Sequence[int] | None) -> Iterator[str]:
    """The command that measures the winner again, and what has the same effect in a training script of one's own."""
    yield _command(case)
    yield ""
    for recipe in recipes_of(case.step):
        variables = {**variables, **recipe.variables}
    yield from exports(variables)
    pinned = f"taskset -c {','.join(map(str, cpus))} " if cpus else ""
    yield f"{pinned}python train.py"
    yield ""
    yield from _python(case)


def _command(case: Case) -> str:
    """The sweep of this one case."""
    workload, runtime, step = case.workload, case.runtime, case.step
    changed = {name: value for name, value in _changed(step) if name != "precision"}
    levers = [f"compile:{value}" if name == "compile" else value for name, value in changed.items()]
    sizes = {"batch_size", "seq_len", "threads"}
    fields = [*_changed(workload), *_changed(runtime)]
    options = [
        f"--ntp-threads {runtime.threads} --ntp-batch-sizes {workload.batch_size} --ntp-seq-lens {workload.seq_len}",
        f"--ntp-steps {'+'.join(levers) or EAGER} --ntp-precisions {step.precision}",
        " ".join(f"--ntp-{name.replace('_', '-')} {value}" for name, value in fields if name not in sizes),
    ]
    return " \\\n    ".join(["pytest --benchmark-only bench/bench_train_step.py", *filter(None, options)])


def _python(case: Case) -> Iterator[str]:
    """What the script says, put together from the recipes of its levers."""
    recipes = [*recipes_of(case.runtime), *recipes_of(case.step)]
    lines = {place: line for recipe in recipes for place, line in recipe.lines.items()}
    yield f"torch.set_num_threads({case.runtime.threads})"
    yield f"torch.set_num_interop_threads({case.runtime.interop_threads})"
    yield from (recipe.lines["setup"] for recipe in recipes if "setup" in recipe.lines)
    kernels = f", {lines['optimizer']}" if "optimizer" in lines else ""
    yield f"optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3{kernels})"
    yield ""
    if "decorator" in lines:
        yield lines["decorator"]
    yield "def loss_of(inputs, targets):"
    yield indent(lines["loss"], "    ")
    yield ""
    if "context" in lines:
        yield lines["context"]
    yield f"{'    ' if 'context' in lines else ''}loss = loss_of(inputs, targets)"
    yield "loss.backward()"
    yield lines.get("update", "optimizer.step()")


def _changed(group: Options) -> Iterator[tuple[str, str]]:
    for name, info in type(group).model_fields.items():
        if (value := getattr(group, name)) != info.default:
            yield name, str(value)
