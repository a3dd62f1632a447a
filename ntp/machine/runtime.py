"""The environment variables that put a runtime into effect.

They must be set before torch is imported: the C library reads its allocator settings when the process starts, the
OpenMP runtime its wait policy when it is loaded. Torch's own settings follow later (:mod:`ntp.worker.worker`).
"""

import os
import re
from ctypes.util import find_library

from ntp.case import Runtime
from ntp.errors import OptionError
from ntp.records.levers import RECIPES, recipes_of

_PRELOADED = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4", "mimalloc": "libmimalloc3"}
"""Allocators that replace glibc's when they are preloaded, and the Debian packages that contain them."""

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
"""The older names of glibc's tunables (mallopt(3))."""

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
"""Variables that the runtime determines: their values in the caller's environment are dropped.

All others are passed on, and the :data:`RELEVANT` ones are recorded, too: they choose a library's kernels
(``OPENBLAS_CORETYPE``, ``MKL_CBWR``), or what is preloaded. They are not part of any fingerprint.
"""

RELEVANT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|GOTO|BLIS|VECLIB|MALLOC|TCMALLOC|MIMALLOC|ONEDNN|DNNL|ATEN|ACL|TORCH|PYTORCH)[A-Z]*_.*"
    r"|GLIBC_TUNABLES|LD_PRELOAD|DYLD_INSERT_LIBRARIES|PYTHONMALLOC"
)
"""The environment variables that can change a step's time."""


def environment_variables(runtime: Runtime) -> dict[str, str]:
    """Return the variables that put ``runtime`` into effect, for an environment cleared of :data:`CONTROLLED`.

    Raises:
        OptionError: the allocator is not installed.
    """
    threads = str(runtime.threads)
    variables = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    for recipe in recipes_of(runtime):
        variables |= recipe.variables
    if runtime.allocator in _PRELOADED:
        # Other preloaded libraries come after it: the first allocator is the one that counts.
        others = os.environ.get("LD_PRELOAD", "")
        variables["LD_PRELOAD"] = " ".join(filter(None, (allocator_library(runtime.allocator), others)))
    return variables


def allocator_library(name: str) -> str:
    """Return the file name of the shared library of an allocator.

    Raises:
        OptionError: it is not installed.
    """
    library = _find(name)
    if library is None:
        raise OptionError(f"allocator {name} is not installed: on Debian, apt install {_PRELOADED[name]}")
    return library


def installed_allocators() -> tuple[str, ...]:
    """Return the allocators that a runtime can use on this machine."""
    return ("glibc-tuned", "glibc", *filter(_find, _PRELOADED))


def _find(allocator: str) -> str | None:
    return find_library(allocator) or find_library(f"{allocator}_minimal")
