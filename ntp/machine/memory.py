"""The memory of this process as the kernel counts it: resident sizes and page faults."""

import os
import resource
import sys
from pathlib import Path

from ntp.machine.procfs import REAL_ROOT, read_fields
from ntp.records.run import Usage


def usage_so_far() -> Usage:
    """Read what this process has used since it started.

    A page fault is minor if the page was created or found in memory, and major if it was read from a disk.
    """
    peak_bytes = peak_rss_bytes()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Usage(peak_rss_bytes=peak_bytes, minor_page_faults=usage.ru_minflt, major_page_faults=usage.ru_majflt)


def peak_rss_bytes(root: Path = REAL_ROOT) -> int:
    """Read the largest resident size of this process, in bytes: VmHWM, or ``ru_maxrss`` if there is no /proc."""
    if (marked := _status_bytes(root, "VmHWM")) is not None:
        return marked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def anonymous_bytes(root: Path = REAL_ROOT) -> int | None:
    """Read the resident memory of this process that no file backs, in bytes; null if /proc does not say.

    The whole resident size is less informative: the kernel drops and reloads pages of libraries at will.
    """
    return _status_bytes(root, "RssAnon")


def _status_bytes(root: Path, name: str) -> int | None:
    kilobytes = read_fields(root / "proc/self/status").get(name)
    return None if kilobytes is None else kilobytes * 1024


def reset_peak_rss(root: Path = REAL_ROOT) -> bool:
    """Reset the peak that :func:`peak_rss_bytes` reads to the present size, to find the peak of a single phase.

    Returns:
        Whether the kernel did it. It cannot if /proc is missing or read-only; the peak then remains that of the whole
        process.
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
