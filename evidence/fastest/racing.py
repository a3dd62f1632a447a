"""The recordings: each runs for a quarter of an hour or more, and keeps what it has after every pair."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from comparisons import COMPARISONS, COMPILED, Comparison
from races import Raced, Recording, Side, read, recording_command, write

from ntp.errors import WorkerFailed
from ntp.machine.software import read_git
from ntp.machine.system import read_machine
from ntp.records.guard import SideName
from ntp.records.peaks import gemm_shapes
from ntp.records.run import WarmUp
from ntp.runners.roofline import measure_peaks
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import new_process
from ntp.worker.pairs import SideFailed, measure_pair
from ntp.worker.sources import Source

Tell = Callable[[str], None]
ROOT = Path(__file__).parents[2]
PEERS = {"jax": (sys.executable, str(ROOT / "evidence/peers/jax_step.py"))}
STEPS_S, BLOCK_S = 6.0, 0.5
"""Of a pair: long turns, since the sides are far from alike (:data:`ntp.worker.pairs.BLOCK_S`)."""

NO_CACHES = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


class Racer(PipeWorker):
    """A worker that remembers its warm-up, and what its runs used."""

    warm: WarmUp
    faults = 0
    steps = 0
    peak_rss_bytes = 0

    def warm_up(self, *arguments: Any) -> WarmUp:
        """As any worker."""
        self.warm = super().warm_up(*arguments)
        return self.warm

    def run(self, steps: int, expected_s: float = 0.0) -> Any:
        """As any worker."""
        ran = super().run(steps, expected_s)
        self.faults += ran.minor_page_faults
        self.steps += steps
        self.peak_rss_bytes = max(self.peak_rss_bytes, ran.peak_rss_bytes)
        return ran

    def used(self, observe: bool) -> Side:
        """What was used. Memory is followed and operations are counted last, if at all: that is no timed step."""
        return Side(
            peak_rss_bytes=self.peak_rss_bytes,
            minor_page_faults_per_step=self.faults / max(1, self.steps),
            compiling_step_ns=self.warm.compiling_step_ns,
            peak_tensor_bytes=self.ask("memory").peak_bytes if observe else None,
            flops=self.ask("flops").total_flops if observe else None,
        )


def _racers(comparison: Comparison, stack: ExitStack) -> dict[SideName, Racer]:
    launch = partial(new_process, command=PEERS[comparison.peer]) if comparison.peer else new_process
    return {
        "base": stack.enter_context(Racer(comparison.base, source=Source.of(ROOT), launch=launch, timeout_s=900)),
        "head": stack.enter_context(Racer(comparison.head, source=Source.of(ROOT), timeout_s=900)),
    }


def _race(raced: Raced, comparison: Comparison, seed: int) -> Raced:
    """One more pair, in new interpreters. What a side used is observed in the first."""
    try:
        with ExitStack() as stack:
            racers = _racers(comparison, stack)
            pair = measure_pair(comparison.head.id, racers, seed, STEPS_S, BLOCK_S)  # type: ignore[arg-type]
            first = not raced.pairs
            compiled = {side: racer.case.step.compile != "off" for side, racer in racers.items()}
            sides = {
                side: racer.used(first and not compiled[side] and not (comparison.peer and side == "base"))
                for side, racer in racers.items()
            }
    except (SideFailed, WorkerFailed) as error:
        return raced.model_copy(update={"failure": str(error)})
    return raced.model_copy(update={"pairs": (*raced.pairs, pair), "sides": (*raced.sides, sides)})


def _record(
    path: Path,
    comparisons: Mapping[str, Comparison],
    number: int,
    seed: int,
    tell: Tell,
    known: Recording | None = None,
) -> None:
    """So many pairs of each comparison, the comparisons in turn. Races that are known already are kept beside them."""
    recording = known or Recording(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_time_s=0,
        command=recording_command(),
        commit=_commit(),
        machine=read_machine(),
    )
    started_s = time.perf_counter() - recording.wall_time_s
    races = {each.name: each for each in recording.races}
    commit = "" if _commit() == recording.commit else _commit()
    for name, each in comparisons.items():
        races[name] = Raced(name=name, base=each.base.id, head=each.head.id, peer=each.peer, commit=commit)
    for turn in range(number):
        for name, comparison in comparisons.items():
            if races[name].failure:
                continue
            races[name] = _race(races[name], comparison, seed + turn)
            wall_time_s = round(time.perf_counter() - started_s, 1)
            recording = recording.model_copy(update={"wall_time_s": wall_time_s, "races": tuple(races.values())})
            write(path, recording)
            tell(f"{path.name}: {name}, pair {turn + 1} of {number} {races[name].failure}")


def _commit() -> str:
    return read_git().commit or ""


def record_pairs(path: Path, names: Sequence[str], number: int, seed: int, tell: Tell) -> None:
    """Record the comparisons of these names. Others that the file has already are kept."""
    _record(path, {name: COMPARISONS[name] for name in names}, number, seed, tell, read(path, Recording))


def record_compiling(path: Path, number: int, seed: int, tell: Tell) -> None:
    """Record compiled against eager steps. No cache of torch.compile is used."""
    with _no_caches():
        _record(path, {each.what: each for each in COMPILED}, number, seed, tell)


def record_peaks(path: Path, tell: Tell) -> None:
    """Record what this machine can do at most."""
    shapes = gemm_shapes(COMPARISONS["exact"].head.workload)
    write(path, measure_peaks([1, 2], shapes, refresh=True, progress=tell))


@contextmanager
def _no_caches() -> Iterator[None]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(NO_CACHES, TORCHINDUCTOR_CACHE_DIR=folder)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
