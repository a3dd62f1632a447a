"""The two halves of a step's arithmetic: the forward pass, and the loss with the backward pass."""

import pytest


@pytest.mark.ntp_case(largest=True, part=["forward", "backward"])
def bench_forward(measure, case):
    measure(case)
