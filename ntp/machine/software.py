"""Read the software and the process that a measurement runs in, and the commit that it measures."""

import ctypes
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import ntp
from ntp.machine.cgroup import cpu_quota
from ntp.machine.cpus import affinity
from ntp.machine.procfs import REAL_ROOT, is_real, read_text
from ntp.machine.runtime import GLIBC_ALIASES, RELEVANT
from ntp.records.environment import Git, Library, NamedValues, Process, Software, TorchBuild

_NOT_THE_USERS = "KMP_DUPLICATE_LIB_OK"
"""threadpoolctl sets this variable on import. It permits a second OpenMP library, and changes nothing else."""

_DIRECTORIES = re.compile(r"(?<![^:;,=])~?[^/:;,=]*/(?:[^:;,=]*/)?")
"""The directories in a value that is a path or contains paths."""

_ALLOCATORS = {
    "jemalloc": "libjemalloc",
    "tcmalloc": "libtcmalloc",
    "mimalloc": "libmimalloc",
    "glibc": r"libc\.so\.6|libc-2\.",
    "musl": r"ld-musl|libc\.musl",
}
"""Allocators, and how their libraries' names begin. Those that replace another precede those that are always loaded."""

_GIT_TIMEOUT_S = 10


def read_software() -> Software:
    """Read what is installed and loaded in this process. Imports torch."""
    try:
        import torch
    except ImportError:
        return _software(None, None, None)
    capability: str = torch.backends.cpu.get_cpu_capability()
    return _software(str(torch.__version__), capability, parse_torch_config(torch.__config__.show()))


def _software(torch: str | None, capability: str | None, build: TorchBuild | None) -> Software:
    libc = " ".join(platform.libc_ver()).strip()
    return Software(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        torch=torch,
        torch_cpu_capability=capability,
        torch_build=build,
        libraries=read_libraries(),
        libc=libc or None,
        ntp=ntp.__version__,
    )


def tested_with(package: str) -> str:
    """Return the version of a package that ntp is tested with, from the constraints."""
    text = (files("ntp") / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    return str(version)


def parse_torch_config(text: str) -> TorchBuild:
    """Parse ``torch.__config__.show()``, whose format is not stable: what is not found is null."""

    def search(pattern: str) -> str | None:
        match = re.search(pattern, text, re.MULTILINE)
        return match[1].strip() if match else None

    return TorchBuild(
        compiler=search(r"^\s*- ((?:GCC|clang|MSVC)\b.*)$"),
        blas=search(r"\bBLAS_INFO=(\w+)"),
        mkl=search(r"Math Kernel Library Version ([\w.]+)"),
        onednn=search(r"(?:MKL-DNN|oneDNN) v([\w.]+)"),
        openmp=search(r"a\.k\.a\. OpenMP ([\d.]+)") or search(r"^\s*- OpenMP (\d+)"),
        commit=search(r"\bCOMMIT_SHA=([0-9a-f]+)"),
    )


def read_libraries() -> tuple[Library, ...]:
    """List the BLAS and OpenMP libraries that are loaded now, by kind and name."""
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about two loaded OpenMP libraries, which the record shows
        return libraries_of(threadpool_info())


def libraries_of(infos: Iterable[Mapping[str, Any]]) -> tuple[Library, ...]:
    """Convert what threadpoolctl reports into records without paths."""
    libraries = (
        Library(
            user_api=info["user_api"],
            internal_api=info["internal_api"],
            prefix=info.get("prefix"),
            version=info.get("version"),
            architecture=info.get("architecture"),
            num_threads=info.get("num_threads"),
            file=PurePosixPath(info["filepath"]).name,
            package=_package(info["filepath"]),
        )
        for info in infos
    )
    return tuple(sorted(libraries, key=lambda library: (library.user_api, library.file, library.package or "")))


def _package(path: str) -> str | None:
    """Find the package whose wheel contains a library: ``site-packages/numpy.libs/...`` is numpy's."""
    match = re.search(r"/(?:site|dist)-packages/([^/]+?)(?:\.libs|\.dylibs)?/", path)
    return match[1] if match else None


def read_process(root: Path = REAL_ROOT, environ: Mapping[str, str] | None = None) -> Process:
    """Read how this process is set up. Torch is not imported: without it, thread counts are null.

    Args:
        root: the root of the file tree.
        environ: the environment variables; by default those of this process.
    """
    variables = dict(os.environ if environ is None else environ)
    allocator = allocator_of(read_text(root / "proc/self/maps"), _malloc_address() if is_real(root) else None)
    torch = sys.modules.get("torch") if is_real(root) else None
    return Process(
        affinity=affinity(root),
        quota_cpus=cpu_quota(root),
        allocator=allocator,
        allocator_tunables=tunables(allocator, _initial_environ(root) or variables),
        variables=tuple(sorted(_relevant(variables))),
        torch_threads=torch.get_num_threads() if torch else None,
        torch_interop_threads=torch.get_num_interop_threads() if torch else None,
    )


def _relevant(variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Pick the variables that matter, without directories: a record is shown to others."""
    for name, value in variables.items():
        if RELEVANT.fullmatch(name) and name != _NOT_THE_USERS:
            # The loader's lists are separated by spaces, too, which other paths may contain.
            yield name, _DIRECTORIES.sub("", ":".join(value.split()) if name == "LD_PRELOAD" else value)


def _initial_environ(root: Path) -> dict[str, str]:
    """Read the environment with which the process was started: allocators ignore later changes."""
    pairs = (entry.partition("=") for entry in (read_text(root / "proc/self/environ") or "").split("\0"))
    return {name: value for name, _, value in pairs if name}


def _malloc_address() -> int | None:
    """Find where the allocator in use is loaded.

    Looks up malloc_usable_size, which every replacement allocator defines, too. An interpreter that is not
    position-independent would resolve malloc itself to a stub of its own.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).malloc_usable_size, ctypes.c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


def allocator_of(maps: str | None, address: int | None = None) -> str | None:
    """Name the allocator, from /proc/self/maps.

    Args:
        maps: the text of the file.
        address: the address of a function of the allocator. Without it, or if it lies in no known library, the loaded
            libraries decide: one that replaces malloc comes before the C library.
    """
    files = []
    for line in (maps or "").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) < 6:
            continue  # memory without a file
        start, end = (int(bound, 16) for bound in fields[0].split("-"))
        name = fields[5].rpartition("/")[2]
        files.append(name)
        if address is not None and start <= address < end and (known := _allocator([name])):
            return known
    return _allocator(files)


def _allocator(files: Iterable[str]) -> str | None:
    names = set(files)
    return next((key for key, start in _ALLOCATORS.items() if any(re.match(start, name) for name in names)), None)


def tunables(allocator: str | None, environ: Mapping[str, str]) -> NamedValues:
    """Read how environment variables tune the allocator, with one name for glibc's two spellings.

    Sources: mallopt(3), "Memory Allocation Tunables" in glibc's manual, jemalloc(3).
    """
    settings: dict[str, str] = {}
    if allocator == "glibc":
        settings = {alias: environ[name] for name, alias in GLIBC_ALIASES.items() if name in environ}
        # The loader reads these, and they win.
        entries = (entry.partition("=") for entry in environ.get("GLIBC_TUNABLES", "").split(":"))
        settings |= {name.removeprefix("glibc.malloc."): value for name, _, value in entries if "glibc.malloc." in name}
    elif allocator == "jemalloc":
        pairs = (entry.partition(":") for entry in environ.get("MALLOC_CONF", "").split(","))
        settings = {name: value for name, _, value in pairs if name}
    elif allocator in {"tcmalloc", "mimalloc"}:
        prefix = f"{allocator.upper()}_"
        settings = {
            name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix)
        }
    return tuple(sorted(settings.items()))


def read_git(path: Path | None = None) -> Git:
    """Read the commit of the repository around ``path`` (by default the working directory); all null outside of one."""
    # A hook sets GIT_DIR and similar variables to its own repository, which may be another one. Without optional locks
    # no other git has to wait.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        status = subprocess.run(
            ["git", "-C", str(path or "."), "status", "--porcelain=v2", "--branch", "--untracked-files=no"],
            env=environ | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (
        OSError,
        subprocess.SubprocessError,
    ):  # no git, no repository, one of another owner, or a hung file system
        return Git()
    return parse_git_status(status.stdout)


def parse_git_status(text: str) -> Git:
    """Parse the output of ``git status --porcelain=v2 --branch`` (git-status(1))."""
    lines = text.splitlines()
    headers = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = headers.get("oid"), headers.get("head")
    return Git(
        commit=None if commit == "(initial)" else commit,
        branch=None if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )
