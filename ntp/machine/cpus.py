"""The CPUs of the machine, those that this process may use, and those that it should use.

Sources: Documentation/admin-guide/cputopology.rst, Documentation/ABI/stable/sysfs-devices-system-cpu and, for the
kinds of cores of Intel's hybrid machines, the CPUs that their counters (cpu_core, cpu_atom) cover.
"""

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from ntp.case import Frozen, Runtime
from ntp.errors import OptionError
from ntp.machine.cgroup import cpu_quota
from ntp.machine.procfs import (
    REAL_ROOT,
    cpu_dir,
    cpu_list,
    is_real,
    online_cpus,
    read_cpu_list,
    read_cpuinfo,
    read_number,
    read_text,
)

_NAMED_KINDS = {"performance": "cpu_core", "efficiency": "cpu_atom", "low-power": "cpu_lowpower"}
"""Kinds of cores, the fastest first, and the devices whose ``cpus`` file lists them."""

_KIND_RATIO = 1.15
"""Cores that are slower by more than this are another kind. Favoured cores differ by about 5%, kinds by over 20%."""


class CpuPlace(NamedTuple):
    """Where a logical CPU sits."""

    core: int  # the lowest CPU of the physical core: equal for SMT siblings alone
    node: int = 0  # NUMA
    kind: int = 0  # 0 for the fastest kind of core, 1 for the next


class CpuBudget(Frozen):
    """The CPU time this process may use."""

    cpus: tuple[int, ...]  # by affinity, which cpusets limit too
    quota_cpus: float | None = None  # by cgroup; null: no limit

    @property
    def max_threads(self) -> int:
        """The number of threads that can be busy at once: at most the number of CPUs, and the quota rounded up."""
        quota = math.inf if self.quota_cpus is None else self.quota_cpus
        return max(1, math.ceil(min(len(self.cpus), quota)))


def core_of(root: Path, cpus: Iterable[int]) -> dict[int, int]:
    """Map each CPU to the lowest CPU of its physical core; empty if neither /sys nor /proc says it."""
    siblings = {cpu: read_cpu_list(cpu_dir(root, cpu) / "topology/thread_siblings_list") for cpu in cpus}
    if siblings and all(siblings.values()):
        return {cpu: min(others) for cpu, others in siblings.items() if others}
    names = {
        int(fields["processor"]): (fields["physical id"], fields["core id"])
        for fields in read_cpuinfo(root)
        if fields.keys() >= {"physical id", "core id"}
    }
    if not names or names.keys() != siblings.keys():
        return {}
    return {cpu: min(other for other in names if names[other] == name) for cpu, name in names.items()}


def node_of(root: Path) -> dict[int, int]:
    """Map each CPU to its NUMA node; empty if the kernel has no nodes."""
    folders = sorted((root / "sys/devices/system/node").glob("node[0-9]*"))
    return {cpu: int(folder.name[4:]) for folder in folders for cpu in read_cpu_list(folder / "cpulist") or ()}


def kinds(root: Path, cpus: Iterable[int]) -> list[tuple[str | None, tuple[int, ...]]]:
    """Group the CPUs by kind of core, as (name, CPUs), the fastest first; a single unnamed group if all are alike."""
    rest = set(cpus)
    named: list[tuple[str | None, tuple[int, ...]]] = []
    for name, device in _NAMED_KINDS.items():
        if members := rest.intersection(read_cpu_list(root / f"sys/devices/{device}/cpus") or ()):
            named.append((name, tuple(sorted(members))))
            rest -= members
    if named:
        return [*named, (None, tuple(sorted(rest)))] if rest else named
    for file in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        speeds = {cpu: speed for cpu in rest if (speed := read_number(cpu_dir(root, cpu) / file))}
        if speeds.keys() == rest and len(groups := _by_speed(speeds)) > 1:
            return [(None, group) for group in groups]
    return [(None, tuple(sorted(rest)))]


def _by_speed(speeds: Mapping[int, int]) -> list[tuple[int, ...]]:
    """Group the CPUs by similar speed, the fastest group first."""
    groups: list[list[int]] = []
    previous = 0
    for cpu in sorted(speeds, key=lambda cpu: (-speeds[cpu], cpu)):
        if not groups or speeds[cpu] * _KIND_RATIO < previous:
            groups.append([])
        groups[-1].append(cpu)
        previous = speeds[cpu]
    return [tuple(sorted(group)) for group in groups]


def read_topology(root: Path = REAL_ROOT) -> dict[int, CpuPlace]:
    """Read where each online CPU sits. If unknown, it counts as a separate core on node 0, of the fastest kind."""
    cpus = online_cpus(root)
    cores, nodes = core_of(root, cpus), node_of(root)
    kind_of = {cpu: kind for kind, (_, members) in enumerate(kinds(root, cpus)) for cpu in members}
    return {cpu: CpuPlace(cores.get(cpu, cpu), nodes.get(cpu, 0), kind_of.get(cpu, 0)) for cpu in cpus}


def affinity(root: Path = REAL_ROOT) -> tuple[int, ...] | None:
    """Read which CPUs this process may run on; null if the platform has no affinity, like macOS."""
    if is_real(root) and hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    for line in (read_text(root / "proc/self/status") or "").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return cpu_list(line.partition(":")[2])
    return None


def available_cpus(root: Path = REAL_ROOT) -> CpuBudget:
    """Find the CPUs this process may use, from affinity (or all online CPUs) and the tightest cgroup quota."""
    return CpuBudget(cpus=affinity(root) or online_cpus(root), quota_cpus=cpu_quota(root))


def check_runtime(runtime: Runtime) -> None:
    """Refuse more threads of either kind than this process has CPUs for.

    Raises:
        OptionError: there are fewer. The message says how many.
    """
    check_threads(runtime.threads)
    check_threads(runtime.interop_threads, option="interop-threads")


def check_threads(threads: int, root: Path = REAL_ROOT, *, option: str = "threads") -> None:
    """Refuse more threads than this process has CPUs for.

    Raises:
        OptionError: there are fewer. The message says how many.
    """
    available = available_cpus(root).max_threads
    if threads > available:
        raise OptionError(
            f"{option}: {threads} asked for, but this process may use {available} "
            "(CPU affinity and cgroup quota counted): ask for fewer"
        )


def choose_cpus(cpus: Iterable[int], threads: int, topology: Mapping[int, CpuPlace]) -> tuple[int, ...]:
    """Choose the CPUs for a number of busy threads: the same ones every time, ascending.

    The first goal is a physical core for each thread, the second the fastest kind of core, the third a single NUMA
    node. A core gets a second thread only when all cores have one.

    Args:
        cpus: the CPUs that may be used.
        threads: the number of busy threads. If there are fewer CPUs, all are chosen.
        topology: from :func:`read_topology`. A CPU missing from it counts as a separate core.

    Raises:
        OptionError: less than one thread.
    """
    if threads < 1:
        raise OptionError(f"threads: at least one thread needs a CPU (got {threads})")
    places = {cpu: topology.get(cpu, CpuPlace(cpu)) for cpu in sorted(set(cpus))}
    cost = _costs(places)
    best = sorted(places, key=lambda cpu: (cost[cpu], places[cpu].node, cpu))[:threads]
    for node in sorted({place.node for place in places.values()}):
        inside = sorted((cpu for cpu in places if places[cpu].node == node), key=lambda cpu: (cost[cpu], cpu))[:threads]
        if [cost[cpu] for cpu in inside] == [cost[cpu] for cpu in best]:
            return tuple(sorted(inside))
    return tuple(sorted(best))


def _costs(places: Mapping[int, CpuPlace]) -> dict[int, tuple[int, int]]:
    """Rate the cost of using a CPU: first by the siblings before it on its core, then by how slow its kind is."""
    siblings: dict[int, int] = {}
    costs = {}
    for cpu, place in sorted(places.items()):
        costs[cpu] = (siblings.get(place.core, 0), place.kind)
        siblings[place.core] = siblings.get(place.core, 0) + 1
    return costs
