"""Reading the small text files of /proc and /sys: what is missing or makes no sense is null, never an error.

Every reader takes the root of the file tree, so that other machines can be laid out in a folder and read in a test.
Only the real root may fall back on the running system.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ntp.errors import OptionError

REAL_ROOT = Path("/")


def is_real(root: Path) -> bool:
    """Tell whether the root is that of the running system, so that asking the system itself makes sense."""
    return root == REAL_ROOT


def read_text(path: Path) -> str | None:
    """Read what the file holds, without white space around it; null where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # missing, forbidden, or a device that answers with an error of its own
        return None


def read_number(path: Path) -> int | None:
    """Read the one whole number the file holds; null where it holds anything else."""
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"-?[0-9]+", text) else None


def read_fields(path: Path) -> dict[str, int]:
    """Read the ``name number`` or ``name: number kB`` lines of a file such as cpu.stat or meminfo; empty without it."""
    return {
        name: int(number) for name, number in re.findall(r"^(\S+?):?\s+(\d+)\b", read_text(path) or "", re.MULTILINE)
    }


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse a list such as ``0-3,8,10-11`` into the CPUs it names, ascending; the empty text names none.

    Raises:
        OptionError: the text is no such list.

    """
    cpus: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise OptionError(f"{text!r} is not a list of CPUs: write numbers and ascending ranges, as in 0-3,8,10-11")
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Write the shortest list that :func:`parse_cpu_list` reads back as these CPUs."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and cpu == ranges[-1][-1] + 1:
            ranges[-1][1:] = [cpu]
        else:
            ranges.append([cpu])
    return ",".join("-".join(map(str, ends)) for ends in ranges)


def cpu_list_or_none(text: str | None) -> tuple[int, ...] | None:
    """Parse a list that a kernel wrote; null where there is none or it is no list."""
    try:
        return None if text is None else parse_cpu_list(text)
    except OptionError:
        return None


def read_cpu_list(path: Path) -> tuple[int, ...] | None:
    """Read the CPUs that the file lists; null where it cannot be read or is no list."""
    return cpu_list_or_none(read_text(path))


def read_cpuinfo(root: Path) -> list[dict[str, str]]:
    """Read the processors of /proc/cpuinfo, keys in lower case. Empty without the file, as on macOS."""
    processors = []
    for block in re.split(r"\n\s*\n", read_text(root / "proc/cpuinfo") or ""):
        pairs = (line.partition(":") for line in block.splitlines())
        fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
        if fields.get("processor", "").isdecimal():  # a last block on ARM describes the board
            processors.append(fields)
    return processors


def cpu_dir(root: Path, cpu: int) -> Path:
    """Find where /sys describes one CPU."""
    return root / f"sys/devices/system/cpu/cpu{cpu}"


def online_cpus(root: Path) -> tuple[int, ...]:
    """List the CPUs the kernel schedules on; empty where nothing tells."""
    cpus = read_cpu_list(root / "sys/devices/system/cpu/online")
    cpus = cpus or tuple(sorted(int(fields["processor"]) for fields in read_cpuinfo(root)))
    return cpus or (tuple(range(os.cpu_count() or 0)) if is_real(root) else ())
