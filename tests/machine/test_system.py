"""Machines as their kernels describe them, laid out in a folder and read back."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntp.errors import OptionError
from ntp.machine.cpus import CpuBudget, CpuPlace, available_cpus, choose_cpus, read_topology
from ntp.machine.procfs import cpu_list
from ntp.machine.system import read_counters, read_machine
from ntp.records.environment import Cache, CoreKind, Counters, Machine, conditions

CPU = "sys/devices/system/cpu"


def cpuinfo(cpus: int, *lines: str) -> dict[str, str]:
    return {"proc/cpuinfo": "\n\n".join("\n".join([f"processor\t: {cpu}", *lines]) for cpu in range(cpus))}


def cache(cpu: int, index: int, level: int, kind: str, size: str, sharers: str) -> dict[str, str]:
    folder = f"{CPU}/cpu{cpu}/cache/index{index}"
    return {
        f"{folder}/level": str(level),
        f"{folder}/type": kind,
        f"{folder}/size": size,
        f"{folder}/shared_cpu_list": sharers,
    }


def smt_machine() -> dict[str, str]:
    """An Intel desktop: four cores, eight threads, siblings four apart; cgroup version 2 without a limit."""
    files = cpuinfo(
        8,
        "vendor_id\t: GenuineIntel",
        "model name\t: Intel(R) Core(TM) i7-8559U CPU @ 2.70GHz",
        "cache size\t: 8192 KB",
        "flags\t\t: fpu vme sse4_2 avx f16c fma avx2 ssse3",
    )
    files |= {
        f"{CPU}/online": "0-7",
        "proc/meminfo": "MemTotal:       16231012 kB\nMemFree:         1048576 kB",
        "proc/sys/kernel/osrelease": "6.8.0-45-generic",
        "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"',
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "sys/devices/system/node/node0/cpulist": "0-7",
    }
    for cpu in range(8):
        core = cpu % 4
        pair = f"{core},{core + 4}"
        files |= {
            f"{CPU}/cpu{cpu}/topology/thread_siblings_list": pair,
            f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": "4500000",
            f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": "powersave",
        }
        files |= cache(cpu, 0, 1, "Data", "32K", pair) | cache(cpu, 1, 1, "Instruction", "64K", pair)
        files |= cache(cpu, 2, 2, "Unified", "256K", pair) | cache(cpu, 3, 3, "Unified", "8192K", "0-7")
    return files


def two_node_machine() -> dict[str, str]:
    """Two sockets of four cores without SMT, CPUs alternating between the nodes, and a third node with memory only."""
    files = cpuinfo(8, "model name\t: Some Xeon", "flags\t\t: avx2 avx512f amx_tile amx_bf16 hypervisor")
    files |= {
        f"{CPU}/online": "0-7",
        "sys/devices/system/node/node0/cpulist": "0,2,4,6",
        "sys/devices/system/node/node1/cpulist": "1,3,5,7",
        "sys/devices/system/node/node2/cpulist": "",
    }
    for cpu in range(8):
        files[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = str(cpu)
        files |= cache(cpu, 3, 3, "Unified", "32768K", "0,2,4,6" if cpu % 2 == 0 else "1,3,5,7")
    return files


def intel_hybrid_machine() -> dict[str, str]:
    """Two performance cores with two threads each, the first of them favoured, and four efficiency cores."""
    files = cpuinfo(8, "model name\t: 12th Gen Intel(R) Core(TM)", "flags\t\t: avx2 fma avx_vnni")
    files |= {f"{CPU}/online": "0-7", "sys/devices/cpu_core/cpus": "0-3", "sys/devices/cpu_atom/cpus": "4-7"}
    for cpu in range(8):
        fast = cpu < 4
        siblings = f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}" if fast else str(cpu)
        files[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = siblings
        khz = 5_200_000 if cpu < 2 else 5_000_000 if fast else 3_800_000
        files[f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"] = str(khz)
        files |= cache(cpu, 0, 1, "Data", "48K" if fast else "32K", siblings)
        files |= cache(cpu, 2, 2, "Unified", "1280K" if fast else "2048K", siblings if fast else "4-7")
    return files


def arm_hybrid_machine() -> dict[str, str]:
    """Four little cores, then two middle and two big ones, told apart by their capacity."""
    parts = ["0xd05"] * 4 + ["0xd0b"] * 2 + ["0xd44"] * 2
    blocks = [
        f"processor\t: {cpu}\nFeatures\t: fp asimd asimddp bf16 i8mm sve\nCPU implementer\t: 0x41\nCPU part\t: {part}"
        for cpu, part in enumerate(parts)
    ]
    files = {"proc/cpuinfo": "\n\n".join([*blocks, "Hardware\t: A board"]), f"{CPU}/online": "0-7"}
    for cpu in range(8):
        files[f"{CPU}/cpu{cpu}/topology/thread_siblings_list"] = str(cpu)
        files[f"{CPU}/cpu{cpu}/cpu_capacity"] = str(250 if cpu < 4 else 760 if cpu < 6 else 1024)
    return files


def without_sys() -> dict[str, str]:
    """A sandbox that shows only /proc: two cores with two threads each, without the size of the third cache level."""
    blocks = [
        f"processor\t: {cpu}\nmodel name\t: AMD EPYC\ncache size\t: 1024 KB\nphysical id\t: 0\n"
        f"core id\t\t: {cpu // 2}\nflags\t\t: fma avx2 hypervisor"
        for cpu in range(4)
    ]
    return {"proc/cpuinfo": "\n\n".join(blocks), "proc/meminfo": "MemTotal:        8000000 kB"}


def test_smt(lay):
    machine = read_machine(lay(smt_machine()))
    assert machine.cpu_model == "Intel(R) Core(TM) i7-8559U CPU @ 2.70GHz"
    assert (machine.logical_cpus, machine.physical_cores, machine.smt, machine.numa_nodes) == (8, 4, True, 1)
    assert machine.caches == (
        Cache(level=1, size_bytes=32 * 1024, instances=4),
        Cache(level=2, size_bytes=256 * 1024, instances=4),
        Cache(level=3, size_bytes=8 * 2**20, instances=1),
    )
    assert (machine.l1d_bytes, machine.l2_bytes, machine.l3_bytes) == (32 * 1024, 256 * 1024, 8 * 2**20)
    assert machine.isa_flags == ("avx", "avx2", "f16c", "fma", "sse4_2")
    assert machine.memory_bytes == 16231012 * 1024
    assert machine.hypervisor is False
    assert machine.core_kinds == (CoreKind(max_frequency_mhz=4500, cpus=8),)
    assert (machine.governor, machine.transparent_hugepages) == ("powersave", "madvise")
    assert (machine.kernel, machine.os) == ("6.8.0-45-generic", "Ubuntu 24.04.1 LTS")


def test_smt_switched_off_leaves_the_cores(lay):
    files = smt_machine() | {f"{CPU}/online": "0-3"}
    files |= {f"{CPU}/cpu{cpu}/topology/thread_siblings_list": str(cpu) for cpu in range(4)}
    machine = read_machine(lay(files))
    assert (machine.logical_cpus, machine.physical_cores, machine.smt) == (4, 4, False)


def test_two_numa_nodes(tmp_path, lay):
    machine = read_machine(lay(two_node_machine()))
    assert (machine.logical_cpus, machine.physical_cores, machine.smt) == (8, 8, False)
    assert machine.numa_nodes == 2
    assert machine.caches == (Cache(level=3, size_bytes=32 * 2**20, instances=2),)
    assert machine.hypervisor is True
    assert machine.isa_flags == ("amx_bf16", "amx_tile", "avx2", "avx512f")
    assert [place.node for place in read_topology(tmp_path).values()] == [0, 1] * 4


def test_intel_hybrid_cores(tmp_path, lay):
    machine = read_machine(lay(intel_hybrid_machine()))
    assert machine.core_kinds == (
        CoreKind(name="performance", max_frequency_mhz=5200, cpus=4),
        CoreKind(name="efficiency", max_frequency_mhz=3800, cpus=4),
    )
    assert (machine.physical_cores, machine.smt) == (6, True)
    assert machine.caches == (
        Cache(level=1, size_bytes=48 * 1024, instances=2),
        Cache(level=1, size_bytes=32 * 1024, instances=4),
        Cache(level=2, size_bytes=2048 * 1024, instances=1),
        Cache(level=2, size_bytes=1280 * 1024, instances=2),
    )
    topology = read_topology(tmp_path)
    assert topology[1] == CpuPlace(core=0, node=0, kind=0)
    assert topology[5] == CpuPlace(core=5, node=0, kind=1)


def test_arm_hybrid_cores(tmp_path, lay):
    machine = read_machine(lay(arm_hybrid_machine()))
    assert machine.cpu_model == " + ".join(f"ARM implementer 0x41 part {part}" for part in ("0xd05", "0xd0b", "0xd44"))
    assert machine.core_kinds == tuple(CoreKind(capacity=c, cpus=n) for c, n in ((1024, 2), (760, 2), (250, 4)))
    assert machine.isa_flags == ("asimd", "asimddp", "bf16", "i8mm", "sve")
    assert machine.logical_cpus == 8
    assert machine.hypervisor is None
    assert choose_cpus(range(8), 3, read_topology(tmp_path)) == (4, 6, 7)


def test_favoured_cores_are_no_other_kind(lay):
    files = {f"{CPU}/online": "0-3"}
    files |= {f"{CPU}/cpu{cpu}/cpu_capacity": "1024" for cpu in range(4)}
    files |= {f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": str(5_850_000 - 100_000 * cpu) for cpu in range(4)}
    machine = read_machine(lay(files))
    assert machine.core_kinds == (CoreKind(capacity=1024, max_frequency_mhz=5850, cpus=4),)


def test_kinds_that_only_the_frequency_tells_apart(lay):
    files = {f"{CPU}/online": "0-3"}
    files |= {f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq": str(3_500_000 if cpu < 2 else 4_900_000) for cpu in range(4)}
    machine = read_machine(lay(files))
    assert machine.core_kinds == (CoreKind(max_frequency_mhz=4900, cpus=2), CoreKind(max_frequency_mhz=3500, cpus=2))


def test_without_sys_only_proc_counts(tmp_path, lay):
    machine = read_machine(lay(without_sys()))
    assert (machine.logical_cpus, machine.physical_cores, machine.smt) == (4, 2, True)
    assert machine.hypervisor is True
    assert machine.isa_flags == ("avx2", "fma")
    missing = ("core_kinds", "numa_nodes", "caches", "governor", "transparent_hugepages", "kernel", "os", "l3_bytes")
    assert {name: getattr(machine, name) for name in missing} == dict.fromkeys(missing)
    assert available_cpus(tmp_path) == CpuBudget(cpus=(0, 1, 2, 3))


def test_an_empty_root_is_all_null(tmp_path):
    machine = read_machine(tmp_path)
    assert machine == Machine(architecture=machine.architecture)
    assert read_counters(tmp_path) == Counters()
    assert read_topology(tmp_path) == {}
    assert available_cpus(tmp_path).max_threads == 1


def test_nonsense_is_null(tmp_path, lay):
    files = {
        "proc/cpuinfo": "::\n\nprocessor\t: x",
        "proc/meminfo": "MemTotal: much",
        "proc/stat": "cpu 1 2",
        "proc/loadavg": "high",
        "proc/self/status": "Cpus_allowed_list:\tall",
        "proc/self/cgroup": "nothing",
        "proc/self/mountinfo": "1 2 - ",
        f"{CPU}/online": "0-",
        f"{CPU}/smt/active": "forceoff",
        "sys/devices/system/node/node0/cpulist": "?",
    }
    machine = read_machine(lay(files))
    assert machine == Machine(architecture=machine.architecture)
    assert read_counters(tmp_path) == Counters()
    assert available_cpus(tmp_path) == CpuBudget(cpus=())


def test_a_file_that_cannot_be_read_is_null(tmp_path, lay):
    files = smt_machine()
    del files["proc/meminfo"]
    (lay(files) / "proc/meminfo").mkdir()
    assert read_machine(tmp_path).memory_bytes is None


def test_governors_that_differ_are_all_named(lay):
    files = smt_machine() | {f"{CPU}/cpu3/cpufreq/scaling_governor": "performance"}
    assert read_machine(lay(files)).governor == "powersave,performance"


def test_the_real_machine_is_read_once():
    machine = read_machine()
    assert read_machine() is machine
    assert machine.logical_cpus
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


PROC_STAT = """cpu  500 20 80 1000 100 5 5 290 70 3
cpu0 100 10 40 600 50 0 0 200 0 0
cpu1 400 10 40 400 50 5 5 90 70 3
intr 12345"""


def test_guest_time_counts_once(lay, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    root = lay({"proc/stat": PROC_STAT, "proc/loadavg": "0.50 0.30 0.10 1/100 4242"})
    assert read_counters(root) == Counters(total_s=20.0, idle_s=11.0, steal_s=2.9, load_1min=0.5)
    assert read_counters(root, cpus=[1]) == Counters(total_s=10.0, idle_s=4.5, steal_s=0.9, load_1min=0.5)
    assert read_counters(root, cpus=[7]).total_s is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the platform has no /proc")
def test_real_counters_make_conditions():
    before = read_counters()
    observed = conditions(before, read_counters(), 0.0)
    assert before.total_s is not None
    assert observed.load_1min == before.load_1min


@pytest.mark.parametrize(
    ("text", "cpus"),
    [
        *(
            ("0-3,8,10-11", (0, 1, 2, 3, 8, 10, 11)),
            ("", ()),
            (" 5\n", (5,)),
            ("3,1-2", (1, 2, 3)),
            ("1-3,2", (1, 2, 3)),
        ),
        *((malformed, None) for malformed in (None, "3-1", "-1", "a", "1,,2", "0-", "1 2", "0x3")),
    ],
)
def test_a_cpu_list_is_read_as_kernels_write_it_or_not_at_all(text, cpus):
    assert cpu_list(text) == cpus


# Choosing


def test_siblings_come_last(lay):
    topology = read_topology(lay(smt_machine()))
    assert choose_cpus(range(8), 2, topology) == (0, 1)
    assert choose_cpus(range(8), 4, topology) == (0, 1, 2, 3)
    assert choose_cpus(range(8), 5, topology) == (0, 1, 2, 3, 4)
    assert choose_cpus([1, 5, 6], 2, topology) == (1, 6)


def test_one_node_where_it_fits(lay):
    topology = read_topology(lay(two_node_machine()))
    assert choose_cpus(range(8), 4, topology) == (0, 2, 4, 6)
    assert choose_cpus([0, 1, 3, 5], 3, topology) == (1, 3, 5)
    assert choose_cpus(range(8), 5, topology) == (0, 1, 2, 4, 6)


def test_performance_cores_come_first_and_their_siblings_last(lay):
    topology = read_topology(lay(intel_hybrid_machine()))
    assert choose_cpus(range(8), 2, topology) == (0, 2)
    assert choose_cpus(range(8), 3, topology) == (0, 2, 4)
    assert choose_cpus(range(8), 7, topology) == (0, 1, 2, 4, 5, 6, 7)


def test_two_cores_on_two_nodes_rather_than_siblings_on_one():
    topology = {0: CpuPlace(0, 0), 1: CpuPlace(0, 0), 2: CpuPlace(2, 1), 3: CpuPlace(2, 1)}
    assert choose_cpus(range(4), 2, topology) == (0, 2)


def test_no_thread_is_refused():
    with pytest.raises(OptionError, match="got 0"):
        choose_cpus([0], 0, {})


@st.composite
def topologies(draw):
    """Cores with one or two threads, on several nodes and of several kinds, siblings numbered far apart."""
    cores = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.booleans()), min_size=1, max_size=8))
    places = {}
    for core, (node, kind, smt) in enumerate(cores):
        places[core] = CpuPlace(core, node, kind)
        if smt:
            places[core + len(cores)] = CpuPlace(core, node, kind)
    return places


@given(topologies(), st.integers(1, 20), st.randoms())
def test_choosing_keeps_its_promises(topology, threads, random):
    cpus = list(topology)
    chosen = choose_cpus(cpus, threads, topology)
    random.shuffle(cpus)
    assert choose_cpus(cpus, threads, topology) == chosen
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= topology.keys()
    assert len(chosen) == min(threads, len(topology))
    cores = {place.core: place for place in topology.values()}
    used = {topology[cpu].core for cpu in chosen}
    assert len(used) == min(threads, len(cores))
    if threads <= len(cores):
        fastest = sorted(place.kind for place in cores.values())[:threads]
        assert sorted(topology[cpu].kind for cpu in chosen) == fastest
        nodes = [[place.kind for place in cores.values() if place.node == node] for node in range(3)]
        if any(sorted(kinds)[:threads] == fastest for kinds in nodes):
            assert len({topology[cpu].node for cpu in chosen}) == 1
