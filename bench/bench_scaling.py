"""How the cost of a step grows with tokens and vocabulary, with the growth that fits; and what threads are worth.

It takes long and runs only if it is named: ``pytest --benchmark-only bench/bench_scaling.py``.
"""

import pytest

LOSSES = ["full", "deduplicated"]


@pytest.mark.ntp_case(largest=True, batch_size=[4, 16, 64, 256, 1024], seq_len=[128], loss=LOSSES)
def bench_tokens(measure, case):
    measure(case)


@pytest.mark.ntp_case(largest=True, vocab_size=[1000, 5000, 10_000, 50_000], loss=LOSSES)
def bench_vocabulary(measure, case):
    measure(case)


@pytest.mark.ntp_case(batch_size=[32], seq_len=[128], loss=LOSSES)
def bench_threads(measure, case):
    measure(case)
