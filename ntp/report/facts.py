"""Machine, software and process as pairs of a name and a text, for every renderer."""

from collections.abc import Iterator

from ntp.records.environment import Library, Machine, Process, Software
from ntp.records.peaks import Dtype, MachinePeaks
from ntp.report.units import nominal_size

_DTYPES: tuple[Dtype, ...] = ("fp32", "bf16")

Fact = tuple[str, str | None]
"""A name and its text; None where the platform does not tell."""


def hardware_facts(machine: Machine) -> Iterator[Fact]:
    yield "CPU", machine.cpu_model
    yield "CPUs", _cpus(machine)
    yield (
        "Caches",
        ", ".join(
            f"{cache.instances} x L{cache.level} {nominal_size(cache.size_bytes)}" for cache in machine.caches or ()
        ),
    )
    yield "Instruction sets", ", ".join(machine.isa_flags or ())
    yield "Memory", None if machine.memory_bytes is None else nominal_size(machine.memory_bytes)
    yield "Virtual machine", _yes_no(machine.hypervisor)
    yield "Frequency governor", machine.governor
    yield "Huge pages", machine.transparent_hugepages
    yield "System", ", ".join(filter(None, (machine.os, machine.kernel, machine.architecture)))
    yield "Machine fingerprint", machine.fingerprint


def _cpus(machine: Machine) -> str:
    counts = ((machine.logical_cpus, "logical"), (machine.physical_cores, "physical"))
    numbers = [f"{count} {name}" for count, name in counts if count is not None]
    smt = _yes_no(machine.smt)
    return ", ".join([*numbers, *([f"SMT: {smt}"] if smt else [])])


def software_facts(software: Software) -> Iterator[Fact]:
    build = software.torch_build
    yield "Python", software.python
    yield "torch", software.torch
    yield "torch's vector kernels", software.torch_cpu_capability
    if build:
        yield "torch's BLAS", ", ".join(filter(None, (build.blas, build.mkl)))
        yield "oneDNN", build.onednn
    yield "Libraries", ", ".join(_library(library) for library in software.libraries)
    yield "C library", software.libc
    yield "ntp", software.ntp
    yield "Software fingerprint", software.fingerprint


def _library(library: Library) -> str:
    words = (library.prefix or library.internal_api, library.version, library.architecture)
    return f"{' '.join(filter(None, words))} ({library.user_api})"


def peak_facts(peaks: MachinePeaks) -> Iterator[Fact]:
    """The best measured rates for each number of threads."""
    for measured in peaks.by_threads:
        threads = f"{measured.setting.threads} thread{'s' if measured.setting.threads > 1 else ''}"
        rates = (
            f"{dtype} {rate / 1e9:.3g} GFLOP/s"
            for dtype in _DTYPES
            if (rate := measured.peak_flops_per_s(dtype)) is not None
        )
        bandwidth = measured.bandwidth_bytes_per_s
        moved = () if bandwidth is None else (f"memory {bandwidth / 1e9:.3g} GB/s",)
        yield f"Peak, {threads}", ", ".join((*rates, *moved))


def process_facts(process: Process) -> Iterator[Fact]:
    yield "CPUs allowed", None if process.affinity is None else ", ".join(map(str, process.affinity))
    yield "CPU quota", None if process.quota_cpus is None else f"{process.quota_cpus:g} CPUs"
    yield "Allocator", process.allocator
    yield "Allocator settings", ", ".join("=".join(pair) for pair in process.allocator_tunables)
    yield "torch threads", None if process.torch_threads is None else str(process.torch_threads)
    yield "Environment", ", ".join("=".join(pair) for pair in process.variables)


def _yes_no(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
