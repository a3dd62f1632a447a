"""What was recorded, as compressed JSON: races between two ways to train, and searches, with all their samples."""

import gzip
import math
import os
import sys
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from comparisons import SPACES

from ntp.case import Frozen
from ntp.judge.tuning import log_ratio
from ntp.records.environment import Machine
from ntp.records.guard import Pair
from ntp.records.peaks import MachinePeaks
from ntp.records.tuning import Lever, Tuning

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
    commit: str = ""
    """Of the code that it was recorded with, where that is not the recording's."""
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
    races: tuple[Raced, ...] = ()


class Searched(Frozen):
    """Every case of a space against the default, and the search of ``ntp tune`` in the same space."""

    started: str
    wall_time_s: float
    command: tuple[str, ...]
    commit: str
    machine: Machine
    default: str
    levers: tuple[Lever, ...]
    cases: tuple[Raced, ...]
    cases_commit: str = ""
    """Of the code that they were recorded with, where that is not the recording's."""
    tuning: Tuning | None = None
    """As far as it came with the pairs that it was allowed."""
    final: Raced | None = None
    """The search's winner against the best of all. None where they are one."""

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """All cases that could be measured and their ratio to the default, the fastest first."""
        ratios = {each.head: math.exp(fmean(map(log_ratio, each.pairs))) for each in self.cases if each.pairs}
        return tuple(sorted({self.default: 1.0, **ratios}.items(), key=lambda item: item[1]))

    @property
    def best(self) -> str:
        """The fastest case of all."""
        return self.ranking[0][0]


class Recorded(NamedTuple):
    """All that a folder holds."""

    pairs: Recording | None
    compiling: Recording | None
    searches: dict[str, Searched]
    """By the workload's name."""
    peaks: MachinePeaks | None = None


def recording_command() -> tuple[str, ...]:
    """What was typed."""
    return ("python", "evidence/fastest", *sys.argv[1:])


def write(path: Path, recording: Frozen) -> None:
    """Write a compressed file whole or not at all. The same recording gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-part")
    part.write_bytes(gzip.compress(recording.model_dump_json().encode(), mtime=0))
    os.replace(part, path)


def load(folder: Path = FOLDER) -> Recorded:
    """Read all that the folder holds. What was not recorded is None, or left out."""
    pairs, compiling = (read(folder / f"{name}.json.gz", Recording) for name in ("pairs", "compiling"))
    searches = {name: read(folder / f"search-{name}.json.gz", Searched) for name in SPACES}
    peaks = read(folder / "peaks.json.gz", MachinePeaks)
    return Recorded(pairs, compiling, {name: each for name, each in searches.items() if each}, peaks)


Document = TypeVar("Document", bound=Frozen)


def read(path: Path, kind: type[Document]) -> Document | None:
    """A compressed file, if it is there."""
    if not path.exists():
        return None
    return kind.model_validate_json(gzip.decompress(path.read_bytes()))
