"""Read the machine and its counters from /proc and /sys.

Sources: proc(5), and the kernel's ABI/testing/sysfs-devices-system-cpu and admin-guide/pm/cpufreq.rst.
py-cpuinfo covers other platforms. Its cache sizes are not used: they come from the "cache size" of /proc/cpuinfo, which
is the third level's on Intel and the second's on AMD.
"""

import functools
import os
import platform
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ntp.machine.cgroup import cpu_throttling
from ntp.machine.cpus import core_of, kinds, node_of
from ntp.machine.procfs import (
    REAL_ROOT,
    cpu_dir,
    is_real,
    online_cpus,
    read_cpuinfo,
    read_fields,
    read_number,
    read_text,
)
from ntp.records.environment import Cache, CoreKind, Counters, Machine

_ISA_FLAGS = frozenset(
    {
        *("sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx_ifma", "avx_vnni_int8", "avx10_1", "avx10_2"),
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16", "avx512_fp16", "avx512_vnni"),
        *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "amx_complex"),
        *("neon", "asimd", "asimdhp", "asimddp", "asimdfhm", "fphp", "bf16", "i8mm"),
        *("sve", "sve2", "svebf16", "svei8mm", "svef32mm", "sme", "sme2"),
    }
)
"""The instruction sets by which BLAS libraries choose kernels, as Linux spells them on x86 and ARM."""

_FOREIGN_FLAGS = {"avx1.0": "avx"}
"""Other systems' spellings."""

_SIZE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@functools.cache
def read_machine(root: Path = REAL_ROOT) -> Machine:
    """Read the machine under ``root``, once in a process."""
    cpus = online_cpus(root)
    cpuinfo = read_cpuinfo(root)
    foreign = _foreign_cpuinfo() if is_real(root) and not (_model(cpuinfo) and _flags(cpuinfo)) else {}
    cores = _physical_cores(root, cpus)
    return Machine(
        cpu_model=_model(cpuinfo) or foreign.get("brand_raw") or _arm_model(cpuinfo),
        architecture=platform.machine() or None,
        logical_cpus=len(cpus) or None,
        physical_cores=cores,
        smt=_smt(root, len(cpus), cores),
        core_kinds=_core_kinds(root, cpus),
        numa_nodes=len(set(node_of(root).values())) or None,
        caches=_caches(root, cpus),
        isa_flags=_isa_flags(_flags(cpuinfo) or foreign.get("flags") or ()),
        memory_bytes=_memory_bytes(root),
        hypervisor=_hypervisor(root, cpuinfo),
        governor=_governor(root, cpus),
        transparent_hugepages=_transparent_hugepages(root),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or (platform.release() if is_real(root) else None) or None,
        os=_os(root),
    )


def _foreign_cpuinfo() -> dict[str, Any]:
    """Ask py-cpuinfo, which runs commands for about a second."""
    import cpuinfo

    try:
        return dict(cpuinfo.get_cpu_info())
    except Exception:  # noqa: BLE001  (it raises a bare one for an unknown architecture)
        return {}


def _first(cpuinfo: Iterable[dict[str, str]], *keys: str) -> str | None:
    return next((fields[key] for fields in cpuinfo for key in keys if fields.get(key)), None)


def _joined(texts: Iterable[str | None], separator: str) -> str | None:
    """Join the distinct texts in order of appearance."""
    return separator.join(dict.fromkeys(text for text in texts if text)) or None


def _model(cpuinfo: Iterable[dict[str, str]]) -> str | None:
    return _joined((_first([fields], "model name", "cpu model", "cpu", "uarch") for fields in cpuinfo), " + ")


def _arm_model(cpuinfo: Iterable[dict[str, str]]) -> str | None:
    """Name an ARM core by its numbers, because 64-bit kernels give no names."""
    pairs = ((fields.get("cpu implementer"), fields.get("cpu part")) for fields in cpuinfo)
    return _joined((f"ARM implementer {implementer} part {part}" for implementer, part in pairs if part), " + ")


def _flags(cpuinfo: Iterable[dict[str, str]]) -> list[str]:
    return (_first(cpuinfo, "flags", "features") or "").split()


def _isa_flags(flags: Iterable[str]) -> tuple[str, ...] | None:
    names = {_FOREIGN_FLAGS.get(flag, flag) for flag in flags}
    return tuple(sorted(names & _ISA_FLAGS)) if names else None


def _physical_cores(root: Path, cpus: Collection[int]) -> int | None:
    if cores := core_of(root, cpus):
        return len(set(cores.values()))
    if not is_real(root):
        return None
    import psutil

    count: int | None = psutil.cpu_count(logical=False)
    return count


def _smt(root: Path, logical_cpus: int, physical_cores: int | None) -> bool | None:
    if physical_cores:
        return physical_cores < logical_cpus
    active = read_number(root / "sys/devices/system/cpu/smt/active")
    return None if active is None else bool(active)


def _core_kinds(root: Path, cpus: Collection[int]) -> tuple[CoreKind, ...] | None:
    if not cpus or not (root / "sys/devices/system/cpu").is_dir():
        return None

    def most(members: Iterable[int], file: str) -> int | None:
        return max((speed for cpu in members if (speed := read_number(cpu_dir(root, cpu) / file))), default=None)

    core_kinds = []
    for name, members in kinds(root, cpus):
        frequency_khz = most(members, "cpufreq/cpuinfo_max_freq")
        core_kinds.append(
            CoreKind(
                name=name,
                capacity=most(members, "cpu_capacity"),
                max_frequency_mhz=None if frequency_khz is None else round(frequency_khz / 1000),
                cpus=len(members),
            )
        )
    return tuple(core_kinds)


def _caches(root: Path, cpus: Iterable[int]) -> tuple[Cache, ...] | None:
    """Return one entry for each level and size. An instance is a set of CPUs that share it."""
    instances = set()
    for cpu in cpus:
        for folder in cpu_dir(root, cpu).glob("cache/index[0-9]*"):
            level, size = read_number(folder / "level"), _size_bytes(read_text(folder / "size"))
            sharers = read_text(folder / "shared_cpu_list")
            if level and size and sharers and read_text(folder / "type") != "Instruction":
                instances.add((level, size, sharers))
    counts = Counter((level, size) for level, size, _ in instances)
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[0][1]))
    return tuple(Cache(level=level, size_bytes=size, instances=n) for (level, size), n in ordered) or None


def _size_bytes(text: str | None) -> int | None:
    """Convert a size as /sys writes it: ``32768K``."""
    number, unit = (text[:-1], _SIZE_UNITS.get(text[-1])) if text else ("", None)
    return int(number) * unit if unit and number.isdecimal() else None


def _memory_bytes(root: Path) -> int | None:
    if kilobytes := read_fields(root / "proc/meminfo").get("MemTotal"):
        return kilobytes * 1024
    if not is_real(root):
        return None
    import psutil

    return int(psutil.virtual_memory().total)


def _hypervisor(root: Path, cpuinfo: Collection[dict[str, str]]) -> bool | None:
    """Return whether this is a guest. x86 kernels always say; elsewhere only a yes can be read."""
    if "hypervisor" in _flags(cpuinfo) or (root / "proc/device-tree/hypervisor").exists():
        return True
    if read_text(root / "sys/hypervisor/type"):
        return True
    return False if _first(cpuinfo, "flags") else None


def _governor(root: Path, cpus: Iterable[int]) -> str | None:
    return _joined((read_text(cpu_dir(root, cpu) / "cpufreq/scaling_governor") for cpu in cpus), ",")


def _transparent_hugepages(root: Path) -> str | None:
    """Read the choice in brackets: ``always [madvise] never``."""
    text = read_text(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    return text.partition("[")[2].partition("]")[0] or None


def _os(root: Path) -> str | None:
    for line in (read_text(root / "etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip("\"'") or None
    return f"{platform.system()} {platform.mac_ver()[0]}".strip() or None if is_real(root) else None


def read_counters(root: Path = REAL_ROOT, cpus: Collection[int] | None = None) -> Counters:
    """Read the kernel's counters: CPU time, throttling, load.

    Args:
        root: the root of the file tree.
        cpus: count the time of these CPUs only; by default that of all.
    """
    total_s, idle_s, steal_s = _cpu_times_s(root, cpus)
    throttled_s, throttled_periods = cpu_throttling(root)
    return Counters(
        total_s=total_s,
        idle_s=idle_s,
        steal_s=steal_s,
        throttled_s=throttled_s,
        throttled_periods=throttled_periods,
        load_1min=_load_1min(root),
    )


def _cpu_times_s(root: Path, cpus: Collection[int] | None) -> tuple[float | None, float | None, float | None]:
    """Sum the total, idle and stolen CPU seconds from the ticks of /proc/stat."""
    wanted = {"cpu"} if cpus is None else {f"cpu{cpu}" for cpu in cpus}
    lines = [line.split() for line in (read_text(root / "proc/stat") or "").splitlines()]
    # user nice system idle iowait irq softirq steal; the guest times that follow are part of user and nice.
    rows = [[int(ticks) for ticks in line[1:9]] for line in lines if line and line[0] in wanted]
    if not rows or any(len(row) < 8 for row in rows):
        return None, None, None
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    total, idle, steal = (
        sum(ticks) / ticks_per_s for ticks in zip(*((sum(row), row[3] + row[4], row[7]) for row in rows), strict=True)
    )
    return total, idle, steal


def _load_1min(root: Path) -> float | None:
    text = read_text(root / "proc/loadavg")
    try:
        if text:
            return float(text.split()[0])
        return os.getloadavg()[0] if is_real(root) else None
    except (ValueError, OSError):
        return None
