"""Numbers for readers, with three significant digits in a unit that fits."""

import math
from collections.abc import Sequence

_TIME_UNITS = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
_BYTE_UNITS = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
UNKNOWN = "-"


def significant(value: float) -> str:
    """Three significant digits, with all digits before the point and a comma every thousand: 1.20, 12.3, 12,346.

    A number with more than ten digits before the point is written as a power of ten, to keep columns narrow.
    """
    if abs(value) >= 1e10:
        return f"{value:.2e}"
    rounded = float(f"{value:.2e}")
    magnitude = math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(0, min(2, 2 - magnitude))}f}"


def _in_units(values: Sequence[float], units: Sequence[tuple[float, str]], joint: str) -> str:
    """All values in the unit that fits the first of them, with that unit at the end."""
    # 999.6 rounds to 1000, and is 1.00 of the next unit.
    fitting = (unit for unit in units if float(f"{values[0]:.2e}") >= unit[0])
    scale, name = next(fitting, units[-1])
    return f"{joint.join(significant(value / scale) for value in values)} {name}"


def duration(time_ns: float) -> str:
    """A time in nanoseconds as 1.20 s, 12.3 ms, 123 µs or 45.0 ns."""
    return _in_units([time_ns], _TIME_UNITS, "")


def durations(low_ns: float, high_ns: float) -> str:
    """A range of times in nanoseconds, as ``12.1 to 12.5 ms``."""
    return _in_units([low_ns, high_ns], _TIME_UNITS, " to ")


def size(count_bytes: float) -> str:
    """Bytes as 612 MiB, 1.20 GiB."""
    return _in_units([count_bytes], _BYTE_UNITS, "")


def nominal_size(count_bytes: int) -> str:
    """The size of hardware, which comes in round numbers, as 32 KiB, 1.5 MiB."""
    number, unit = size(count_bytes).split()
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def share(value: float | None) -> str:
    """A share as 91%, 9.1% or 0.91%."""
    if value is None:
        return UNKNOWN
    # Nobody reads larger shares to the percent.
    if value >= 9.995:
        return ">999%"
    decimals = 0 if value >= 0.0995 else 1 if value >= 0.00995 else 2
    return f"{value:.{decimals}%}"


def ratio(value: float | None) -> str:
    """A quotient as 1.83."""
    return UNKNOWN if value is None else significant(value)
