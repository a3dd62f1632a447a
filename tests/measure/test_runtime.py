"""Runtimes as environment variables."""

import pytest

from ntp.case import Runtime
from ntp.measure.runtime import CONTROLLED, environment_variables


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_thread_count_reaches_both_libraries(threads):
    variables = environment_variables(Runtime(threads=threads))
    assert variables["OMP_NUM_THREADS"] == variables["MKL_NUM_THREADS"] == str(threads)


def test_the_tuned_allocator_never_maps_and_never_trims():
    tuned = environment_variables(Runtime(allocator="glibc-tuned"))
    assert {name for name in tuned if name.startswith("MALLOC_")} == {
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
        "MALLOC_TOP_PAD_",
    }
    assert not any(name.startswith("MALLOC_") for name in environment_variables(Runtime(allocator="glibc")))


def test_wait_policy():
    assert environment_variables(Runtime(wait_policy="passive"))["OMP_WAIT_POLICY"] == "PASSIVE"
    active = environment_variables(Runtime(wait_policy="active"))
    assert active["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in active


@pytest.mark.parametrize("allocator", ["glibc", "glibc-tuned"])
@pytest.mark.parametrize("wait_policy", ["passive", "active"])
def test_every_variable_that_is_set_is_also_cleared_first(allocator, wait_policy):
    assert set(environment_variables(Runtime(allocator=allocator, wait_policy=wait_policy))) <= CONTROLLED
