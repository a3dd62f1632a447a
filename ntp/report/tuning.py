"""A search's outcome: the winner and what it gains, what each lever is worth, and how to have the same elsewhere."""

from collections.abc import Iterator, Sequence
from shlex import quote

from ntp.case import EAGER, ONEDNN_ISA, Case, Options
from ntp.judge.tuning import Contribution, Winner
from ntp.machine.runtime import environment_variables
from ntp.records.endings import Ending
from ntp.records.tuning import Race, Tuning
from ntp.report.markup import code, fenced, prose, table
from ntp.report.terminal import id_table, wrapped
from ntp.report.units import duration, significant, size
from ntp.report.verdicts import counted, doubts

_SHOWN = 10
"""Cases of the standings, and races that failed, before a report says how many more there are."""

_SHORT = 40
"""Of a message that fits into a table."""

_LEVERS = ("lever", "instead of", "without it")
_STANDINGS = ("case", "speed against the default")


def terminal(tuning: Tuning, winner: Winner, cpus: Sequence[int] | None = None) -> str:
    """The answer, what each lever is worth, how to reproduce it, and what else was tried.

    ``cpus`` are those that the winner is pinned to, if it is.
    """
    parts = [wrapped(answer(tuning, winner))]
    if winner.contributions:
        parts.append(id_table(_LEVERS, [_contribution(each) for each in winner.contributions]))
    parts += ["To have the same:\n\n" + recipe(winner, cpus), id_table(_STANDINGS, _standings(winner))]
    parts.append("\n".join(wrapped(f"- {note}", "  ") for note in _notes(tuning, winner)))
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown(tuning: Tuning, winner: Winner, cpus: Sequence[int] | None = None) -> str:
    """The same as Markdown."""
    parts = [f"# The fastest case\n\n**{prose(answer(tuning, winner))}**"]
    if winner.contributions:
        rows = [(code(name), code(instead), gain) for name, instead, gain in map(_contribution, winner.contributions)]
        parts.append("## What each lever is worth\n\n" + table(_LEVERS, rows))
    parts.append("## To have the same\n\n" + fenced(recipe(winner, cpus)))
    standings = [(code(case_id), ratio) for case_id, ratio in _standings(winner)]
    parts.append("## What was tried\n\n" + table(_STANDINGS, standings))
    parts.append("\n".join(f"- {prose(note)}" for note in _notes(tuning, winner)))
    return "\n\n".join(filter(None, parts)) + "\n"


def answer(tuning: Tuning, winner: Winner) -> str:
    """The winner and what it gains, in one sentence."""
    races = sum(race.purpose == "search" for race in tuning.races)
    effort = f"{counted(races, 'candidate')} in {duration(tuning.wall_time_s * 1e9)}"
    if winner.case.id == tuning.default:
        return f"Nothing tried is faster than {tuning.default} ({effort})."
    if winner.ratio is None:
        return f"Fastest: {winner.case.id}; it was not held against the default, for want of time ({effort})."
    gain = winner.ratio
    speeds = f"{_times(gain.value)} ({_times(gain.high)} to {_times(gain.low)})"
    return f"Fastest: {winner.case.id}, {speeds} times as fast as {tuning.default} ({effort})."


def _times(ratio: float) -> str:
    return significant(1 / ratio)


def _contribution(each: Contribution) -> tuple[str, str, str]:
    gain = each.message if len(each.message) <= _SHORT else "could not be run"
    if each.ratio is not None:
        value, low, high = each.ratio
        gain = f"{value - 1:+.1%} of time ({low - 1:+.1%} to {high - 1:+.1%})"
        if low <= 1:  # it won its race, and the longer look does not confirm it
            gain += ": not confirmed"
    return f"{each.field}={each.value}", each.instead, gain


def _standings(winner: Winner) -> list[tuple[str, str]]:
    return [(each.case_id, f"{_times(each.ratio)}x") for each in winner.standings[:_SHOWN]]


def _notes(tuning: Tuning, winner: Winner) -> Iterator[str]:
    for doubt in doubts(list(_endings(tuning, winner.case.id)), winner.case.step):
        yield f"{winner.case.id}: {doubt}"
    search = [race for race in tuning.races if race.purpose == "search"]
    pruned = sum(race.outcome == "pruned" for race in search)
    if pruned:
        yield f"{counted(pruned, 'candidate')} given up in the warm-up, for being much slower than the best so far"
    largest = max((race.peak_rss_bytes or 0 for race in search), default=0)
    if tuning.memory_limit_bytes:
        limit = size(tuning.memory_limit_bytes)
        yield f"at most {limit} of memory were allowed; the largest case needed {size(largest)}"
    without = [race for race in tuning.races if race.outcome in ("refused", "failed", "too large")]
    for race in without[:_SHOWN]:
        yield f"{race.outcome}: {_message(race)}"
    if len(without) > _SHOWN:
        yield f"and {len(without) - _SHOWN} more of these"


def _endings(tuning: Tuning, case_id: str) -> Iterator[Ending]:
    """How the turns of a case left its processes, in all of its races."""
    for race in tuning.races:
        names = {"base": race.against, "head": race.case_id}
        yield from (ending for pair in race.pairs for side, ending in pair.endings if names[side] == case_id)


def _message(race: Race) -> str:
    """A worker's message names its case already."""
    return race.message if race.case_id in race.message else f"{race.case_id}: {race.message}"


def recipe(winner: Winner, cpus: Sequence[int] | None) -> str:
    """The command that measures the winner again, and what has the same effect in a training script of one's own."""
    return "\n".join([_command(winner.case), "", *_environment(winner.case, cpus), "", *_python(winner.case)])


def _command(case: Case) -> str:
    """The sweep of this one case."""
    workload, runtime, step = case.workload, case.runtime, case.step
    changed = {name: value for name, value in _changed(step) if name != "precision"}
    levers = [f"compile:{value}" if name == "compile" else value for name, value in changed.items()]
    sizes = {"batch_size": "batch-sizes", "seq_len": "seq-lens", "threads": "threads"}
    fields = [*_changed(workload), *_changed(runtime)]
    options = [
        f"--ntp-threads {runtime.threads} --ntp-batch-sizes {workload.batch_size} --ntp-seq-lens {workload.seq_len}",
        f"--ntp-steps {'+'.join(levers) or EAGER} --ntp-precisions {step.precision}",
        " ".join(f"--ntp-{name.replace('_', '-')} {value}" for name, value in fields if name not in sizes),
    ]
    return " \\\n    ".join(["pytest --benchmark-only bench/bench_train_step.py", *filter(None, options)])


def _environment(case: Case, cpus: Sequence[int] | None) -> Iterator[str]:
    """What is to be set before the interpreter starts, and how to start it."""
    variables = environment_variables(case.runtime)
    if case.step.matmul == "onednn":
        variables |= [ONEDNN_ISA]
    yield from (f"export {name}={quote(value)}" for name, value in variables.items())
    pinned = f"taskset -c {','.join(map(str, cpus))} " if cpus else ""
    yield f"{pinned}python train.py"


def _python(case: Case) -> Iterator[str]:
    """What is to be written in it."""
    step, runtime = case.step, case.runtime
    yield f"torch.set_num_threads({runtime.threads})"
    yield f"torch.set_num_interop_threads({runtime.interop_threads})"
    if runtime.denormals == "flushed":
        yield "torch.set_flush_denormal(True)"
    if step.matmul == "onednn" or step.precision == "bf16-matmul":
        yield 'torch.set_float32_matmul_precision("medium")  # sends fp32 products to oneDNN'
    kernels = "" if step.optimizer == "default" else f", {step.optimizer}=True"
    yield f"optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3{kernels})"
    yield ""
    if step.compile != "off":
        yield "@torch.compile"
    yield "def loss_of(inputs, targets):"
    yield from (f"    {line}" for line in _LOSSES[step.loss])
    yield ""
    if step.precision == "bf16":
        yield 'with torch.autocast("cpu", torch.bfloat16):'
        yield "    loss = loss_of(inputs, targets)"
    else:
        yield "loss = loss_of(inputs, targets)"
    yield "loss.backward()"
    yield "torch.compile(optimizer.step)()" if step.compile == "step" else "optimizer.step()"


_LOSSES = {
    "full": ("return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())",),
    "chunked": (
        "hidden = body(inputs)  # the model without its output head",
        "options = nn.LinearCrossEntropyOptions()",
        "return F.linear_cross_entropy(hidden.flatten(0, 1), head.weight, targets.flatten(), options=options)",
    ),
    "deduplicated": (
        "ids, rows = inputs.unique(return_inverse=True)",
        "log_probabilities = model(ids[:, None])[:, 0].float().log_softmax(-1)",
        "return -log_probabilities[rows.flatten(), targets.flatten()].mean()",
    ),
}


def _changed(group: Options) -> Iterator[tuple[str, str]]:
    for name, info in type(group).model_fields.items():
        if (value := getattr(group, name)) != info.default:
            yield name, str(value)
