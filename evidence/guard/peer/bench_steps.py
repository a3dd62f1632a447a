"""The four cases of the guard's evidence as a matrix of benchmatrix: one step of each, in whole pytest runs.

It runs in a checkout, whose ``ntp`` it imports, with ``python -m pytest --benchmark-only``.
"""

from functools import cache

import torch
from benchmatrix import BenchmarkCase, make_benchmark_test

from ntp.case import StepConfig, Workload
from ntp.core.step import Training

SHAPES = ((8, 64), (32, 128))
"""Batch size and sequence length."""

WARM_UP_STEPS = 3


@cache
def training_of(batch_size: int, seq_len: int, threads: int) -> Training:
    torch.set_num_threads(threads)
    training = Training.start(Workload(batch_size=batch_size, seq_len=seq_len), StepConfig())
    for _ in range(WARM_UP_STEPS):
        training.step()
    return training


def step(batch_size: int, seq_len: int, threads: int) -> None:
    training_of(batch_size, seq_len, threads).step()


test_steps = make_benchmark_test(
    {"simple": step},
    [
        BenchmarkCase.from_values(f"b{batch_size}-s{seq_len}-t{threads}", batch_size, seq_len, threads)
        for batch_size, seq_len in SHAPES
        for threads in (1, 2)
    ],
    metrics=["single_call_latency"],
)
