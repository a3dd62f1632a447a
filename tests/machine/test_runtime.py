"""Runtimes as environment variables."""

import json
import re
import sys
import tempfile
from ctypes.util import find_library
from pathlib import Path

import pytest

from ntp.case import Runtime
from ntp.errors import OptionError
from ntp.machine import runtime as runtimes
from ntp.machine.runtime import CONTROLLED, RELEVANT, environment_variables, installed_allocators
from ntp.worker.launch import new_process
from ntp.worker.sources import Source


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


def described():
    """The rows of the reference's table of variables, each as the names that it has."""
    text = (Path(__file__).parents[2] / "docs/reference.md").read_text()
    rows = text.split("| a worker gets them |")[1].split("\n\n")[0].splitlines()[2:]
    return [re.findall(r"`([A-Z_]+)`", row.split(" | ")[0]) for row in rows]


def test_what_the_reference_says_of_variables_is_what_is_done_with_them():
    of_the_case, preloaded, steering, all_else = described()
    assert preloaded == ["LD_PRELOAD"]
    assert {name for name in of_the_case if name not in CONTROLLED} == set()
    assert {name for name in (*preloaded, *steering, *all_else) if name in CONTROLLED} == set()
    assert {name for name in (*preloaded, *steering) if not RELEVANT.fullmatch(name)} == set()
    assert {name for name in all_else if RELEVANT.fullmatch(name)} == set()
    assert {name for name in CONTROLLED if not RELEVANT.fullmatch(name)} == set()


SCRIPT = """
import json, os
from ntp.machine.software import read_process, read_software
print(json.dumps([dict(os.environ), read_process().variables, read_software().fingerprint]))
"""


def what_a_worker_sees():
    """Its environment, what it records of that, and the fingerprint of its software."""
    with tempfile.TemporaryFile() as stderr:
        process = new_process(Runtime(threads=2), Source.here(), stderr, [sys.executable, "-c", SCRIPT])
        environment, variables, fingerprint = json.loads(process.stdout.read())
        process.stdin.close()
        process.stdout.close()
        assert process.wait() == 0
        return environment, dict(variables), fingerprint


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD")
@pytest.mark.long
def test_what_the_shell_says_reaches_a_worker_as_far_as_it_is_not_the_cases_to_say(monkeypatch):
    *_, fingerprint = what_a_worker_sees()
    of_the_case, preloaded, steering, all_else = described()
    values = dict.fromkeys((*of_the_case, *steering, *all_else), "1")
    values |= {"LD_PRELOAD": find_library("m"), "OPENBLAS_CORETYPE": "Haswell", "PYTHONMALLOC": "malloc"}
    values |= {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1", "MKL_CBWR": "AUTO", "TORCH_LOGS": "dynamo", "LANG": "C"}
    del values["ATEN_CPU_CAPABILITY"], values["ONEDNN_MAX_CPU_ISA"]  # those change what the libraries do, and say so
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    environment, variables, in_another_shell = what_a_worker_sees()
    wanted = environment_variables(Runtime(threads=2))
    assert {name: environment[name] for name in of_the_case if name in environment} == {
        name: wanted[name] for name in of_the_case if name in wanted
    }
    handed_on = {name: values[name] for name in (*preloaded, *steering) if name in values}
    assert {name: environment.get(name) for name in handed_on} == handed_on
    assert {name: environment.get(name) for name in all_else} == {name: values[name] for name in all_else}
    assert variables.items() >= handed_on.items()
    assert not set(all_else) & set(variables)
    assert in_another_shell == fingerprint
