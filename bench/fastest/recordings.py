"""What was recorded, as compressed JSON: races between two ways to train, with all their samples."""

import gzip
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from ntp.case import Frozen
from ntp.measure.environment import Machine, Software
from ntp.measure.guard_records import Pair

FOLDER = Path(__file__).parents[2] / "reports/fastest"


class Side(Frozen):
    """What one worker used, beside its time."""

    peak_rss_bytes: int
    minor_page_faults_per_step: float
    compiling_step_ns: tuple[int, ...] = ()
    peak_tensor_bytes: int | None = None
    flops: int | None = None


class Raced(Frozen):
    """A comparison and the pairs that were taken of it: the base is what is compared with."""

    name: str
    base: str
    head: str
    peer: str = ""
    pairs: tuple[Pair, ...] = ()
    sides: tuple[dict[str, Side], ...] = ()
    """For each pair, base and head."""
    failure: str = ""


class Recording(Frozen):
    """One file."""

    started: str
    wall_time_s: float
    command: tuple[str, ...]
    commit: str
    machine: Machine
    software: Software | None = None
    races: tuple[Raced, ...] = ()


class Recorded(NamedTuple):
    """All that a folder holds."""

    pairs: Recording | None
    compiling: Recording | None


def write(path: Path, recording: Recording) -> None:
    """Write a compressed file whole or not at all. The same recording gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-part")
    part.write_bytes(gzip.compress(recording.model_dump_json().encode(), mtime=0))
    os.replace(part, path)


def load(folder: Path = FOLDER) -> Recorded:
    """Read all that the folder holds. What was not recorded is None."""
    return Recorded(*(_read(folder / f"{name}.json.gz") for name in Recorded._fields))


def _read(path: Path) -> Recording | None:
    if not path.exists():
        return None
    document: Any = json.loads(gzip.decompress(path.read_bytes()))
    return Recording.model_validate(document)
