"""What surrounds a measurement, as values: the machine, the software, the process, the conditions, the commit.

Values alone: this module reads nothing and starts nothing, so that reports and verdicts load it without torch.
:mod:`~ntp.machine.system`, :mod:`~ntp.machine.cpus` and :mod:`~ntp.machine.software` read them. A field that a
platform lacks is null; null means unknown, never zero or no.

Two fingerprints say whether two measurements may be compared: :attr:`Machine.fingerprint` and
:attr:`Software.fingerprint`. Each is made of listed fields only, so a field added later changes no fingerprint.
"""

import hashlib
import json
from collections.abc import Mapping

from pydantic import Field

from ntp.case import Amount, Count, Frozen

NamedValues = tuple[tuple[str, str], ...]
"""A mapping that can be hashed: (name, value) pairs, sorted by name."""


def _fingerprint(fields: Mapping[str, object]) -> str:
    """Take the first 12 hex digits of the SHA-256 of the fields, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]


def nominal_bytes(usable_bytes: int) -> int:
    """Estimate the memory that is built in from what a kernel leaves of it: 15.5 GiB usable are 16 GiB.

    The kernel's own share changes with its version, the modules do not. Rounds up to an eighth of the power of two
    below, which is finer than the sizes that are sold and coarser than what a kernel keeps.
    """
    unit = max(1, (1 << usable_bytes.bit_length()) >> 4)
    return -(-usable_bytes // unit) * unit


class Cache(Frozen):
    """One kind of cache, and how often it is there."""

    level: Count
    size_bytes: Count  # of one instance
    instances: Count  # a machine has fewer than CPUs where CPUs share one


class CoreKind(Frozen):
    """The CPUs of one speed. A hybrid machine has several kinds."""

    name: str | None = None  # performance, efficiency or low-power, where the kernel names them
    capacity: Count | None = None  # the kernel's relative speed; 1024 is the fastest CPU
    max_frequency_mhz: Count | None = None
    cpus: Count


class Machine(Frozen):
    """The hardware, as the operating system shows it. A hypervisor may hide SMT, NUMA and caches from its guest."""

    cpu_model: str | None = None  # several names, joined by " + ", where the cores differ in it
    architecture: str | None = None  # as platform.machine() spells it: x86_64, aarch64, arm64
    logical_cpus: Count | None = None  # online
    physical_cores: Count | None = None  # online
    smt: bool | None = None  # whether any core runs more than one hardware thread
    core_kinds: tuple[CoreKind, ...] | None = None  # the fastest first
    numa_nodes: Count | None = None  # nodes that have CPUs; memory-only nodes do not count
    caches: tuple[Cache, ...] | None = None  # data and unified, by level, then the largest first
    isa_flags: tuple[str, ...] | None = None  # those that matter to matrix arithmetic, as Linux names them, sorted
    memory_bytes: Count | None = None  # usable, all nodes
    hypervisor: bool | None = None  # true: a guest. ARM tells seldom
    governor: str | None = None  # cpufreq's; several, joined by commas, where the CPUs differ in it
    transparent_hugepages: str | None = None  # always, madvise or never
    kernel: str | None = None
    os: str | None = None

    @property
    def l1d_bytes(self) -> int | None:
        """Bytes of one level 1 data cache; of the largest kind on a hybrid machine."""
        return self._cache_bytes(1)

    @property
    def l2_bytes(self) -> int | None:
        """Bytes of one level 2 cache; of the largest kind on a hybrid machine."""
        return self._cache_bytes(2)

    @property
    def l3_bytes(self) -> int | None:
        """Bytes of one level 3 cache, which is not the sum of all of them; of the largest kind."""
        return self._cache_bytes(3)

    def _cache_bytes(self, level: int) -> int | None:
        return max((cache.size_bytes for cache in self.caches or () if cache.level == level), default=None)

    @property
    def identity(self) -> dict[str, object]:
        """What names the hardware, as JSON values.

        Left out is what changes on the same machine: governor, huge pages, kernel, operating system, and the
        frequencies, which follow the boost setting. Of the memory, the nominal size counts.
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
        """Twelve hex digits that name the hardware: of its :attr:`identity`."""
        return _fingerprint(self.identity)


class Library(Frozen):
    """A BLAS or OpenMP library that is really loaded, as threadpoolctl sees it. No path: paths name users."""

    user_api: str  # blas or openmp
    internal_api: str  # openblas, mkl, openmp, ...
    prefix: str | None = None  # libgomp, libiomp, libscipy_openblas, ...
    version: str | None = None
    architecture: str | None = None  # which kernels OpenBLAS has chosen
    num_threads: Count | None = None
    file: str  # the base name
    package: str | None = None  # the Python package that brought it; null: the system's or the environment's own


class TorchBuild(Frozen):
    """What torch says it was built with. Libraries linked into it, as MKL and oneDNN often are, show up only here."""

    compiler: str | None = None
    blas: str | None = None  # the one torch multiplies matrices with: mkl, open, accelerate, ...
    mkl: str | None = None
    onednn: str | None = None
    openmp: str | None = None
    commit: str | None = None


_NOT_TORCHS = {"numpy", "scipy"}
"""Packages whose own BLAS torch never calls. Whether it is loaded yet depends on the moment, so it must not count."""


class Software(Frozen):
    """What the step runs on, above the hardware."""

    python: str | None = None
    torch: str | None = None
    torch_cpu_capability: str | None = None  # the vector kernels torch chose: DEFAULT, AVX2, AVX512, SVE256, ...
    torch_build: TorchBuild | None = None
    libraries: tuple[Library, ...] = ()
    libc: str | None = None
    ntp: str | None = None

    @property
    def identity(self) -> dict[str, object]:
        """What names the software, as JSON values.

        Left out are thread counts, which are a setting, this package's own version, which is what a comparison of
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
        """Twelve hex digits that name the software: of its :attr:`identity`."""
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
    """What the kernel had counted at one moment. Two of them make :class:`Conditions`."""

    total_s: Amount | None = None  # CPU seconds of all kinds, over the CPUs that were read
    idle_s: Amount | None = None  # with those that waited for input or output
    steal_s: Amount | None = None  # those a hypervisor gave to others
    throttled_s: Amount | None = None  # CPU seconds held back by a cgroup quota, over the process's own groups
    throttled_periods: Count | None = None
    load_1min: Amount | None = None


class Conditions(Frozen):
    """What disturbed a run. Shares are of all the CPU time there was on the CPUs that were read."""

    steal_share: float | None = Field(None, ge=0, le=1)
    other_cpu_share: float | None = Field(None, ge=0, le=1)  # used by other processes, and by the kernel for them
    throttled_s: Amount | None = None  # CPU seconds
    throttled_periods: Count | None = None
    load_1min: Amount | None = None  # before the run


def _difference(before: float | None, after: float | None) -> float | None:
    """Tell how far a counter went. Never back: the kernel's idle counters are known to do that by a tick or two."""
    return None if before is None or after is None else max(0.0, after - before)


def conditions(before: Counters, after: Counters, own_cpu_s: float) -> Conditions:
    """Derive what happened between two readings.

    Linux counts in ticks of 10 ms, so shares of intervals under a second are coarse.

    Args:
        before: read when the run began.
        after: read when it ended, over the same CPUs.
        own_cpu_s: CPU seconds of the measured processes themselves in between, user and system.

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
    """All that surrounds one measurement."""

    machine: Machine
    software: Software
    process: Process
    git: Git = Git()
    conditions: Conditions | None = None  # null: no run was observed
