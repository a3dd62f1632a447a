"""Runtimes as environment variables."""

import pytest

from ntp.case import Runtime
from ntp.errors import OptionError
from ntp.measure import runtime as runtimes
from ntp.measure.runtime import CONTROLLED, environment_variables, installed_allocators


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
    assert set(environment_variables(Runtime(wait_policy="unset", allocator="glibc"))) == {
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
    }


def test_huge_pages_are_asked_of_glibc():
    assert environment_variables(Runtime(huge_pages="thp"))["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert "GLIBC_TUNABLES" not in environment_variables(Runtime())


def test_an_allocator_is_preloaded_before_whatever_else_is(monkeypatch):
    monkeypatch.setattr(runtimes, "find_library", lambda name: {"jemalloc": "libjemalloc.so.2"}.get(name))
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    assert environment_variables(Runtime(allocator="jemalloc"))["LD_PRELOAD"] == "libjemalloc.so.2"
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    assert environment_variables(Runtime(allocator="jemalloc"))["LD_PRELOAD"] == "libjemalloc.so.2 libother.so"
    assert "LD_PRELOAD" not in environment_variables(Runtime())
    assert installed_allocators() == ("glibc-tuned", "glibc", "jemalloc")


def test_a_minimal_tcmalloc_will_do(monkeypatch):
    monkeypatch.setattr(runtimes, "find_library", lambda name: {"tcmalloc_minimal": "libtcm.so"}.get(name))
    assert environment_variables(Runtime(allocator="tcmalloc"))["LD_PRELOAD"].startswith("libtcm.so")


def test_an_allocator_that_is_not_there_is_named_with_its_package(monkeypatch):
    monkeypatch.setattr(runtimes, "find_library", lambda _: None)
    with pytest.raises(OptionError, match="mimalloc is not installed: on Debian, apt install libmimalloc"):
        environment_variables(Runtime(allocator="mimalloc"))


@pytest.mark.parametrize("allocator", ["glibc", "glibc-tuned"])
@pytest.mark.parametrize("wait_policy", ["passive", "active", "unset"])
def test_every_variable_that_is_set_is_also_cleared_first(allocator, wait_policy):
    assert set(environment_variables(Runtime(allocator=allocator, wait_policy=wait_policy))) <= CONTROLLED
