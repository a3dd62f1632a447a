"""What a machine is, what makes its timings noisy, and what can be done about it."""

from collections.abc import Sequence

from tabulate import tabulate

from ntp.measure.environment import Environment
from ntp.measure.peaks import MachinePeaks
from ntp.measure.warnings import MeasurementWarning
from ntp.report.facts import hardware_facts, peak_facts, process_facts, software_facts
from ntp.report.sentences import machine_lines
from ntp.report.terminal import wrapped


def doctor(
    environment: Environment,
    warnings: Sequence[MeasurementWarning],
    peaks: MachinePeaks | None = None,
    spread: float | None = None,
) -> str:
    """The answer first, then advice, then the machine's peaks and the environment as tables.

    ``spread`` is by how much a small step varied here: its 95th percentile over its median, less one.
    """
    answer = "" if spread is None else f"Step times vary by {spread:.1%} here (one step in twenty, over the median). "
    if warnings:
        answer += f"{len(warnings)} thing{'s' if len(warnings) > 1 else ''} here will disturb timings:"
    else:
        answer += "Nothing seen here that would disturb timings."
    advice = [
        "\n".join((wrapped(f"- {each.kind}: {each.message}", "  "), wrapped(each.advice, "    ", first="  > ")))
        for each in warnings
    ]
    advice += [wrapped(f"- {line}", "  ") for line in machine_lines(peaks)]
    facts = (
        *(peak_facts(peaks) if peaks else ()),
        *hardware_facts(environment.machine),
        *software_facts(environment.software),
        *process_facts(environment.process),
    )
    rows = [(name, line) for name, text in facts if text for name, line in _lines(name, text)]
    return "\n".join((answer, *advice, "", tabulate(rows, tablefmt="plain", disable_numparse=True))) + "\n"


def _lines(name: str, text: str) -> list[tuple[str, str]]:
    """A fact as rows of a table, its name in the first alone."""
    lines = wrapped(text, width=74).splitlines()
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]
