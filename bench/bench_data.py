"""Making one batch of tokens, from each source."""

import pytest

# The licence is a text that every checkout has; its bytes are the tokens.
TEXT = "file:LICENSE"


@pytest.mark.ntp_case(largest=True, part=["data"], data=["uniform", "zipf:1", TEXT])
def bench_data(measure, case):
    measure(case)
