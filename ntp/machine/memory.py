"""What the kernel says of a process's memory: peak resident size and page faults."""

import os
import re
import resource
import sys
from pathlib import Path

from ntp.records.run import Usage


def usage_so_far() -> Usage:
    """What this process has used since it started.

    A page fault is minor where the page was made or found in memory, and major where it was read in.
    """
    peak_bytes = peak_rss_bytes()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(peak_rss_bytes=peak_bytes, minor_page_faults=usage.ru_minflt, major_page_faults=usage.ru_majflt)


def peak_rss_bytes(root: Path = Path("/")) -> int:
    """The largest resident size this process has had, in bytes: VmHWM, or ``ru_maxrss`` where there is no /proc."""
    if (marked := _status_bytes(root, "VmHWM")) is not None:
        return marked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def anonymous_bytes(root: Path = Path("/")) -> int | None:
    """The resident memory of this process that no file backs, in bytes; null where /proc does not tell.

    The whole resident size says less: the kernel takes pages of libraries away as it likes, and gives them back.
    """
    return _status_bytes(root, "RssAnon")


def _status_bytes(root: Path, name: str) -> int | None:
    try:
        status = (root / "proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def reset_peak_rss(root: Path = Path("/")) -> bool:
    """Let the peak that :func:`peak_rss_bytes` reads start anew from the present size: for the peak of a phase alone.

    Returns:
        Whether the kernel did it. It can't where there is no /proc, or where /proc is read-only; the peak then remains
        that of the whole process.
    """
    try:
        clear_refs = os.open(root / "proc/self/clear_refs", os.O_WRONLY)  # not open(): it would create what is missing
        try:
            os.write(clear_refs, b"5")  # proc(5): reset VmHWM to the current VmRSS
        finally:
            os.close(clear_refs)
    except OSError:
        return False
    return True
