"""Whole races, as a user runs them: each is a command, and what it wrote."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from recordings import REPORTS, ROOT, SEED, provenance, read, tell, write

from ntp.records.race import RaceRecord

FOLDER = REPORTS / "race"
EQUALS = "equals.json.gz"

_GPT2 = ("--model", "examples/gpt2.py:tiny", "--batch-size", "8", "--seq-len", "64", "--with", "transformers")
_TORCH = ("torch==2.13.0", "torch==2.14.1", "--budget", "5min")

RACES: dict[str, tuple[str, ...]] = {
    "threads": ("threads=1", "threads=2"),
    "batch-sizes": ("batch_size=1", "batch_size=8", "batch_size=64"),
    "allocators": ("allocator=glibc", "allocator=glibc-tuned", "allocator=jemalloc", "--batch-size", "8"),
    "steps": ("step=eager", "step=fused", "step=deduplicated+fused", "step=onednn+deduplicated+fused"),
    "commits": ("commit=HEAD~1", "commit=HEAD", "commit=HEAD,step=fused"),
    "torch-simple-1-thread": (*_TORCH, "--threads", "1"),
    "torch-simple-2-threads": (*_TORCH, "--threads", "2"),
    "torch-gpt2-1-thread": (*_TORCH, "--threads", "1", *_GPT2),
    "torch-gpt2-2-threads": (*_TORCH, "--threads", "2", *_GPT2),
}
"""The arguments of each race of the report."""

_EQUALS = ("threads=1", "threads=1", "--batch-size", "2", "--seq-len", "16", "--budget", "20s")


def record(folder: Path, name: str) -> None:
    document = {**provenance(), "race": _race(RACES[name], SEED)}
    write(folder / f"{name}.json.gz", json.dumps(document, default=lambda value: value.model_dump(mode="json")))
    tell(f"{name}: status {document['race']['status']} in {document['race']['wall_time_s']:.0f} s")


def record_equals(folder: Path, number: int) -> None:
    """Add races of equals to those that are there. Every other one is of two threads."""
    path = folder / EQUALS
    document: dict[str, Any] = json.loads(read(path)) if path.exists() else {**provenance(), "races": []}
    started_s = time.perf_counter() - document["wall_time_s"]
    for done in range(number):
        raced = len(document["races"])
        arguments = [text.replace("threads=1", f"threads={1 + raced % 2}") for text in _EQUALS]
        document["races"].append(_race(arguments, SEED + raced))
        document["wall_time_s"] = round(time.perf_counter() - started_s, 1)
        write(path, json.dumps(document, default=lambda value: value.model_dump(mode="json")))
        tell(f"{path.name}: {done + 1} of {number}")


def _race(arguments: Any, seed: int) -> dict[str, Any]:
    """Run ``ntp race`` with these arguments: how it ended, and what it kept."""
    with tempfile.TemporaryDirectory(prefix="ntp-evidence-") as temporary:
        kept = Path(temporary) / "race.json"
        command = ["ntp", "race", *arguments, "--order-seed", str(seed)]
        started_s = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", *command, "--out", str(kept)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        wall_time_s = round(time.perf_counter() - started_s, 1)
        record = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else None
    if record:
        record["command"] = command  # where the file was is of no interest
    return {
        "arguments": list(arguments), "status": done.returncode, "wall_time_s": wall_time_s,
        "stderr": done.stderr[-500:], "record": record,
    }  # fmt: skip


def record_of(race: dict[str, Any]) -> RaceRecord | None:
    """Return what a race kept. None if it kept nothing."""
    kept = race["record"]
    return kept and RaceRecord.model_validate({key: value for key, value in kept.items() if key != "verdict"})


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """Load the races that were recorded, in the order of the report, and last the equals."""
    names = [f"{name}.json.gz" for name in RACES] + [EQUALS]
    return {name: json.loads(read(folder / name)) for name in names if (folder / name).exists()}
