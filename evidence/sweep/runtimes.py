"""What the settings of a runtime do to the level of a step and to its spread, recorded in rounds for a few models."""

import itertools
import time
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter
from recordings import SEED, Provenance, provenance, read, tell, write

from ntp.case import Case, Runtime, Workload
from ntp.records.run import Measurement
from ntp.runners.bench import forking
from ntp.runners.sweep import Plan, RoundsSweep

THREADS = 2

MODELS = {
    "simple-small": Workload(batch_size=8, seq_len=64),
    "simple-large": Workload(batch_size=32, seq_len=128),
    "transformer": Workload(model="examples/transformer.py:small", batch_size=8, seq_len=64),
    "gpt2": Workload(model="examples/gpt2.py:tiny", batch_size=8, seq_len=64),
}

FACTORS = {
    "wait_policy": get_args(Runtime.model_fields["wait_policy"].annotation),
    "allocator": ("glibc-tuned", "glibc"),
    "affinity": get_args(Runtime.model_fields["affinity"].annotation),
}
"""The settings that vary, and their values, the default first."""


class RecordedModel(Provenance):
    """One model under every combination of the settings."""

    name: str
    measurements: tuple[Measurement, ...]


_MODELS = TypeAdapter(tuple[RecordedModel, ...])


def load(path: Path) -> tuple[RecordedModel, ...]:
    return _MODELS.validate_json(read(path)) if path.exists() else ()


def cases_of(name: str) -> list[Case]:
    combinations = (dict(zip(FACTORS, values, strict=True)) for values in itertools.product(*FACTORS.values()))
    runtimes = (Runtime(threads=THREADS, **settings) for settings in combinations)
    return [Case(workload=MODELS[name], runtime=runtime) for runtime in runtimes]


def record(path: Path, name: str, rounds: int) -> None:
    """Measure one model, and add the recording to those that the file holds."""
    facts, started_s = provenance(), time.perf_counter()
    with forking() as bench:
        sweep = RoundsSweep(cases_of(name), Plan(rounds=rounds, order_seed=SEED, with_plain=False), bench)
        for number in sweep.run():
            tell(f"{name}: round {number} of {rounds}, {time.perf_counter() - started_s:.0f} s")
    for case, error in sweep.failures.items():
        tell(f"{case.id} failed: {error}")
    facts["wall_time_s"] = time.perf_counter() - started_s
    recorded = RecordedModel(**facts, name=name, measurements=tuple(sweep.measurements.values()))
    models = sorted([*load(path), recorded], key=lambda model: list(MODELS).index(model.name))
    write(path, _MODELS.dump_json(tuple(models)).decode())
