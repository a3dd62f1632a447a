"""A runtime as what a process needs to be started with: environment variables and a CPU mask.

All of it must be in place before torch is imported: the C library reads its allocator settings when the process starts,
the OpenMP runtime its wait policy when it is loaded. What torch itself is told follows after
(:mod:`ntp.worker.worker`).
"""

import os
import re
from ctypes.util import find_library

from ntp.case import Runtime
from ntp.errors import OptionError
from ntp.records.levers import RECIPES, recipes_of

_PRELOADED = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4", "mimalloc": "libmimalloc3"}
"""Allocators that take glibc's place where they are preloaded, and the Debian packages that have them."""

GLIBC_ALIASES = {
    "MALLOC_ARENA_MAX": "arena_max",
    "MALLOC_ARENA_TEST": "arena_test",
    "MALLOC_CHECK_": "check",
    "MALLOC_MMAP_MAX_": "mmap_max",
    "MALLOC_MMAP_THRESHOLD_": "mmap_threshold",
    "MALLOC_PERTURB_": "perturb",
    "MALLOC_TOP_PAD_": "top_pad",
    "MALLOC_TRIM_THRESHOLD_": "trim_threshold",
}
"""glibc's older names of its tunables (mallopt(3))."""

CONTROLLED = frozenset(
    {
        *GLIBC_ALIASES,
        *(name for (field, _), recipe in RECIPES.items() if field in Runtime.model_fields for name in recipe.variables),
        "KMP_LIBRARY",
        "OMP_NUM_THREADS",
        "OMP_THREAD_LIMIT",
        "OMP_DYNAMIC",
        "MKL_NUM_THREADS",
        "MKL_DOMAIN_NUM_THREADS",
        "MKL_DYNAMIC",
        "OPENBLAS_NUM_THREADS",
        "OPENBLAS_DEFAULT_NUM_THREADS",
        "GOTO_NUM_THREADS",
        "BLIS_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        # These shrink torch's own CPU mask; the affinity of the process does not.
        "OMP_PROC_BIND",
        "OMP_PLACES",
        "GOMP_CPU_AFFINITY",
        "KMP_AFFINITY",
        "KMP_HW_SUBSET",
    }
)
"""Variables whose value is the runtime's to choose: what the caller's environment says of them is dropped.

Others are handed on, :data:`RELEVANT` ones into the record, too: which kernels a library takes (``OPENBLAS_CORETYPE``,
``MKL_CBWR``), what is preloaded. No fingerprint is made of them.
"""

RELEVANT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|GOTO|BLIS|VECLIB|MALLOC|TCMALLOC|MIMALLOC|ONEDNN|DNNL|ATEN|ACL|TORCH|PYTORCH)[A-Z]*_.*"
    r"|GLIBC_TUNABLES|LD_PRELOAD|DYLD_INSERT_LIBRARIES|PYTHONMALLOC"
)
"""The environment variables that can change a step's time."""


def environment_variables(runtime: Runtime) -> dict[str, str]:
    """The variables that put ``runtime`` into effect, to be laid over an environment cleared of :data:`CONTROLLED`.

    Raises:
        OptionError: the allocator is not installed.
    """
    threads = str(runtime.threads)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    for recipe in recipes_of(runtime):
        variables |= recipe.variables
    if runtime.allocator in _PRELOADED:
        # Whatever is preloaded already comes after: the first allocator is the one that counts.
        others = os.environ.get("LD_PRELOAD", "")
        variables["LD_PRELOAD"] = " ".join(filter(None, (allocator_library(runtime.allocator), others)))
    return variables


def allocator_library(name: str) -> str:
    """The file name of the shared library of an allocator.

    Raises:
        OptionError: it is not installed.
    """
    found = find_library(name) or find_library(f"{name}_minimal")
    if found is None:
        raise OptionError(f"allocator {name} is not installed: on Debian, apt install {_PRELOADED[name]}")
    return found


def installed_allocators() -> tuple[str, ...]:
    """The allocators that a runtime can name on this machine."""
    preloaded = (name for name in _PRELOADED if find_library(name) or find_library(f"{name}_minimal"))
    return ("glibc-tuned", "glibc", *preloaded)
