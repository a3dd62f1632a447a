"""The exit statuses of commands and of gated pytest sessions. pytest's own statuses are its own."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntp.judge.verdict import Verdict

REGRESSION, USAGE, INCONCLUSIVE, NOT_COMPARABLE, TOOL_FAILED = 1, 2, 3, 4, 5
INTERRUPTED, BROKEN_PIPE = 130, 141
"""The statuses that a shell has for SIGINT and SIGPIPE."""

OF_VERDICT: "dict[Verdict, int]" = {
    "pass": 0,
    "improvement": 0,
    "regression": REGRESSION,
    "inconclusive": INCONCLUSIVE,
    "not comparable": NOT_COMPARABLE,
}
