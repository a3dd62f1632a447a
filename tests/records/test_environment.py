"""The environment as a record: fingerprints, conditions, and the round trip through JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.records.environment import (
    Cache,
    Conditions,
    CoreKind,
    Counters,
    Environment,
    Git,
    Library,
    Machine,
    Process,
    Software,
    TorchBuild,
    conditions,
    nominal_bytes,
)

GIB = 2**30

MACHINE = Machine(
    cpu_model="AMD EPYC",
    architecture="x86_64",
    logical_cpus=4,
    physical_cores=2,
    smt=True,
    core_kinds=(CoreKind(capacity=1024, max_frequency_mhz=3500, cpus=4),),
    numa_nodes=1,
    caches=(Cache(level=1, size_bytes=32768, instances=2), Cache(level=3, size_bytes=32 * 2**20, instances=1)),
    isa_flags=("avx2", "fma"),
    memory_bytes=25_276_514_304,
    hypervisor=True,
    governor="powersave",
    transparent_hugepages="madvise",
    kernel="6.1.0",
    os="Debian GNU/Linux 12 (bookworm)",
)
OPENMP = Library(user_api="openmp", internal_api="openmp", num_threads=2, file="libgomp.so.1", package="torch")
NUMPYS = Library(user_api="blas", internal_api="openblas", version="0.3", file="libscipy_openblas.so", package="numpy")
SOFTWARE = Software(
    python="CPython 3.12.1",
    torch="2.13.0+cpu",
    torch_cpu_capability="AVX512",
    torch_build=TorchBuild(compiler="GCC 13.3", blas="mkl", mkl="2024.2", onednn="3.12.0"),
    libraries=(OPENMP,),
    libc="glibc 2.36",
    ntp="0.1.0",
)
ENVIRONMENT = Environment(
    machine=MACHINE,
    software=SOFTWARE,
    process=Process(
        affinity=(0, 1),
        quota_cpus=1.5,
        allocator="glibc",
        allocator_tunables=(("top_pad", "67108864"),),
        variables=(("OMP_NUM_THREADS", "2"),),
        torch_threads=2,
        torch_interop_threads=1,
    ),
    git=Git(commit="a" * 40, branch="main", dirty=True),
    conditions=Conditions(steal_share=0.01, other_cpu_share=0.2, throttled_s=0.5, throttled_periods=3, load_1min=1.0),
)


def test_a_fingerprint_is_the_same_tomorrow():
    # Baselines on disk carry these: whoever changes what a fingerprint is made of must mean to.
    assert MACHINE.fingerprint == "3c8eb743b6ee"
    assert SOFTWARE.fingerprint == "44b6a4ded592"


def test_a_fingerprint_is_made_of_the_identity():
    for described in (MACHINE, SOFTWARE):
        assert json.loads(json.dumps(described.identity)) == described.identity, "JSON values only"
    faster = MACHINE.model_copy(update={"logical_cpus": 8})
    assert {name for name, value in MACHINE.identity.items() if faster.identity[name] != value} == {"logical_cpus"}


def test_equal_fields_have_one_fingerprint():
    assert Machine.model_validate_json(MACHINE.model_dump_json()).fingerprint == MACHINE.fingerprint
    assert Software.model_validate_json(SOFTWARE.model_dump_json()).fingerprint == SOFTWARE.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"cpu_model": "AMD EPYC 2"},
        {"architecture": "aarch64"},
        {"logical_cpus": 8},
        {"physical_cores": 4},
        {"smt": None},
        {"core_kinds": (CoreKind(cpus=2), CoreKind(cpus=2))},
        {"numa_nodes": 2},
        {"caches": None},
        {"isa_flags": ("avx2",)},
        {"hypervisor": False},
        {"memory_bytes": 64 * GIB},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_hardware_has_another_fingerprint(change):
    assert MACHINE.model_copy(update=change).fingerprint != MACHINE.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"governor": "performance"},
        {"transparent_hugepages": "always"},
        {"kernel": "6.2.0"},
        {"os": "another"},
        {"core_kinds": (CoreKind(capacity=1024, max_frequency_mhz=2000, cpus=4),)},
        {"memory_bytes": MACHINE.memory_bytes - 100_000_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_machine_keeps_its_fingerprint_when_its_setting_changes(change):
    assert MACHINE.model_copy(update=change).fingerprint == MACHINE.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"python": "CPython 3.13.0"},
        {"torch": "2.12.0"},
        {"torch_cpu_capability": "AVX2"},
        {"torch_build": TorchBuild(blas="open")},
        {"libraries": ()},
        {"libraries": (OPENMP, OPENMP.model_copy(update={"file": "libiomp5.so"}))},
        {"libc": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_software_has_another_fingerprint(change):
    assert SOFTWARE.model_copy(update=change).fingerprint != SOFTWARE.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"ntp": "9.9.9"},
        {"libraries": (OPENMP.model_copy(update={"num_threads": 64}),)},
        {"libraries": (NUMPYS, OPENMP)},
    ],
    ids=["ntp", "threads", "numpy"],
)
def test_software_keeps_its_fingerprint(change):
    assert SOFTWARE.model_copy(update=change).fingerprint == SOFTWARE.fingerprint


@pytest.mark.parametrize(
    ("usable", "nominal"),
    [(16_231_012 * 1024, 16 * GIB), (25_276_514_304, 24 * GIB), (16 * GIB, 16 * GIB), (0, 0), (1, 1)],
)
def test_nominal_memory(usable, nominal):
    assert nominal_bytes(usable) == nominal


@given(st.integers(0, 2**50))
def test_nominal_memory_is_never_less_nor_much_more(usable):
    nominal = nominal_bytes(usable)
    assert usable <= nominal <= usable + usable / 8
    assert nominal_bytes(nominal) == nominal


def test_an_environment_survives_json():
    assert Environment.model_validate_json(ENVIRONMENT.model_dump_json()) == ENVIRONMENT
    bare = Environment(machine=Machine(), software=Software(), process=Process())
    assert Environment.model_validate_json(bare.model_dump_json()) == bare


def test_an_environment_can_be_hashed():
    assert hash(Environment.model_validate_json(ENVIRONMENT.model_dump_json())) == hash(ENVIRONMENT)


def test_fingerprints_of_what_is_unknown():
    assert Machine().fingerprint != MACHINE.fingerprint
    assert len(Machine().fingerprint) == len(Software().fingerprint) == 12


def test_conditions_are_shares_of_the_cpu_time_there_was():
    before = Counters(total_s=100.0, idle_s=50.0, steal_s=1.0, throttled_s=0.5, throttled_periods=4, load_1min=0.3)
    after = Counters(total_s=120.0, idle_s=55.0, steal_s=2.0, throttled_s=0.75, throttled_periods=6, load_1min=1.9)
    # Of 20 CPU seconds 5 were idle, 1 stolen and 10 the run's own: 4 were others'.
    assert conditions(before, after, own_cpu_s=10.0) == Conditions(
        steal_share=0.05, other_cpu_share=0.2, throttled_s=0.25, throttled_periods=2, load_1min=0.3
    )


def test_conditions_of_what_is_unknown_are_null():
    counters = Counters(total_s=1.0, idle_s=0.5, steal_s=0.0, throttled_s=0.0, throttled_periods=0, load_1min=0.1)
    assert conditions(Counters(), counters, 1.0) == Conditions()
    assert conditions(counters, Counters(), 1.0) == Conditions(load_1min=0.1)


def test_an_interval_too_short_for_a_tick_has_no_shares():
    moment = Counters(total_s=1.0, idle_s=0.5, steal_s=0.0)
    assert conditions(moment, moment, 0.001) == Conditions()


COUNTERS = st.builds(
    Counters,
    **dict.fromkeys(("total_s", "idle_s", "steal_s", "throttled_s"), st.none() | st.floats(0, 1e9)),
    throttled_periods=st.none() | st.integers(0, 10**9),
)


@given(COUNTERS, COUNTERS, st.floats(0, 1e9))
def test_conditions_stay_in_range_even_if_counters_run_back(before, after, own_cpu_s):
    observed = conditions(before, after, own_cpu_s)
    shares = [share for share in (observed.steal_share, observed.other_cpu_share) if share is not None]
    assert all(0 <= share <= 1 for share in shares)
    assert Conditions.model_validate_json(observed.model_dump_json()) == observed


def test_a_share_is_no_percentage():
    with pytest.raises(ValidationError):
        Conditions(steal_share=3.5)
