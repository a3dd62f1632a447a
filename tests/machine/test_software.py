"""What is read of the software, the process and the repository around a measurement."""

import os
import subprocess
import sys

import pytest
import torch

from ntp.machine.software import (
    allocator_of,
    libraries_of,
    parse_git_status,
    parse_torch_config,
    read_git,
    read_process,
    read_software,
    tunables,
)
from ntp.records.environment import Git, TorchBuild

X86_WHEEL = """PyTorch built with:
  - GCC 13.3
  - C++ Version: 202002
  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64 architecture applications
  - Intel(R) MKL-DNN v3.12.0 (Git Hash 80afa71049cd69a3df32adcccb623b12cd7baa22)
  - OpenMP 201511 (a.k.a. OpenMP 4.5)
  - LAPACK is enabled (usually provided by MKL)
  - CPU capability usage: AVX512
  - Build settings: BLAS_INFO=mkl, BUILD_TYPE=Release, COMMIT_SHA=cf30153c4c13, LAPACK_INFO=mkl, USE_MKL=ON, """
MAC_WHEEL = """PyTorch built with:
  - GCC 4.2
  - clang 17.0.0
  - LAPACK is enabled (usually provided by MKL)
  - Build settings: BLAS_INFO=accelerate, COMMIT_SHA=0123abc, USE_MKL=OFF, USE_MKLDNN=OFF, """


def test_torch_config_of_an_x86_wheel():
    assert parse_torch_config(X86_WHEEL) == TorchBuild(
        compiler="GCC 13.3", blas="mkl", mkl="2024.2", onednn="3.12.0", openmp="4.5", commit="cf30153c4c13"
    )


def test_torch_config_without_mkl_onednn_and_openmp():
    assert parse_torch_config(MAC_WHEEL) == TorchBuild(compiler="GCC 4.2", blas="accelerate", commit="0123abc")


def test_a_torch_config_of_another_form_is_null():
    assert parse_torch_config("PyTorch, built somehow") == TorchBuild()


def test_libraries_carry_no_directories():
    home = "/home/someone/env/lib/python3.12/site-packages"
    openmp = {"user_api": "openmp", "internal_api": "openmp", "num_threads": 2, "prefix": "libgomp", "version": None}
    blas = {
        "user_api": "blas",
        "internal_api": "openblas",
        "num_threads": 4,
        "version": "0.3.31",
        "architecture": "Zen",
    }
    libraries = libraries_of(
        [
            openmp | {"filepath": f"{home}/torch/lib/libgomp.so.1"},
            openmp | {"filepath": "/usr/lib/libomp.so"},
            blas | {"filepath": f"{home}/numpy.libs/libscipy_openblas64_-32a4.so"},
        ]
    )
    assert [(library.file, library.package) for library in libraries] == [
        ("libscipy_openblas64_-32a4.so", "numpy"),
        ("libgomp.so.1", "torch"),
        ("libomp.so", None),
    ]
    assert libraries[0].architecture == "Zen"
    assert "someone" not in "".join(library.model_dump_json() for library in libraries)


def test_the_software_here():
    software = read_software()
    assert software.torch == torch.__version__
    assert software.torch_cpu_capability == torch.backends.cpu.get_cpu_capability()
    assert software.fingerprint == read_software().fingerprint


MAPS = """00400000-00500000 r-xp 00000000 fe:00 1 /usr/bin/python3.12
7f0000000000-7f0000100000 r-xp 00000000 fe:00 2                     /usr/lib/libc.so.6
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
7f0000400000-7f0000500000 r-xp 00000000 fe:00 3                     /opt/with space/libjemalloc.so.2
7ffc00000000-7ffc00100000 rw-p 00000000 00:00 0                     [stack]
"""


def test_the_allocator_is_the_one_that_answers_not_one_that_is_merely_loaded():
    assert allocator_of(MAPS, 0x7F0000000010) == "glibc"
    assert allocator_of(MAPS, 0x7F0000400000) == "jemalloc"


def test_without_an_address_the_library_that_replaces_malloc_is_it():
    assert allocator_of(MAPS) == "jemalloc"
    assert allocator_of(MAPS, 0x00400010) == "jemalloc"


@pytest.mark.parametrize(
    ("library", "allocator"),
    [
        ("libtcmalloc_minimal.so.4", "tcmalloc"),
        ("libmimalloc.so.2.1", "mimalloc"),
        ("libc-2.31.so", "glibc"),
        ("ld-musl-x86_64.so.1", "musl"),
        ("libcrypt.so.1", None),
    ],
)
def test_allocators_by_their_library(library, allocator):
    assert allocator_of(f"1000-2000 r-xp 0 0:0 1 /lib/{library}") == allocator


def test_no_maps_no_allocator():
    assert allocator_of(None) is None


def test_both_ways_to_tune_glibc_have_one_name():
    environ = {"MALLOC_TOP_PAD_": "64", "MALLOC_ARENA_MAX": "1"}
    environ["GLIBC_TUNABLES"] = "glibc.malloc.top_pad=128:glibc.rtld.nns=3:glibc.malloc.tcache_count=0"
    assert tunables("glibc", environ) == (("arena_max", "1"), ("tcache_count", "0"), ("top_pad", "128"))


def test_tunables_of_another_allocator_do_not_count():
    environ = {"MALLOC_TOP_PAD_": "64", "MALLOC_CONF": "dirty_decay_ms:-1,thp:always", "MIMALLOC_VERBOSE": "1"}
    assert tunables("jemalloc", environ) == (("dirty_decay_ms", "-1"), ("thp", "always"))
    assert tunables("mimalloc", environ) == (("verbose", "1"),)
    assert tunables("musl", environ) == ()
    assert tunables(None, environ) == ()


def test_a_process_from_recorded_files(tmp_path):
    own = tmp_path / "proc/self"
    own.mkdir(parents=True)
    (own / "maps").write_text("1000-2000 r-xp 0 0:0 1 /lib/libc.so.6\n")
    (own / "environ").write_bytes(b"MALLOC_TOP_PAD_=64\0HOME=/home/someone\0")
    (own / "status").write_text("Cpus_allowed_list:\t1,3\n")
    # The variable was changed after the start, which no allocator notices.
    process = read_process(tmp_path, {"MALLOC_TOP_PAD_": "128"})
    assert process.allocator == "glibc"
    assert process.allocator_tunables == (("top_pad", "64"),)
    assert process.variables == (("MALLOC_TOP_PAD_", "128"),)
    assert process.affinity == (1, 3)
    assert process.torch_threads is None


def test_only_variables_that_matter_and_no_directories(tmp_path):
    environ = {
        "OMP_PLACES": "{0},{1}",
        "GOMP_CPU_AFFINITY": "0-3",
        "TORCHINDUCTOR_CACHE_DIR": "/home/some one/cache",
        "TORCH_HOME": "~someone/models",
        "TORCH_LOGS": "+dynamo,kernels",
        "LD_PRELOAD": "/usr/lib/libjemalloc.so.2:/opt/libfast.so libfaster.so",
        "GLIBC_TUNABLES": "glibc.malloc.top_pad=1",
        "HOME": "/home/someone",
        "PATH": "/bin",
        "MY_OMP_SECRET": "x",
        "KMP_DUPLICATE_LIB_OK": "True",
    }
    variables = dict(read_process(tmp_path, environ).variables)
    assert variables == {
        "OMP_PLACES": "{0},{1}",
        "GOMP_CPU_AFFINITY": "0-3",
        "TORCHINDUCTOR_CACHE_DIR": "cache",
        "LD_PRELOAD": "libjemalloc.so.2:libfast.so:libfaster.so",
        "TORCH_HOME": "models",
        "TORCH_LOGS": "+dynamo,kernels",
        "GLIBC_TUNABLES": "glibc.malloc.top_pad=1",
    }


def test_the_process_here():
    process = read_process()
    assert process.torch_threads == torch.get_num_threads()
    assert process.torch_interop_threads == torch.get_num_interop_threads()


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_the_allocator_here_is_known():
    assert read_process().allocator in {"glibc", "musl", "jemalloc", "tcmalloc", "mimalloc"}


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    subprocess.run(["git", *identity, *arguments], cwd=folder, env=environ, check=True, capture_output=True, timeout=60)


def test_the_life_of_a_repository(tmp_path):
    git(tmp_path, "init", "--initial-branch=main")
    assert read_git(tmp_path) == Git(branch="main", dirty=False)
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--message=one")
    clean = read_git(tmp_path)
    assert clean == Git(commit=clean.commit, branch="main", dirty=False)
    assert clean.commit is not None
    assert len(clean.commit) == 40
    (tmp_path / "untracked").write_text("1")
    assert read_git(tmp_path) == clean
    (tmp_path / "file").write_text("2")
    assert read_git(tmp_path) == clean.model_copy(update={"dirty": True})
    git(tmp_path, "checkout", "--detach")
    assert read_git(tmp_path).branch is None


def test_a_hooks_own_repository_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    git(tmp_path / "one", "init", "--initial-branch=one")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "one/.git"))
    (tmp_path / "two").mkdir()
    git(tmp_path / "two", "init", "--initial-branch=two")
    assert read_git(tmp_path / "two").branch == "two"


def test_outside_of_a_repository_all_is_null(tmp_path):
    assert read_git(tmp_path) == Git()
    assert read_git(tmp_path / "missing") == Git()


def test_without_git_all_is_null(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_git() == Git()


def test_a_git_that_hangs_is_given_up(monkeypatch):
    def hang(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert read_git() == Git()


def test_git_status_of_a_branch_with_an_upstream():
    text = "# branch.oid abc\n# branch.head main\n# branch.upstream origin/main\n# branch.ab +1 -0\n1 .M N... file"
    assert parse_git_status(text) == Git(commit="abc", branch="main", dirty=True)
