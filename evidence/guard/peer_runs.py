"""benchmatrix, the nearest living peer, really run on the same code: pairs of whole pytest runs, base and head.

It comes from PyPI and is no dependency of ntp: it needs an environment of its own, with torch and ntp's dependencies.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import slower
from recordings import ROOT, SEED, Provenance, provenance, seconds, tell, write

from ntp.report.markup import code, table

HEADS = ("identical", "busy-3")
"""The head of each comparison: the base's own code, and code that is 3% slower."""

MATRIX = "evidence/guard/peer/bench_steps.py"


def record(path: Path, python: Path, pairs: int, threshold: str) -> None:
    """Collect pairs of each head, and keep what benchmatrix says of them."""
    document = Provenance(**provenance()).model_dump(mode="json")
    document |= {"pairs": pairs, "threshold": threshold, "version": _version(python), "comparisons": {}}
    started_s = time.perf_counter()
    for head in HEADS:
        document["comparisons"][head] = _compared(python, head, pairs, threshold)
        document["wall_time_s"] = round(time.perf_counter() - started_s, 1)
        write(path, json.dumps(document))
        tell(f"{path.name}: {head} in {document['comparisons'][head]['wall_time_s']} s")


def _version(python: Path) -> str:
    question = "import importlib.metadata as m; print(m.version('benchmatrix'))"
    return subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.strip()


def _compared(python: Path, head: str, pairs: int, threshold: str) -> dict[str, Any]:
    with ExitStack() as stack:
        base, changed = (stack.enter_context(slower.clone(ROOT)) for _ in range(2))
        if head in slower.SLOWDOWNS:
            slower.commit(changed, head, slower.git(changed, "rev-parse", "HEAD"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ntp-evidence-"))) / "runs"
        pytest = (str(python), "-m", "pytest", "--benchmark-only", "-q", "-o", "addopts=", MATRIX)
        collect = ("collect-paired", "--pairs", str(pairs), "--random-seed", str(SEED), "--output", str(folder))
        where = ("--baseline-cwd", str(base), "--candidate-cwd", str(changed))
        started_s = time.perf_counter()
        tool = [str(python), "-m", "benchmatrix"]
        subprocess.run([*tool, *collect, *where, "--", *pytest, ":::", *pytest], cwd=base, check=True)
        wall_time_s = round(time.perf_counter() - started_s, 1)
        compare = ("compare", str(folder), "--paired", "--threshold", threshold, "--format", "json")
        # It ends with a status of its own where it finds something.
        done = subprocess.run([*tool, *compare], cwd=base, capture_output=True, text=True, check=False)
        if not done.stdout:
            raise RuntimeError(f"benchmatrix compared nothing: {done.stderr.strip()}")
    return {"wall_time_s": wall_time_s, "report": json.loads(done.stdout)}


def comparisons(document: dict[str, Any]) -> str:
    rows = [
        (code(head), *_cell(cell), seconds(comparison["wall_time_s"]))
        for head, comparison in document["comparisons"].items()
        for cell in comparison["report"]["comparisons"]
    ]
    return table(("head", "cell", "decision", "slower by", "interval", "all cells took"), rows)


def _cell(cell: Mapping[str, Any]) -> tuple[str, ...]:
    inferred = cell["inference"]  # of improvements
    low, high = (-inferred[f"confidence_{limit}_percent"] for limit in ("high", "low"))
    return (
        code(cell["case_name"]),
        cell["regression"],
        f"{cell['percent_change']:+.1f}%",
        f"{low:+.1f}% to {high:+.1f}%",
    )


ON_COMPARISONS = """\
benchmatrix pairs whole pytest runs of base and head, AB and BA in turn, and takes the bootstrapped (BCa) interval of
the ratio of medians over runs, corrected for the number of cells. It ran on the machine of the recordings, with its own
warm-up and its own number of rounds."""
