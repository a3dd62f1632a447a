"""The CPU quota of control groups, and how long it throttled the process; cgroup versions 1 and 2.

The limits of all groups on the path from the process's own up to the top apply, so all of them are read. Which folder
is the top depends on what is mounted: a container often sees only its own group, under a path that it does not have.
Sources: cgroups(7), proc_pid_mountinfo(5), and the kernel's admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ntp.machine.procfs import read_fields, read_number, read_text


class _Mount(NamedTuple):
    """A mounted hierarchy: its top group, and the folder of that group."""

    version: int
    top: PurePosixPath
    folder: Path


_USUAL_MOUNTS = ((2, "sys/fs/cgroup"), (1, "sys/fs/cgroup/cpu"))


def _mounts(root: Path) -> Iterator[_Mount]:
    """List the hierarchies that may limit CPU time, from mountinfo, or else at their usual places."""
    text = read_text(root / "proc/self/mountinfo")
    if text is None:
        yield from (_Mount(version, PurePosixPath("/"), root / folder) for version, folder in _USUAL_MOUNTS)
        return
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, kind = head.split(), tail.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        top, folder = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field) for field in fields[3:5])
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "cpu" in kind[2].split(",")):
            yield _Mount(2 if kind[0] == "cgroup2" else 1, PurePosixPath(top), root / folder.lstrip("/"))


def _own_groups(root: Path) -> Iterator[tuple[int, PurePosixPath]]:
    """List the groups that the process is in, as (version, path from the top of the hierarchy)."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield 1, PurePosixPath(path)


def _folders(root: Path) -> Iterator[Path]:
    """List the folders of the process's groups, and of every visible group above them, without repetition."""
    mounts = list(_mounts(root))
    for version, group in _own_groups(root):
        same = [mount for mount in mounts if mount.version == version and mount.folder.is_dir()]
        above = [mount for mount in same if group.is_relative_to(mount.top) and ".." not in group.parts]
        if above:
            inner = group.relative_to(above[0].top)
            # A path that does not exist is the host's name for the group that is mounted here as the top.
            yield from (above[0].folder / part for part in (inner, *inner.parents))
        elif same:
            yield same[0].folder


def _quota(folder: Path) -> float | None:
    quota, _, period = (read_text(folder / "cpu.max") or "").partition(" ")
    if quota.isdecimal() and period.isdecimal():
        return int(quota) / int(period) if int(period) else None
    quota_us, period_us = (read_number(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota_us / period_us if quota_us and quota_us > 0 and period_us else None


def cpu_quota(root: Path) -> float | None:
    """Find the tightest limit on CPU time, in CPUs; null if there is none."""
    return min((quota for folder in _folders(root) if (quota := _quota(folder)) is not None), default=None)


def cpu_throttling(root: Path) -> tuple[float | None, int | None]:
    """Read for how many CPU seconds, and in how many periods, quotas have throttled the process's groups.

    Both are null if no group counts it.
    """
    stats = [stat for folder in _folders(root) if "nr_throttled" in (stat := read_fields(folder / "cpu.stat"))]
    if not stats:
        return None, None
    throttled_s = sum(stat.get("throttled_usec", 0) / 1e6 + stat.get("throttled_time", 0) / 1e9 for stat in stats)
    return throttled_s, sum(stat["nr_throttled"] for stat in stats)
