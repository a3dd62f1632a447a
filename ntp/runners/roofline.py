"""This machine's own peaks, measured once and kept: matrix products by library, dtype and threads, memory bandwidth.

Each thread count is measured in a fresh process with the quiet runtime (:mod:`ntp.observe.probe`), pinned like a
worker. Results are kept in the user's cache folder under the fingerprints of machine and software, and only what is
missing there is measured.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import ValidationError

from ntp.case import Runtime
from ntp.errors import MachineError, OptionError, RecordError, WorkerFailed
from ntp.lines import last_lines
from ntp.machine.cpus import available_cpus, choose_cpus, read_topology
from ntp.machine.runtime import CONTROLLED, environment_variables
from ntp.machine.system import read_counters, read_machine
from ntp.observe.probe import Answer, Request
from ntp.records.environment import Cache, Machine, NamedValues, Software, conditions
from ntp.records.peaks import MachinePeaks, Setting, Shape, ThreadPeaks
from ntp.records.run import write_whole
from ntp.worker.launch import own_module

SQUARE = 2048
"""Side of the large square. Twice that gains nothing on up to a dozen cores, and takes eight times as long."""

_MIB = 2**20
_UNKNOWN_CACHE_ARRAY_BYTES = 64 * _MIB
_MIN_ARRAY_BYTES = 8 * _MIB
_STEERING = re.compile(r"(MKL|ONEDNN|DNNL|OPENBLAS|BLIS|VECLIB|ATEN)_(?!VERBOSE$).*")


def stream_array_bytes(caches: Sequence[Cache] | None, threads: int, available_bytes: int) -> int:
    """Bytes of one array for the bandwidth: four times the last-level cache that so many threads can reach.

    64 MiB where the caches are not known. Never more than an eighth of the available memory, for there are three.
    """
    last = max((cache.level for cache in caches or ()), default=None)
    reachable = sum(c.size_bytes * min(c.instances, threads) for c in caches or () if c.level == last)
    wanted = 4 * reachable if reachable else _UNKNOWN_CACHE_ARRAY_BYTES
    return max(_MIN_ARRAY_BYTES, min(wanted, available_bytes // 8)) // 4 * 4


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder where peaks are kept: ``ntp`` in XDG_CACHE_HOME if that is absolute, else in ``~/.cache``.

    Raises:
        MachineError: the user has no home.
    """
    base = environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "ntp"
    home = os.path.expanduser("~")  # itself, where nothing is known
    if not os.path.isdir(home):
        raise MachineError("this user has no home directory: set XDG_CACHE_HOME to a folder for a cache")
    return Path(home) / ".cache/ntp"


def steering_variables(environ: Mapping[str, str] = os.environ) -> NamedValues:
    """The environment variables that steer the matrix libraries and that the runtime does not set itself."""
    return tuple(sorted((k, v) for k, v in environ.items() if _STEERING.fullmatch(k) and k not in CONTROLLED))


def setting_for(threads: int) -> Setting:
    """What the peaks for so many threads depend on, here and now: the CPUs are those a worker would get.

    Raises:
        OptionError: less than one thread.
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
    progress: Callable[[str], None] | None = None,
    folder: Path | None = None,
    machine: Machine | None = None,
    software: Software | None = None,
    command: Sequence[str] | None = None,
    timeout_s: float = 120.0,
) -> MachinePeaks:
    """The peaks of this machine for each thread count: from the cache, or measured, seven seconds for each count.

    Args:
        threads: the thread counts.
        shapes: the workload's own products (M, K, N), from :func:`ntp.records.peaks.gemm_shapes`.
        square: side of the large square that is measured beside them.
        refresh: measure anew what the cache holds.
        progress: told what is about to be measured, a line each time. Not called when all is in the cache.
        folder: where to keep the results, instead of :func:`cache_dir`.
        machine: instead of reading it.
        software: instead of reading it, which imports torch.
        command: the probe's command line, before the request and this process's id.
        timeout_s: how long one process may take.

    Raises:
        OptionError: a thread count or a shape below one.
        WorkerFailed: a probe died, hung or answered rubbish. What was measured before it is in the cache.
    """
    settings = [setting_for(count) for count in dict.fromkeys(threads)]
    wanted = tuple(dict.fromkeys(_checked(shape) for shape in (*shapes, (square, square, square))))
    machine = machine or read_machine()
    kept = _Kept(folder, machine, software or _read_software())
    result = []
    for setting in settings:
        have = ThreadPeaks(setting=setting) if refresh else kept.find(setting)
        missing = tuple(shape for shape in wanted if shape not in have.shapes)
        if missing or not have.streams:
            if progress:
                progress(f"measuring this machine's peak with {_threads(setting.threads)}")
            request = Request(
                threads=setting.threads,
                cpus=setting.cpus,
                shapes=missing,
                array_bytes=None if have.streams else _array_bytes(machine, setting.threads),
            )
            have = have.merged(_measure(setting, request, command, timeout_s))
            kept.put(have)
        chosen = tuple(product for product in have.products if product.shape in wanted)
        result.append(have.model_copy(update={"products": chosen}))
    return kept.peaks.model_copy(
        update={
            "by_threads": tuple(result),
            "shapes": tuple(dict.fromkeys(shapes)),
            "warnings": (*kept.peaks.warnings, *disturbances(result)),
        }
    )


def _measure(setting: Setting, request: Request, command: Sequence[str] | None, timeout_s: float) -> ThreadPeaks:
    """Run a probe, and see what else its CPUs did meanwhile."""
    counters, own_s = read_counters(cpus=setting.cpus), _childrens_cpu_s()
    answer = run_probe(request, command, timeout_s)
    seen = conditions(counters, read_counters(cpus=setting.cpus), _childrens_cpu_s() - own_s)
    shares = [share for share in (seen.steal_share, seen.other_cpu_share) if share is not None]
    share = min(1.0, sum(shares)) if shares else None
    return ThreadPeaks(setting=setting, other_cpu_share=share, **dict(answer))


def _childrens_cpu_s() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def disturbances(by_threads: Sequence[ThreadPeaks]) -> tuple[str, ...]:
    """A warning for each thread count whose CPUs were busy with something else. Kept peaks warn each time."""
    return tuple(
        f"the peak with {_threads(peaks.setting.threads)} was measured while other processes or guests used "
        f"{peaks.other_cpu_share:.0%} of its CPUs and is too low: measure it anew when the machine is quiet"
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


class _Kept:
    """The cache file of one machine and one software. A file that cannot be used counts as empty."""

    def __init__(self, folder: Path | None, machine: Machine, software: Software) -> None:
        self._folder = folder
        self._name = f"peaks-{machine.fingerprint}-{software.fingerprint}.json"
        empty = MachinePeaks(machine=machine.fingerprint, software=software.fingerprint)
        try:
            stored = MachinePeaks.model_validate_json(self._path().read_bytes())
        except (OSError, ValidationError, MachineError):
            stored = empty
        ours = (stored.machine, stored.software) == (empty.machine, empty.software)
        self.peaks = stored if ours else empty

    def _path(self) -> Path:
        return (self._folder or cache_dir()) / self._name

    def find(self, setting: Setting) -> ThreadPeaks:
        """What is known for a setting, perhaps nothing."""
        known = (peaks for peaks in self.peaks.by_threads if peaks.setting == setting)
        return next(known, ThreadPeaks(setting=setting))

    def put(self, peaks: ThreadPeaks) -> None:
        """Replace what is known for a setting, in the file too. A file that cannot be written is a warning."""
        others = (other for other in self.peaks.by_threads if other.setting != peaks.setting)
        self.peaks = self.peaks.model_copy(update={"by_threads": (*others, peaks), "warnings": ()})
        try:
            write_whole(self._path(), self.peaks.model_dump_json())
        except (RecordError, MachineError) as error:
            self.peaks = self.peaks.model_copy(update={"warnings": (f"the peaks were measured but not kept: {error}",)})


def run_probe(request: Request, command: Sequence[str] | None = None, timeout_s: float = 120.0) -> Answer:
    """Measure in a fresh process.

    Raises:
        WorkerFailed: it died, hung or answered rubbish.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in CONTROLLED}
    try:
        process = subprocess.Popen(
            [*(command or own_module("ntp.observe.probe")), request.model_dump_json(), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=inherited | environment_variables(Runtime(threads=request.threads)),
            start_new_session=True,  # Ctrl-C is for this process alone, which then ends the probe
        )
    except OSError as error:
        raise _failed(request, f"the probe cannot be started ({error.strerror})", b"") from error
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        _, stderr = process.communicate()
        raise _failed(
            request, f"no answer for {timeout_s:g} s; the machine is too busy, or a product too large", stderr
        ) from None
    except BaseException:
        _end(process)
        process.communicate()
        raise
    if process.returncode:
        raise _failed(request, _how_it_ended(process.returncode), stderr)
    try:
        return Answer.model_validate_json(stdout)
    except ValidationError as error:
        raise _failed(request, f"the probe answered rubbish: {stdout[:80]!r}", stderr) from error


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    if status == -signal.SIGKILL:
        return "the probe was killed (SIGKILL): by hand, or by the kernel for want of memory"
    if status < 0:
        return f"the probe died of {signal.Signals(-status).name}"
    return f"the probe ended with exit status {status}"


def _failed(request: Request, why: str, stderr: bytes) -> WorkerFailed:
    message = f"the peak with {_threads(request.threads)} could not be measured: {why}"
    return WorkerFailed(message, last_lines(stderr.decode(errors="backslashreplace")))
