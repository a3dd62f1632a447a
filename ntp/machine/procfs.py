"""Read the small text files of /proc and /sys. What is missing or malformed is null, never an error.

Every reader takes the root of the file tree, so that a test can lay out other machines in a folder. Only the real root
may fall back on the running system.
"""

import os
import re
from pathlib import Path

REAL_ROOT = Path("/")


def is_real(root: Path) -> bool:
    """Tell whether the root is that of the running system, so that the system itself can be asked."""
    return root == REAL_ROOT


def read_text(path: Path) -> str | None:
    """Read a file without the white space around its text; null if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # missing, forbidden, or a device that raises its own error
        return None


def read_number(path: Path) -> int | None:
    """Read a file that contains a single whole number; null if it contains anything else."""
    text = read_text(path)
    return int(text) if text and re.fullmatch(r"-?[0-9]+", text) else None


def read_fields(path: Path) -> dict[str, int]:
    """Read the ``name number`` or ``name: number kB`` lines of a file such as cpu.stat or meminfo; empty without it."""
    return {
        name: int(number) for name, number in re.findall(r"^(\S+?):?\s+(\d+)\b", read_text(path) or "", re.MULTILINE)
    }


def cpu_list(text: str | None) -> tuple[int, ...] | None:
    """Parse a list such as ``0-3,8,10-11`` into the CPUs it names, ascending; null if it is malformed or missing."""
    if text is None:
        return None
    cpus: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = re.fullmatch(r"\s*([0-9]+)(?:-([0-9]+))?\s*", part)
        if not match or int(match[2] or match[1]) < int(match[1]):
            return None
        cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(cpus))


def read_cpu_list(path: Path) -> tuple[int, ...] | None:
    """Read the CPUs that the file lists; null if it cannot be read or is malformed."""
    return cpu_list(read_text(path))


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
    """Return the folder in which /sys describes one CPU."""
    return root / f"sys/devices/system/cpu/cpu{cpu}"


def online_cpus(root: Path) -> tuple[int, ...]:
    """List the CPUs on which the kernel schedules; empty if they are unknown."""
    cpus = read_cpu_list(root / "sys/devices/system/cpu/online")
    cpus = cpus or tuple(sorted(int(fields["processor"]) for fields in read_cpuinfo(root)))
    return cpus or (tuple(range(os.cpu_count() or 0)) if is_real(root) else ())


def thread_cpu_ns(root: Path = REAL_ROOT) -> dict[int, int]:
    """Read how long each thread of this process has run so far, in nanoseconds; empty if the kernel does not say."""
    files = {int(folder.name): read_text(folder / "schedstat") for folder in (root / "proc/self/task").glob("[0-9]*")}
    return {thread: int(text.split()[0]) for thread, text in files.items() if text and text.split()[0].isdecimal()}
