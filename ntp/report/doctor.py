"""What a machine is, what makes its timings noisy, and what can be done about it."""

from collections.abc import Iterator, Sequence

from tabulate import tabulate

from ntp.judge.disturbance import Spreads, likeliest
from ntp.judge.warnings import MeasurementWarning
from ntp.records.environment import Environment
from ntp.records.peaks import MachinePeaks
from ntp.report.facts import Fact, hardware_facts, peak_facts, process_facts, software_facts
from ntp.report.sentences import machine_lines
from ntp.report.terminal import wrapped


def doctor(
    environment: Environment,
    warnings: Sequence[MeasurementWarning],
    peaks: MachinePeaks | None = None,
    spreads: Spreads | None = None,
) -> str:
    """The answer comes first, then advice, then what is known of steps, peaks and the environment as a table."""
    advice = [
        f"{wrapped(f'- {warning.kind}: {warning.message}', '  ')}\n{wrapped(warning.advice, '    ', first='  > ')}"
        for warning in warnings
    ]
    advice += [wrapped(f"- {line}", "  ") for line in machine_lines(peaks)]
    facts = (
        *_spread_facts(spreads),
        *(peak_facts(peaks) if peaks else ()),
        *hardware_facts(environment.machine),
        *software_facts(environment.software),
        *process_facts(environment.process),
    )
    rows = [(name, line) for name, text in facts if text for name, line in _lines(name, text)]
    answer = [wrapped(_answer(spreads, warnings), "")]
    if warnings:
        answer += ["", f"{len(warnings)} thing{'s' if len(warnings) > 1 else ''} to know, and what to do:"]
    return "\n".join((*answer, *advice, "", tabulate(rows, tablefmt="plain", disable_numparse=True))) + "\n"


def _answer(spreads: Spreads | None, warnings: Sequence[MeasurementWarning]) -> str:
    """Say how much timings vary, and what causes most of it."""
    said = []
    if spreads:
        said.append(f"Step times vary by about {spreads.quiet:.1%} here.")
    if spreads and spreads.plain_is_louder:
        said.append(
            "The loudest cause is a runtime left at its defaults: step times then vary by "
            f"{spreads.plain:.1%}. ntp's workers are protected from it; your own training is not."
        )
        cause = "What is left"
    else:
        cause = "The likeliest cause"
    outside = likeliest(warnings)
    if outside:
        said.append(f"{cause}: {outside.message}.")
    elif not (spreads and spreads.plain_is_louder):
        said.append("Nothing was seen that disturbs timings.")
    return " ".join(said)


def _spread_facts(spreads: Spreads | None) -> Iterator[Fact]:
    if spreads is not None:
        yield (
            "Slowest step in 20",
            f"{spreads.quiet:.1%} slower than the typical one; {spreads.plain:.1%} at the defaults",
        )


def _lines(name: str, text: str) -> list[tuple[str, str]]:
    """The rows of a fact, the first of which has its name."""
    lines = wrapped(text, width=74).splitlines()
    return [(name if number == 0 else "", line) for number, line in enumerate(lines)]
