"""Environments that hold another torch, made once with pip, and kept in the user's cache.

Each is a virtual environment with that torch and with what a worker imports besides, at the versions that are installed
here: what differs between two contestants is torch, and what it requires. Where pip finds its packages is pip's own
matter: its configuration and its environment variables are the user's.
"""

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ntp.errors import OptionError
from ntp.lines import one_line
from ntp.machine.cache import cache_dir
from ntp.records.sole_writer import sole_writer

NEEDED = ("numpy", "psutil", "pydantic", "py-cpuinfo", "threadpoolctl")
"""The distributions that a worker imports besides torch."""

OLDEST_PYTHON = (3, 11)

_MODULES = {"py-cpuinfo": "cpuinfo"}
"""The modules of distributions that are called otherwise."""

_COMPLETE = "complete.json"
"""The file that is written last: a folder without it was interrupted."""

_CHECK = """
import importlib.util, json, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps([list(sys.version_info[:2]), missing]))
"""

_CHECK_S = 60.0


class TorchEnvironment(NamedTuple):
    """A virtual environment with a torch of its own."""

    folder: Path
    torch: str
    """Its version, as it was asked for."""
    requirements: tuple[str, ...]
    """What was asked for besides."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def size_bytes(self) -> int:
        """Return what all its files take."""
        return sum(file.lstat().st_size for file in self.folder.rglob("*") if not file.is_dir())


def environments() -> Iterator[TorchEnvironment]:
    """Yield those that are complete."""
    with suppress(OSError):
        for folder in sorted(_parent().iterdir()):
            with suppress(OSError, ValueError, KeyError, TypeError):
                facts = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))
                yield TorchEnvironment(folder, str(facts["torch"]), tuple(map(str, facts["requirements"])))


def environment(torch: str, requirements: Sequence[str], progress: Callable[[str], None]) -> TorchEnvironment:
    """Return the environment of a torch, which is made if there is none.

    Args:
        torch: its version.
        requirements: what the environment holds besides, as pip reads them. What is named without a version, and is
            installed here, gets the version that it has here.
        progress: is told what takes so long.

    Raises:
        OptionError: pip finds no such torch, or cannot install it; or another process makes this environment just now.
    """
    wanted = tuple(map(_pinned, requirements))
    digest = f"-{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:8]}" if wanted else ""
    folder = _parent() / f"torch-{torch}-py{sys.version_info.major}.{sys.version_info.minor}{digest}"
    made = TorchEnvironment(folder, torch, wanted)
    if made in environments():
        return made
    folder.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder.parent / f"{folder.name}.making"):
        shutil.rmtree(folder, ignore_errors=True)
        progress(f"making an environment with torch {torch} (minutes, and perhaps gigabytes to download)")
        try:
            _run("cannot make a virtual environment", [sys.executable, "-m", "venv", str(folder)])
            pip = [str(made.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run(f"cannot install torch {torch}", [*pip, f"torch=={torch}", *map(_pinned, NEEDED), *wanted])
            facts = {"torch": torch, "requirements": wanted}
            (folder / _COMPLETE).write_text(json.dumps(facts), encoding="utf-8")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return made


def _pinned(requirement: str) -> str:
    """Return a requirement with the version that is installed here, if it names none."""
    if not re.fullmatch(r"[\w.-]+", requirement):
        return requirement
    try:
        return f"{requirement}=={importlib.metadata.version(requirement)}"
    except importlib.metadata.PackageNotFoundError:
        return requirement


def remove(name: str) -> list[TorchEnvironment]:
    """Remove an environment, or all of them. Returns what was removed.

    Raises:
        OptionError: there is none of that name.
    """
    known = list(environments())
    chosen = known if name == "all" else [made for made in known if made.name == name]
    if not chosen and name != "all":
        names = ", ".join(made.name for made in known) or "none"
        raise OptionError(f"there is no environment {name!r}: the cache has {names}")
    for made in chosen:
        shutil.rmtree(made.folder)
    return chosen


def check_python(python: Path) -> None:
    """Refuse an interpreter that cannot run a worker.

    Raises:
        OptionError: it does not start, is too old, or lacks modules. The message says how to install them.
    """
    modules = {_MODULES.get(name, name): name for name in ("torch", *NEEDED)}
    try:
        done = subprocess.run(
            [python, "-c", _CHECK, *modules], capture_output=True, text=True, check=True, timeout=_CHECK_S
        )
        version, missing = json.loads(done.stdout)
        lacks = [modules[name] for name in missing]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        reason = one_line(str(error))
        raise OptionError(f"python={python} cannot be run ({reason}): give the path of an interpreter") from error
    if tuple(version) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise OptionError(f"python={python} is Python {'.'.join(map(str, version))}: workers need {oldest} or newer")
    if lacks:
        install = f"{python} -m pip install {' '.join(lacks)}"
        raise OptionError(f"python={python} lacks {', '.join(lacks)}, which workers import: {install}")


def _parent() -> Path:
    return cache_dir() / "environments"


def _run(what_failed: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
        # pip says what is wrong first, and where to read about it last.
        reason = next((line for line in said if line.startswith("ERROR: ")), said[-1])
        raise OptionError(f"{what_failed}: {one_line(reason.removeprefix('ERROR: '))}")
