"""The AdamW step alone, in each of torch's implementations."""

import pytest


@pytest.mark.ntp_case(largest=True, part=["optimizer"], optimizer=["default", "foreach", "fused"])
def bench_optimizer(measure, case):
    measure(case)
