"""Quotas and throttling by control groups of both versions, and the CPUs and threads that they leave."""

import os

import pytest

from ntp.errors import OptionError
from ntp.machine.cpus import CpuBudget, available_cpus, check_threads
from ntp.machine.system import read_counters

FOLDER = "sys/fs/cgroup/cpu,cpuacct"
"""Where version 1 is mounted."""


def v2(own: str, **limits: str) -> dict[str, str]:
    files = {
        "proc/self/cgroup": f"0::{own}",
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate",
        "sys/fs/cgroup/cgroup.controllers": "cpu memory",
        "proc/self/status": "Name:\tpython\nCpus_allowed_list:\t0-7",
    }
    return files | {f"sys/fs/cgroup/{folder.replace('__', '/')}/cpu.max": limit for folder, limit in limits.items()}


def v1(own: str, top: str = "/", /, **quotas_us: str) -> dict[str, str]:
    """Quotas by group; ``top`` stands for the group that is mounted as the top."""
    files = {
        "proc/self/cgroup": f"9:name=systemd:/\n4:memory:/elsewhere\n3:cpu,cpuacct:{own}\n0::/",
        "proc/self/mountinfo": (
            f"32 31 0:29 {top} /{FOLDER} ro,relatime master:11 - cgroup cgroup rw,cpu,cpuacct\n"
            "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw"
        ),
        "sys/fs/cgroup/unified/cpu.stat": "usage_usec 5",
        "proc/self/status": "Cpus_allowed_list:\t0-3,8",
    }
    for group, quota_us in quotas_us.items():
        folder = f"{FOLDER}/{group.removeprefix('top').replace('__', '/')}"
        files |= {f"{folder}/cpu.cfs_quota_us": quota_us, f"{folder}/cpu.cfs_period_us": "100000"}
    return files


def without(files: dict[str, str], name: str) -> dict[str, str]:
    return {path: text for path, text in files.items() if path != name}


@pytest.mark.parametrize(
    ("files", "quota_cpus", "threads"),
    [
        pytest.param(v2("/pod/inner", pod="150000 100000", pod__inner="max 100000"), 1.5, 2, id="an ancestor's"),
        pytest.param(v2("/pod/inner", pod="400000 100000", pod__inner="50000 100000"), 0.5, 1, id="the tightest"),
        pytest.param(v2("/") | {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2, 2, id="a namespace's own"),
        pytest.param(v2("/../sibling") | {"sys/fs/cgroup/cpu.max": "300000 100000"}, 3, 3, id="outside the namespace"),
        pytest.param(v2("/pod", pod="max 100000"), None, 8, id="none"),
        pytest.param(
            without(v2("/pod", pod="100000 100000"), "proc/self/mountinfo"),
            1,
            1,
            id="at the usual place without mountinfo",
        ),
        pytest.param(v1("/docker/0123", "/docker/0123", top="250000"), 2.5, 3, id="a version 1 container's"),
        pytest.param(v1("/docker/0123", "/", top="250000"), 2.5, 3, id="a version 1 container's with the host's names"),
        pytest.param(v1("/slice/job", top="-1", slice="100000", slice__job="-1"), 1, 1, id="-1 is no limit"),
    ],
)
def test_the_quota(lay, files, quota_cpus, threads):
    cpus = (0, 1, 2, 3, 8) if any(FOLDER in path for path in files) else tuple(range(8))
    budget = available_cpus(lay(files))
    assert budget == CpuBudget(cpus=cpus, quota_cpus=quota_cpus)
    assert budget.max_threads == threads


def test_no_more_threads_than_the_quota_pays_for(lay):
    root = lay(v2("/pod/inner", pod="150000 100000", pod__inner="max 100000"))
    check_threads(1, root)
    check_threads(2, root)
    with pytest.raises(OptionError) as refused:
        check_threads(3, root)
    assert str(refused.value) == (
        "threads: 3 asked for, but this process may use 2 (CPU affinity and cgroup quota counted): ask for fewer"
    )


def test_no_more_threads_than_cpus(lay):
    root = lay({"sys/devices/system/cpu/online": "0-7", "proc/self/status": "Cpus_allowed_list:\t1-3"})
    check_threads(3, root)
    with pytest.raises(OptionError, match="4 asked for, but this process may use 3"):
        check_threads(4, root)


def test_affinity_bounds_the_threads_below_the_quota():
    assert CpuBudget(cpus=(1, 4), quota_cpus=8.0).max_threads == 2
    assert CpuBudget(cpus=(1, 4)).max_threads == 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this platform has no CPU affinity")
def test_the_real_affinity_is_what_the_kernel_says():
    assert set(available_cpus().cpus) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("files", "throttled"),
    [
        pytest.param(
            v2("/pod/inner")
            | {
                "sys/fs/cgroup/cpu.stat": "usage_usec 900",
                "sys/fs/cgroup/pod/cpu.stat": "usage_usec 9\nnr_periods 5\nnr_throttled 2\nthrottled_usec 1500000",
                "sys/fs/cgroup/pod/inner/cpu.stat": "nr_periods 5\nnr_throttled 1\nthrottled_usec 250000",
            },
            (1.75, 3),
            id="summed over the groups",
        ),
        pytest.param(
            v1("/") | {f"{FOLDER}/cpu.stat": "nr_periods 9\nnr_throttled 4\nthrottled_time 2500000000"},
            (2.5, 4),
            id="version 1 counts nanoseconds",
        ),
        pytest.param(v2("/") | {"sys/fs/cgroup/cpu.stat": "usage_usec 900"}, (None, None), id="not counted"),
    ],
)
def test_throttling(lay, files, throttled):
    counters = read_counters(lay(files))
    assert (counters.throttled_s, counters.throttled_periods) == throttled
