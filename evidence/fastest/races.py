"""What was recorded: races between two ways to train, and searches, with all their samples."""

import math
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

from attempts import Attempts
from comparisons import SPACES
from recordings import REPORTS, Provenance, read

from ntp.case import Frozen
from ntp.judge.tuning import log_ratio
from ntp.records.pairs import Pair
from ntp.records.peaks import MachinePeaks
from ntp.records.tuning import Lever, Tuning

FOLDER = REPORTS / "fastest"


class Side(Frozen):
    peak_rss_bytes: int
    minor_page_faults_per_step: float
    compiling_step_ns: tuple[int, ...] = ()
    peak_tensor_bytes: int | None = None
    flops: int | None = None


class Raced(Frozen):
    """Two ways to train and the pairs that were taken of them. The base is what the head is compared with."""

    name: str = ""
    base: str
    head: str
    peer: str = ""
    commit: str = ""
    """The commit of the code that ran, where that is not the recording's."""
    pairs: tuple[Pair, ...] = ()
    sides: tuple[dict[str, Side], ...] = ()
    """Base and head of each pair."""
    failure: str = ""


class Recording(Provenance):
    races: tuple[Raced, ...] = ()


class Searched(Provenance):
    """Every case of a space against the default, and the search of ``ntp tune`` in the same space."""

    default: str
    levers: tuple[Lever, ...]
    cases: tuple[Raced, ...]
    cases_commit: str = ""
    """The commit that the cases were recorded with, where that is not the recording's."""
    tuning: Tuning | None = None
    """The search, as far as it came with the pairs that it was allowed."""
    final: Raced | None = None
    """The search's winner against the best of all. None where they are the same."""

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """All cases that could be measured and their ratio to the default, the fastest first."""
        ratios = {case.head: math.exp(fmean(map(log_ratio, case.pairs))) for case in self.cases if case.pairs}
        return tuple(sorted({self.default: 1.0, **ratios}.items(), key=lambda item: item[1]))

    @property
    def best(self) -> str:
        return self.ranking[0][0]


class Recorded(NamedTuple):
    """Everything in a folder. What was not recorded is None, or left out."""

    pairs: Recording | None
    compiling: Recording | None
    searches: dict[str, Searched]
    peaks: MachinePeaks | None = None
    attempts: Attempts | None = None


Document = TypeVar("Document", bound=Frozen)


def load(folder: Path = FOLDER) -> Recorded:
    searches = {name: searched for name in SPACES if (searched := kept(folder / f"search-{name}.json.gz", Searched))}
    pairs, compiling = (kept(folder / f"{name}.json.gz", Recording) for name in ("pairs", "compiling"))
    peaks, attempts = kept(folder / "peaks.json.gz", MachinePeaks), kept(folder / "attempts.json.gz", Attempts)
    return Recorded(pairs, compiling, searches, peaks, attempts)


def kept(path: Path, kind: type[Document]) -> Document | None:
    return kind.model_validate_json(read(path)) if path.exists() else None
