"""The results of recording flame graphs with :mod:`ntp.observe.py_spy`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ntp.case import Count, Frozen, Positive

Kind = Literal[
    "no-py-spy", "not-permitted", "process-gone", "no-space", "timed-out", "no-samples", "failed", "python-only"
]


class FlameWarning(Frozen):
    """The reason why a part of a flame graph is missing."""

    kind: Kind
    message: str
    """What happened, in py-spy's words."""
    advice: str
    """What to do about it."""


class Flame(Frozen):
    """What was recorded. A missing file is null, and a warning says why.

    Files are named without the folder of the recording, whose path contains a user name.
    """

    speedscope: str | None = None  # for https://www.speedscope.app
    svg: str | None = None
    native: bool = False  # whether the stacks go on into the C++ of torch and its libraries
    samples: Count = 0  # of all recordings together
    errors: Count = 0  # samples without a stack
    rate_hz: Positive
    warnings: tuple[FlameWarning, ...] = ()


def drawings(flames: Iterable[Flame | None], folder: Path) -> dict[str, str]:
    """Read the flame graphs in the folder of their recording, as SVG by name. Missing ones are left out."""
    names = {flame.svg for flame in flames if flame and flame.svg}
    # ntp has not written a name that leads out of the folder, directly or through a link.
    files = {name: folder / name for name in names if Path(name).name == name and not (folder / name).is_symlink()}
    return {name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items() if file.is_file()}
