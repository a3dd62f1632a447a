"""The calibration kernel: a matrix product of fixed size, timed in a worker between the blocks of steps.

It is the roofline's fp32 product by torch's default route. What slows the machine down for a while (another guest, a
lower frequency) slows it, too, so that the ratio of a step's time to its time can be compared with another day's.
"""

import functools
import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from time import process_time  # itself: a model may put another in its place

import torch

from ntp.core.train import thread_count
from ntp.observe.rounds import burst
from ntp.records.run import KernelBurst

SIDE = 512
"""Rows of the square matrices: enough that the threads hardly wait for each other, few enough that a slow CPU still
gives several samples in a few tens of milliseconds."""

CALLS = 3
"""Timed calls in a burst. One comes before them: it finds neither its matrices in the caches nor the threads awake."""


def kernel_burst(threads: int, side: int = SIDE, calls: int = CALLS) -> KernelBurst:
    """Time (S, S) x (S, S) -> (S, S) in fp32, the second factor transposed as nn.Linear keeps it.

    The training is left as it was: the matrices lie in memory of their own, outside the heap.
    """
    a, b, out = _matrices(side)
    cpu_time_s = process_time()
    with torch.no_grad(), plain_settings(threads):
        torch.mm(a, b.t(), out=out)
        time_ns = tuple(burst(lambda: torch.mm(a, b.t(), out=out), calls))
    return KernelBurst(shape=(side, side, side), time_ns=time_ns, cpu_time_s=process_time() - cpu_time_s)


@functools.cache
def _matrices(side: int) -> tuple[torch.Tensor, ...]:
    """Two factors and room for their product, made once: to draw them takes longer than to multiply them."""
    room = mmap.mmap(-1, 3 * 4 * side**2)
    matrices = torch.frombuffer(room, dtype=torch.float32).view(3, side, side)
    generator = torch.Generator().manual_seed(0)  # of its own: the training's random numbers stay what they are
    matrices[:2].normal_(std=1 / math.sqrt(side), generator=generator)
    return matrices.unbind()


@contextmanager
def plain_settings(threads: int) -> Iterator[None]:
    """Use this many threads and compute fp32 products in fp32, then put both back as they were.

    A model may have set them otherwise, and a change of that must not hide in the ratio.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with nullcontext() if torch.get_num_threads() == threads else thread_count(threads):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
