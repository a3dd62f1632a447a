"""How a contestant of a race is written: settings of a case joined by commas, a commit, an interpreter, a torch.

``threads=2``, ``allocator=glibc,wait_policy=passive``, ``commit=v1.2,step=deduplicated+fused``,
``python=old/bin/python``, ``torch==2.14.1``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ntp.case import GROUPS, Case, named_step
from ntp.errors import OptionError

COMMIT, PYTHON, TORCH, STEP = "commit", "python", "torch", "step"
_FIELDS = tuple(field for group in GROUPS.values() for field in group.model_fields if field != "part")


class Wanted(NamedTuple):
    """A contestant as it was asked for."""

    name: str
    """Its text, with a number after it if others have the same."""
    case: Case
    commit: str = ""
    python: str = ""
    torch: str = ""
    """The version."""


def contestants(texts: Sequence[str], options: Mapping[str, object]) -> list[Wanted]:
    """Read contestants, of which some may be the same.

    Raises:
        OptionError: as :func:`contestant`.
    """
    wanted: list[Wanted] = []
    for text in texts:
        one = contestant(text, options)
        same = sum(other.name.partition(" (")[0] == one.name for other in wanted)
        wanted.append(one._replace(name=f"{one.name} ({same + 1})") if same else one)
    return wanted


def contestant(text: str, options: Mapping[str, object]) -> Wanted:
    """Read a contestant.

    Args:
        text: its settings.
        options: the fields of a case that all contestants have, unless they have others themselves.

    Raises:
        OptionError: the text has no such form, or a value is refused.
    """
    settings: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, value = _setting(part, text)
        if name in settings:
            raise OptionError(f"contestant {text!r} has two values of {name}: leave out one")
        settings[name] = value
    if not settings:
        raise OptionError("a contestant has no settings: write some, as in threads=2, or commit=HEAD")
    own = {name: settings.pop(name, "") for name in (COMMIT, PYTHON, TORCH)}
    if own[PYTHON] and own[TORCH]:
        raise OptionError(f"contestant {text!r} names a python and a torch: a torch makes an environment of its own")
    step = named_step(settings.pop(STEP)).model_dump() if STEP in settings else {}
    return Wanted(text, Case.of({**options, **step, **settings}), own[COMMIT], own[PYTHON], own[TORCH])


def _setting(part: str, text: str) -> tuple[str, str]:
    if match := re.fullmatch(r"torch==([\w.+!]+)", part):
        return TORCH, match[1]
    name, equals, value = part.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not value or name not in (*_FIELDS, STEP, COMMIT, PYTHON):
        raise OptionError(
            f"{part!r} in contestant {text!r} is no setting: write NAME=VALUE, as in threads=2, allocator=jemalloc, "
            "step=fused, commit=HEAD, python=PATH, or torch==VERSION"
        )
    return name, value.strip()
