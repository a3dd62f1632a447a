"""Two runs side by side, for the terminal and as Markdown."""

from collections.abc import Callable, Iterator

from ntp.judge.compare import Comparison
from ntp.report.markup import code, prose, table
from ntp.report.terminal import id_table, wrapped
from ntp.report.units import duration, significant

HEADERS = ("case", "base", "head", "head/base", "95% interval", "tokens/s", "difference")


def terminal(comparison: Comparison) -> str:
    """The answer, the table, what is missing and what differs."""
    rows = list(_rows(comparison))
    lines = [wrapped(_answer(comparison)), "", id_table(HEADERS, rows)] if rows else [_answer(comparison)]
    return "\n".join([*lines, *(wrapped(f"- {note}", "  ") for note in _notes(comparison))]) + "\n"


def markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    rows = [(code(case_id), *cells) for case_id, *cells in _rows(comparison)]
    parts = [f"**{prose(_answer(comparison))}**"]
    if rows:
        parts.append(table(HEADERS, rows))
    notes = "\n".join(f"- {prose(note)}" for note in _notes(comparison))
    return "\n\n".join(filter(None, [*parts, notes])) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {"terminal": terminal, "markdown": markdown}
"""What ``ntp compare --format`` can write."""


def _rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for row in comparison.rows:
        yield (
            row.case.id,
            duration(row.base_ns.value),
            duration(row.head_ns.value),
            f"{row.ratio.value:.3f}",
            f"{row.ratio.low:.3f} to {row.ratio.high:.3f}",
            significant(row.case.workload.tokens / row.head_ns.value * 1e9),
            f"{row.ratio.value - 1:+.1%}",
        )


def _answer(comparison: Comparison) -> str:
    if not comparison.rows:
        return "The two runs have no case in common: nothing can be compared."
    ratios = sorted(row.ratio.value for row in comparison.rows)
    count = len(ratios)
    return (
        f"{count} case{'s' if count > 1 else ''} in both runs: the head takes {ratios[0]:.3f} to {ratios[-1]:.3f} "
        "times as long as the base."
    )


def _notes(comparison: Comparison) -> Iterator[str]:
    for name, ids in (("base", comparison.only_base), ("head", comparison.only_head)):
        if ids:
            yield f"only in the {name}: {', '.join(ids)}"
    for difference in comparison.differences:
        yield f"not the same {difference}. This compares them, and not the code alone"
    if comparison.rows:
        yield "the interval speaks of the steps of these two processes; others of the same code differ by more"
