"""What a flame graph recording left behind, as frozen records. :mod:`ntp.observe.py_spy` records."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from ntp.case import Count, Frozen, Positive

Kind = Literal[
    "no-py-spy", "not-permitted", "process-gone", "no-space", "timed-out", "no-samples", "failed", "python-only"
]


class FlameWarning(Frozen):
    """Why a part of the flame graph is missing."""

    kind: Kind
    message: str
    """What happened, with py-spy's own words."""
    advice: str
    """What to do about it."""


class Flame(Frozen):
    """What was recorded. A file is null where there is none, and then a warning says why.

    Files by their names in the folder of the recording: its path names a user.
    """

    speedscope: str | None = None  # for https://www.speedscope.app
    svg: str | None = None
    native: bool = False  # whether the stacks go on into the C++ of torch and its libraries
    samples: Count = 0  # of all recordings together
    errors: Count = 0  # looks at the process that gave no stack
    rate_hz: Positive
    warnings: tuple[FlameWarning, ...] = ()


def drawings(flames: Iterable[Flame | None], folder: Path) -> dict[str, str]:
    """The flame graphs that lie in the folder of their recording, as SVG by name. One that is not there is left out."""
    named = {flame.svg for flame in flames if flame and flame.svg}
    # A name that leads out of the folder, by itself or through a link, is none that ntp has given.
    files = {name: folder / name for name in named if Path(name).name == name and not (folder / name).is_symlink()}
    return {name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items() if file.is_file()}
