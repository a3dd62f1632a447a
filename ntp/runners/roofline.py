"""This machine's own peaks, measured once and kept: matrix products by library, dtype and threads, memory bandwidth.

Each thread count is measured in a fresh worker with the quiet runtime, which holds no case
(:mod:`ntp.observe.probe`). Results are kept (:mod:`ntp.machine.cache`), and only what is missing is measured.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from ntp.case import Runtime
from ntp.errors import MachineError, OptionError, RecordError
from ntp.machine.cache import load_kept, save_kept
from ntp.machine.cpus import available_cpus, choose_cpus, read_topology
from ntp.machine.runtime import CONTROLLED
from ntp.machine.system import read_counters, read_machine
from ntp.observe.probe import Answer, Request
from ntp.records.environment import Cache, Machine, NamedValues, Software, conditions
from ntp.records.peaks import MachinePeaks, Setting, Shape, ThreadPeaks
from ntp.worker.channel import Channel
from ntp.worker.launch import Launch, new_process

SQUARE = 2048
"""Rows of the large square matrices. Twice as many gain nothing on up to a dozen cores, and take 8 times as long."""

_MIB = 2**20
_UNKNOWN_CACHE_ARRAY_BYTES = 64 * _MIB
_MIN_ARRAY_BYTES = 8 * _MIB
_STEERING = re.compile(r"(MKL|ONEDNN|DNNL|OPENBLAS|BLIS|VECLIB|ATEN)_(?!VERBOSE$).*")


def stream_array_bytes(caches: Sequence[Cache] | None, threads: int, available_bytes: int) -> int:
    """Bytes of one array for the bandwidth: four times the last-level cache that this many threads can reach.

    64 MiB where the caches are not known, and at most an eighth of the available memory, as there are three arrays.
    """
    last = max((cache.level for cache in caches or ()), default=None)
    reachable = sum(c.size_bytes * min(c.instances, threads) for c in caches or () if c.level == last)
    wanted = 4 * reachable if reachable else _UNKNOWN_CACHE_ARRAY_BYTES
    return max(_MIN_ARRAY_BYTES, min(wanted, available_bytes // 8)) // 4 * 4


def steering_variables(environ: Mapping[str, str] = os.environ) -> NamedValues:
    """The environment variables that steer the matrix libraries and that the runtime leaves alone."""
    return tuple(sorted((k, v) for k, v in environ.items() if _STEERING.fullmatch(k) and k not in CONTROLLED))


def setting_for(threads: int) -> Setting:
    """What the peaks with this many threads depend on, here and now. The CPUs are those that a worker would get.

    Raises:
        OptionError: ``threads`` is less than one.
    """
    budget = available_cpus()
    cpus = choose_cpus(budget.cpus, threads, read_topology())
    pinned = cpus if hasattr(os, "sched_setaffinity") else None
    return Setting(threads=threads, cpus=pinned, quota_cpus=budget.quota_cpus, variables=steering_variables())


def measure_peaks(
    threads: Sequence[int],
    shapes: Sequence[Shape] = (),
    *,
    square: int = SQUARE,
    refresh: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
    machine: Machine | None = None,
    software: Software | None = None,
    launch: Launch = new_process,
    timeout_s: float = 120.0,
) -> MachinePeaks:
    """The peaks of this machine for each thread count: from the cache, or measured, seven seconds for each count.

    Args:
        threads: the thread counts.
        shapes: the workload's own products (M, K, N), from :func:`ntp.records.peaks.gemm_shapes`.
        square: side of the large square that is measured beside them.
        refresh: measure again what the cache holds.
        progress: told what is about to be measured, a line each time. Not called when all is in the cache.
        folder: where to keep the results, instead of :func:`ntp.machine.cache.cache_dir`.
        machine: instead of reading it.
        software: instead of reading it, which imports torch.
        launch: starts the process of a :class:`Probe`.
        timeout_s: how long one process may take.

    Raises:
        OptionError: a thread count or a shape below one.
        WorkerFailed: a probe died, hung or gave a malformed answer. What was measured before it is in the cache.
    """
    settings = [setting_for(count) for count in dict.fromkeys(threads)]
    wanted = tuple(dict.fromkeys(_checked(shape) for shape in (*shapes, (square, square, square))))
    machine, software = machine or read_machine(), software or _read_software()
    kept = load_kept(MachinePeaks, machine.fingerprint, software.fingerprint, folder)
    result = []
    for setting in settings:
        peaks = (None if refresh else _at(kept, setting)) or ThreadPeaks(setting=setting)
        missing = tuple(shape for shape in wanted if shape not in peaks.shapes)
        if missing or not peaks.streams:
            progress(f"measuring this machine's peak with {_threads(setting.threads)}")
            request = Request(
                threads=setting.threads,
                cpus=setting.cpus,
                shapes=missing,
                array_bytes=None if peaks.streams else _array_bytes(machine, setting.threads),
            )
            peaks = peaks.merged(_measure(setting, request, launch, timeout_s))
            kept = _keep(kept, peaks, folder)
        chosen = tuple(product for product in peaks.products if product.shape in wanted)
        result.append(peaks.model_copy(update={"products": chosen}))
    return kept.model_copy(
        update={
            "by_threads": tuple(result),
            "shapes": tuple(dict.fromkeys(shapes)),
            "warnings": (*kept.warnings, *disturbances(result)),
        }
    )


def _at(kept: MachinePeaks, setting: Setting) -> ThreadPeaks | None:
    return next((peaks for peaks in kept.by_threads if peaks.setting == setting), None)


def _keep(kept: MachinePeaks, peaks: ThreadPeaks, folder: Path | None) -> MachinePeaks:
    """Replace what is kept for a setting, in the file too. A file that cannot be written is a warning."""
    others = (other for other in kept.by_threads if other.setting != peaks.setting)
    kept = kept.model_copy(update={"by_threads": (*others, peaks), "warnings": ()})
    try:
        save_kept(kept, folder)
    except (RecordError, MachineError) as error:
        return kept.model_copy(update={"warnings": (f"the peaks were measured but not kept: {error}",)})
    return kept


class Probe(Channel):
    """A worker that holds no case, and is asked for its peaks."""

    if_killed = "measure again when no other program needs the memory"
    if_silent = "measure again when the machine is quiet"

    def __init__(self, threads: int, *, timeout_s: float = 120.0, launch: Launch = new_process) -> None:
        name = f"the peak with {_threads(threads)} could not be measured"
        super().__init__(name, Runtime(threads=threads), timeout_s=timeout_s, launch=launch)

    def peaks(self, request: Request) -> Answer:
        return self.request("peaks", Answer, "measuring peaks", **request.model_dump(mode="json"))


def _measure(setting: Setting, request: Request, launch: Launch, timeout_s: float) -> ThreadPeaks:
    """Ask a probe, and see what else its CPUs did meanwhile."""
    counters, own_s = read_counters(cpus=setting.cpus), _childrens_cpu_s()
    with Probe(setting.threads, timeout_s=timeout_s, launch=launch) as probe:
        answer = probe.peaks(request)
    meanwhile = conditions(counters, read_counters(cpus=setting.cpus), _childrens_cpu_s() - own_s)
    shares = [share for share in (meanwhile.steal_share, meanwhile.other_cpu_share) if share is not None]
    share = min(1.0, sum(shares)) if shares else None
    return ThreadPeaks(setting=setting, other_cpu_share=share, **dict(answer))


def _childrens_cpu_s() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def disturbances(by_threads: Sequence[ThreadPeaks]) -> tuple[str, ...]:
    """A warning for each thread count whose CPUs were busy with something else, also where the peaks were kept."""
    return tuple(
        f"the peak with {_threads(peaks.setting.threads)} was measured while other processes or guests used "
        f"{peaks.other_cpu_share:.0%} of its CPUs and is too low: measure it again when the machine is quiet"
        for peaks in by_threads
        if peaks.disturbed
    )


def _checked(shape: Shape) -> Shape:
    if min(shape) < 1:
        raise OptionError(f"shape: a product needs at least one row, term and column (got {shape})")
    return shape


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _array_bytes(machine: Machine, threads: int) -> int:
    return stream_array_bytes(machine.caches, threads, psutil.virtual_memory().available)


def _read_software() -> Software:
    from ntp.machine.software import read_software

    return read_software()
