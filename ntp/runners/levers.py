"""What a search varies on this machine: every lever that has more than one value here."""

from collections.abc import Sequence
from typing import get_args

from ntp.case import GROUPS
from ntp.machine.cpus import available_cpus
from ntp.machine.runtime import installed_allocators
from ntp.records.levers import COMPILE, ORDER
from ntp.records.tuning import Lever


def levers(
    max_threads: int, allocators: Sequence[str], *, exact: bool, threads: int | None = None
) -> tuple[Lever, ...]:
    """List what can be varied on a machine.

    Args:
        max_threads: the most that torch can use: the powers of two up to it are tried, and it itself.
        allocators: those that are installed.
        exact: whether to try only steps that compute what the plain fp32 step does.
        threads: the only number of threads to try, if any.
    """
    counts = sorted({2**n for n in range(max_threads.bit_length()) if 2**n <= max_threads} | {max_threads})
    values = {"threads": [threads] if threads else counts, "allocator": allocators}
    if exact:
        values["precision"] = ["fp32"]
    if values["threads"] == [1]:
        values["wait_policy"] = []  # one thread waits for no other
    several = []
    for field in (*ORDER, COMPILE):
        info = next(group.model_fields[field] for group in GROUPS.values() if field in group.model_fields)
        texts = tuple(map(str, values.get(field, get_args(info.annotation))))
        if len(texts) > 1:
            several.append(Lever(field=field, values=texts))
    return tuple(several)


def machine_levers(*, exact: bool, threads: int | None = None) -> tuple[Lever, ...]:
    return levers(available_cpus().max_threads, installed_allocators(), exact=exact, threads=threads)
