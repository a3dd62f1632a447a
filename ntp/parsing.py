"""How the text of an option is read: lists, durations, sizes and shares, on the command line and under pytest alike.

Each function raises ValueError, which says what was expected; whoever asked adds the option and the text.
"""

import re
from collections.abc import Mapping

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
_WEEK_S = 7 * 86_400
_BYTES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NUMBER = r"([0-9]+\.?[0-9]*|\.[0-9]+)"


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list, without repeats, in the order given."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in parts:
        raise ValueError("expected names separated by commas")
    return parts


def integers(text: str) -> tuple[int, ...]:
    """A comma-separated list of positive integers, without repeats, in the order given."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("0*[1-9][0-9]{0,17}", part) for part in parts):
        raise ValueError("expected positive integers separated by commas, as in 8,32")
    return tuple(dict.fromkeys(map(int, parts)))


def seconds(text: str) -> float:
    """A duration: ``300``, ``300s``, ``5min`` or ``1h``, and at most a week."""
    value = _scaled(text, r"(s|min|m|h|)", _SECONDS)
    if not 0 < value <= _WEEK_S:
        raise ValueError("expected a duration of more than 0 and at most a week, as in 300s, 5min or 1h")
    return value


def size_bytes(text: str) -> int:
    """A size: ``2GiB``, ``500MiB`` or ``2G``, powers of 1024 all."""
    value = _scaled(text, r"([KMGT]?)(?:i?B)?", _BYTES)
    if not 1 <= value < 2**63:
        raise ValueError("expected a number of bytes, as in 2GiB or 500MiB")
    return int(value)


def share(text: str) -> float:
    """A share: ``1%`` or ``0.01``."""
    value = _scaled(text, r"(%?)", {"": 1, "%": 0.01})
    if not 0 < value < 1:
        raise ValueError("expected more than 0% and less than 100%, as in 1% or 0.01")
    return value


def _scaled(text: str, unit: str, scales: Mapping[str, float]) -> float:
    """The number in the text times the scale of its unit; 0 if it is no such text."""
    match = re.fullmatch(rf"{_NUMBER}\s*{unit}", text.strip())
    return float(match[1]) * scales[match[2]] if match else 0.0
