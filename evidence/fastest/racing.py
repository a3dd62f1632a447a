"""Makes the recordings: each runs for a quarter of an hour or more, and keeps what it has after every pair."""

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from comparisons import COMPARISONS, COMPILED, Comparison
from races import Raced, Recording, Side, kept
from recordings import ROOT, SEED, current_commit, provenance, tell, write

from ntp.errors import WorkerFailed
from ntp.records.peaks import gemm_shapes
from ntp.records.run import WarmUp
from ntp.runners.roofline import measure_peaks
from ntp.worker.driver import PipeWorker
from ntp.worker.launch import new_process
from ntp.worker.pairs import SideFailed, measure_pair
from ntp.worker.sources import Source

PEERS = {"jax": (sys.executable, str(ROOT / "evidence/peers/jax_step.py"))}
STEPS_S, BLOCK_S = 6.0, 0.5
"""A pair has long blocks, since the sides are far from alike (:data:`ntp.worker.pairs.BLOCK_S`)."""

NO_CACHES = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


class Racer(PipeWorker):
    warm: WarmUp
    faults = 0
    steps = 0
    peak_rss_bytes = 0

    def warm_up(self, *arguments: Any) -> WarmUp:
        self.warm = super().warm_up(*arguments)
        return self.warm

    def run(self, steps: int, expected_s: float = 0.0) -> Any:
        ran = super().run(steps, expected_s)
        self.faults += ran.minor_page_faults
        self.steps += steps
        self.peak_rss_bytes = max(self.peak_rss_bytes, ran.peak_rss_bytes)
        return ran

    def used(self, observe: bool) -> Side:
        """Return what was used. Memory and operations are observed last, if at all: those steps are not timed."""
        return Side(
            peak_rss_bytes=self.peak_rss_bytes,
            minor_page_faults_per_step=self.faults / max(1, self.steps),
            compiling_step_ns=self.warm.compiling_step_ns,
            peak_tensor_bytes=self.ask("memory").peak_bytes if observe else None,
            flops=self.ask("flops").total_flops if observe else None,
        )


def _race(raced: Raced, comparison: Comparison, seed: int) -> Raced:
    """Measure one more pair, in new interpreters. What a side used is observed in the first."""
    launches = {
        "base": partial(new_process, command=PEERS[comparison.peer]) if comparison.peer else new_process,
        "head": new_process,
    }
    try:
        with ExitStack() as stack:
            racers = {
                side: stack.enter_context(Racer(case, source=Source.of(ROOT), launch=launches[side], timeout_s=900))
                for side, case in (("base", comparison.base), ("head", comparison.head))
            }
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


def _record(path: Path, recording: Recording, comparisons: Mapping[str, Comparison], number: int) -> None:
    """Record pairs of each comparison, alternating between them. Other races of the recording are kept."""
    started_s = time.perf_counter() - recording.wall_time_s
    races = {race.name: race for race in recording.races}
    commit = "" if current_commit() == recording.commit else current_commit()
    for name, (_, base, head, _, peer) in comparisons.items():
        races[name] = Raced(name=name, base=base.id, head=head.id, peer=peer, commit=commit)
    for i in range(number):
        for name, comparison in comparisons.items():
            if races[name].failure:
                continue
            races[name] = _race(races[name], comparison, SEED + i)
            wall_time_s = round(time.perf_counter() - started_s, 1)
            recording = recording.model_copy(update={"wall_time_s": wall_time_s, "races": tuple(races.values())})
            write(path, recording.model_dump_json())
            tell(f"{path.name}: {name}, pair {i + 1} of {number} {races[name].failure}")


def record_pairs(path: Path, names: Sequence[str], number: int) -> None:
    """Record the comparisons of these names. Others that the file holds already are kept."""
    recording = kept(path, Recording) or Recording(**provenance())
    _record(path, recording, {name: COMPARISONS[name] for name in names}, number)


def record_compiling(path: Path, number: int) -> None:
    """Record compiled against eager steps. No cache of torch.compile is used."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, NO_CACHES, TORCHINDUCTOR_CACHE_DIR=folder):
        _record(path, Recording(**provenance()), {comparison.what: comparison for comparison in COMPILED}, number)


def record_peaks(path: Path) -> None:
    shapes = gemm_shapes(COMPARISONS["exact"].head.workload)
    write(path, measure_peaks([1, 2], shapes, refresh=True, progress=tell).model_dump_json())
