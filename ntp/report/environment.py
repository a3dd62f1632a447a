"""The environment of a runtime as lines of a shell, for those who want the same in a training script of their own."""

from collections.abc import Iterator, Mapping, Sequence
from shlex import quote

from ntp.case import Case
from ntp.records.environment import Process
from ntp.records.levers import recipes_of


def exports(variables: Mapping[str, str]) -> Iterator[str]:
    """One line for each variable."""
    yield from (f"export {name}={quote(value)}" for name, value in variables.items())


def environment_lines(case: Case, process: Process) -> Iterator[str]:
    """What a case's worker has and a plain process of as many threads has not.

    Args:
        case: the case.
        process: its worker.
    """
    recipes = recipes_of(case.runtime)
    variables = {name: value for recipe in recipes for name, value in recipe.variables.items()}
    preloaded = dict(process.variables).get("LD_PRELOAD")
    yield from exports({"LD_PRELOAD": preloaded, **variables} if preloaded else variables)
    if case.runtime.affinity == "pinned":
        yield from exports({"OMP_PROC_BIND": "true", "OMP_PLACES": _places(process.affinity, case.runtime.threads)})
    yield from (f"# in the script: {recipe.lines['setup']}" for recipe in recipes if "setup" in recipe.lines)


def _places(cpus: Sequence[int] | None, threads: int) -> str:
    """OpenMP's words for a CPU for each thread. Where the worker's CPUs are unknown, OpenMP chooses."""
    return ",".join(f"{{{cpu}}}" for cpu in cpus) if cpus and len(cpus) == threads else "cores"
