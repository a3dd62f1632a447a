"""A runtime as what a process needs to be started with: environment variables and a CPU mask.

All of it must be in place before torch is imported: the C library reads its allocator settings when the process starts,
the OpenMP runtime its wait policy when it is loaded.
"""

from ntp.case import Runtime

_GIB = 2**30
_MIB = 2**20

# Above glibc's thresholds a block is mapped and unmapped at every step, and each of its pages is faulted in and zeroed
# anew. With them raised, large tensors live in the heap, and a page is faulted in once.
_GLIBC_TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(64 * _GIB),
    "MALLOC_TRIM_THRESHOLD_": str(64 * _GIB),
    "MALLOC_TOP_PAD_": str(64 * _MIB),
}
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
_ACTIVE = {"OMP_WAIT_POLICY": "ACTIVE"}

CONTROLLED = frozenset(
    {
        *_GLIBC_TUNED,
        *_PASSIVE,
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        # These shrink torch's own CPU mask; the affinity of the process does not.
        "OMP_PROC_BIND",
        "OMP_PLACES",
        "GOMP_CPU_AFFINITY",
        "KMP_AFFINITY",
    }
)
"""Variables whose value is the runtime's to choose: what the caller's environment says of them is dropped."""


def environment_variables(runtime: Runtime) -> dict[str, str]:
    """The variables that put ``runtime`` into effect, to be laid over an environment cleared of :data:`CONTROLLED`."""
    threads = str(runtime.threads)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    variables |= _PASSIVE if runtime.wait_policy == "passive" else _ACTIVE
    if runtime.allocator == "glibc-tuned":
        variables |= _GLIBC_TUNED
    return variables
