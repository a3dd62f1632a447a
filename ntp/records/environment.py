"""The environment of a measurement: the machine, the software, the process, the conditions, the commit.

These are only records, so that reports and verdicts load them without torch. :mod:`~ntp.machine.system`,
:mod:`~ntp.machine.cpus` and :mod:`~ntp.machine.software` read them. A field that a platform lacks is null; null means
unknown, never zero or no.

Two fingerprints decide whether two measurements may be compared: :attr:`Machine.fingerprint` and
:attr:`Software.fingerprint`. Each is made from listed fields only, so a field that is added later changes neither.
"""

import hashlib
import json
from collections.abc import Mapping

from pydantic import Field

from ntp.case import Amount, Count, Frozen

NamedValues = tuple[tuple[str, str], ...]
"""A hashable mapping: (name, value) pairs, sorted by name."""


def _fingerprint(fields: Mapping[str, object]) -> str:
    """Return the first 12 hex digits of the SHA-256 of the fields, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def nominal_bytes(usable_bytes: int) -> int:
    """Estimate the installed memory from the usable memory: 15.5 GiB usable are 16 GiB.

    The kernel's own share changes with its version, the modules do not. The size is rounded up to an eighth of the
    power of two below, which is finer than the sizes on sale and coarser than the kernel's share.
    """
    unit = max(1, (1 << usable_bytes.bit_length()) >> 4)
    return -(-usable_bytes // unit) * unit


class Cache(Frozen):
    """One kind of cache, and the number of its instances."""

    level: Count
    size_bytes: Count  # of one instance
    instances: Count  # fewer than CPUs if CPUs share one


class CoreKind(Frozen):
    """The CPUs of one speed. A hybrid machine has several kinds."""

    name: str | None = None  # performance, efficiency or low-power, where the kernel names them
    capacity: Count | None = None  # the kernel's relative speed; 1024 is the fastest CPU
    max_frequency_mhz: Count | None = None
    cpus: Count


class Machine(Frozen):
    """The hardware, as the operating system shows it. A hypervisor may hide SMT, NUMA and caches from its guest."""

    cpu_model: str | None = None  # several names, joined by " + ", if the cores differ
    architecture: str | None = None  # as platform.machine() spells it: x86_64, aarch64, arm64
    logical_cpus: Count | None = None  # online
    physical_cores: Count | None = None  # online
    smt: bool | None = None  # whether any core runs more than one hardware thread
    core_kinds: tuple[CoreKind, ...] | None = None  # the fastest first
    numa_nodes: Count | None = None  # nodes that have CPUs; memory-only nodes do not count
    caches: tuple[Cache, ...] | None = None  # data and unified, by level, then the largest first
    isa_flags: tuple[str, ...] | None = None  # those that matter to matrix products, as Linux names them, sorted
    memory_bytes: Count | None = None  # usable, all nodes
    hypervisor: bool | None = None  # true: a guest. ARM kernels seldom say
    governor: str | None = None  # cpufreq's; several, joined by commas, if the CPUs differ
    transparent_hugepages: str | None = None  # always, madvise or never
    kernel: str | None = None
    os: str | None = None

    @property
    def l1d_bytes(self) -> int | None:
        """The size of one level 1 data cache, on a hybrid machine of the largest kind."""
        return self._cache_bytes(1)

    @property
    def l2_bytes(self) -> int | None:
        """The size of one level 2 cache, on a hybrid machine of the largest kind."""
        return self._cache_bytes(2)

    @property
    def l3_bytes(self) -> int | None:
        """The size of one level 3 cache, of the largest kind: not the sum of all of them."""
        return self._cache_bytes(3)

    def _cache_bytes(self, level: int) -> int | None:
        return max((cache.size_bytes for cache in self.caches or () if cache.level == level), default=None)

    @property
    def identity(self) -> dict[str, object]:
        """The fields that identify the hardware, as JSON values.

        Whatever changes on the same machine is left out: governor, huge pages, kernel, operating system, and the
        frequencies, which follow the boost setting. The memory counts with its nominal size.
        """
        fields: dict[str, object] = self.model_dump(
            mode="json",
            include={
                *("cpu_model", "architecture", "logical_cpus", "physical_cores", "smt", "numa_nodes"),
                *("caches", "isa_flags", "hypervisor"),
            },
        )
        fields["cpus_by_kind"] = None if self.core_kinds is None else [kind.cpus for kind in self.core_kinds]
        fields["nominal_bytes"] = None if self.memory_bytes is None else nominal_bytes(self.memory_bytes)
        return fields

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that identify the hardware."""
        return _fingerprint(self.identity)


class Library(Frozen):
    """A loaded BLAS or OpenMP library, as threadpoolctl reports it, without its path: paths contain user names."""

    user_api: str  # blas or openmp
    internal_api: str  # openblas, mkl, openmp, ...
    prefix: str | None = None  # libgomp, libiomp, libscipy_openblas, ...
    version: str | None = None
    architecture: str | None = None  # the kernels that OpenBLAS has chosen
    num_threads: Count | None = None
    file: str  # the base name
    package: str | None = None  # the Python package that contains it; null: the system's or the environment's


class TorchBuild(Frozen):
    """What torch was built with. Libraries that are linked into it, often MKL and oneDNN, appear only here."""

    compiler: str | None = None
    blas: str | None = None  # the one that computes torch's matrix products: mkl, open, accelerate, ...
    mkl: str | None = None
    onednn: str | None = None
    openmp: str | None = None
    commit: str | None = None


_NOT_TORCHS = {"numpy", "scipy"}
"""Packages whose BLAS torch never calls. It may or may not be loaded yet, so it must not count."""


class Software(Frozen):
    """The software that a step runs on."""

    python: str | None = None
    torch: str | None = None
    torch_cpu_capability: str | None = None  # the vector kernels that torch chose: DEFAULT, AVX2, AVX512, SVE256, ...
    torch_build: TorchBuild | None = None
    libraries: tuple[Library, ...] = ()
    libc: str | None = None
    ntp: str | None = None

    @property
    def identity(self) -> dict[str, object]:
        """The fields that identify the software, as JSON values.

        Thread counts are left out, because they are a setting; so are this package's own version, which a comparison of
        two commits varies, and the BLAS of numpy and scipy, which torch does not use.
        """
        fields: dict[str, object] = self.model_dump(
            mode="json", include={"python", "torch", "torch_cpu_capability", "torch_build", "libc"}
        )
        fields["libraries"] = sorted(
            [library.user_api, library.internal_api, library.version, library.architecture, library.file]
            for library in self.libraries
            if library.package not in _NOT_TORCHS
        )
        return fields

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that identify the software."""
        return _fingerprint(self.identity)


class Process(Frozen):
    """How the measuring process is set up."""

    affinity: tuple[Count, ...] | None = None  # the CPUs it may run on
    quota_cpus: Amount | None = None  # the tightest cgroup quota, in CPUs; null: no limit, or unknown
    allocator: str | None = None  # glibc, musl, jemalloc, tcmalloc, mimalloc
    allocator_tunables: NamedValues = ()  # in effect since the process started; glibc's by their short names
    variables: NamedValues = ()  # the environment variables that can change a step's time, without directories
    torch_threads: Count | None = None  # null: torch is not loaded
    torch_interop_threads: Count | None = None


class Counters(Frozen):
    """The kernel's counters at one moment. Two of them make :class:`Conditions`."""

    total_s: Amount | None = None  # CPU seconds of all kinds, over the CPUs that were read
    idle_s: Amount | None = None  # including the time waiting for input or output
    steal_s: Amount | None = None  # CPU seconds that the hypervisor gave to others
    throttled_s: Amount | None = None  # CPU seconds held back by a cgroup quota, over the process's own groups
    throttled_periods: Count | None = None
    load_1min: Amount | None = None


class Conditions(Frozen):
    """What disturbed a run. Shares are fractions of the CPU time of the CPUs that were read."""

    steal_share: float | None = Field(None, ge=0, le=1)
    other_cpu_share: float | None = Field(None, ge=0, le=1)  # used by other processes, and by the kernel for them
    throttled_s: Amount | None = None  # CPU seconds
    throttled_periods: Count | None = None
    load_1min: Amount | None = None  # before the run


def _difference(before: float | None, after: float | None) -> float | None:
    """Return the increase of a counter, at least 0: the kernel's idle counters sometimes go back by a tick or two."""
    return None if before is None or after is None else max(0.0, after - before)


def conditions(before: Counters, after: Counters, own_cpu_s: float) -> Conditions:
    """Compute what happened between two readings.

    Linux counts in ticks of 10 ms, so the shares of an interval shorter than a second are coarse.

    Args:
        before: the counters when the run began.
        after: the counters when it ended, of the same CPUs.
        own_cpu_s: the CPU seconds of the measured processes in between, user and system.
    """
    total_s = _difference(before.total_s, after.total_s)
    idle_s = _difference(before.idle_s, after.idle_s)
    steal_s = _difference(before.steal_s, after.steal_s)
    throttled_periods = _difference(before.throttled_periods, after.throttled_periods)
    steal_share = other_share = None
    if total_s and idle_s is not None and steal_s is not None:
        steal_share = min(1.0, steal_s / total_s)
        other_share = min(1.0, max(0.0, total_s - idle_s - steal_s - own_cpu_s) / total_s)
    return Conditions(
        steal_share=steal_share,
        other_cpu_share=other_share,
        throttled_s=_difference(before.throttled_s, after.throttled_s),
        throttled_periods=None if throttled_periods is None else int(throttled_periods),
        load_1min=before.load_1min,
    )


class Git(Frozen):
    """The commit that was measured. All null outside a repository."""

    commit: str | None = None  # the full hash; null also before the first commit
    branch: str | None = None  # null: a detached head
    dirty: bool | None = None  # whether a tracked file differs from the commit; untracked files do not count


class Environment(Frozen):
    """The environment of one measurement."""

    machine: Machine
    software: Software
    process: Process
    git: Git = Git()
    conditions: Conditions | None = None  # null: no run was observed
