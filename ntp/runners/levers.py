"""What a search may vary: every field of step and runtime that has more than one value on this machine."""

from collections.abc import Sequence
from typing import get_args

from ntp.case import GROUPS
from ntp.machine.cpus import available_cpus
from ntp.machine.runtime import installed_allocators
from ntp.records.tuning import Lever

ORDER = ("loss", "matmul", "precision", "threads", "optimizer", "allocator", "affinity", "huge_pages")
"""The levers in the order in which they are tried: those that change what the others are worth come first.

Not OpenMP's wait policy: in a pair, threads of one side that spin while they wait take the CPUs from the other, and so
make it look slow. It can be compared in a sweep, where each case is alone (``--ntp-wait-policy``).
"""

COMPILE = "compile"
"""The last: a candidate costs a minute."""


def levers(
    max_threads: int, allocators: Sequence[str], *, exact: bool, threads: int | None = None
) -> tuple[Lever, ...]:
    """All that can be varied on a machine.

    Args:
        max_threads: of torch. Tried are the powers of two up to it, and itself.
        allocators: those that are installed.
        exact: only steps that compute what the plain fp32 step does.
        threads: the only number of threads, if not all are to be tried.
    """
    counts = sorted({2**n for n in range(max_threads.bit_length()) if 2**n <= max_threads} | {max_threads})
    values = {"threads": [threads] if threads else counts, "allocator": allocators}
    if exact:
        values["precision"] = ["fp32"]
    found = []
    for field in (*ORDER, COMPILE):
        info = next(group.model_fields[field] for group in GROUPS.values() if field in group.model_fields)
        texts = tuple(map(str, values.get(field, get_args(info.annotation))))
        if len(texts) > 1:
            found.append(Lever(field=field, values=texts))
    return tuple(found)


def machine_levers(*, exact: bool, threads: int | None = None) -> tuple[Lever, ...]:
    """All that can be varied on this machine."""
    return levers(available_cpus().max_threads, installed_allocators(), exact=exact, threads=threads)
