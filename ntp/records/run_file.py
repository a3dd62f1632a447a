"""Files in pytest-benchmark's format for runs that are measured without pytest."""

import json
from pathlib import Path
from typing import Any

from pytest_benchmark.stats import Stats

import ntp
from ntp.records.run import Measurement, Run, write_whole


def document_of(run: Run) -> dict[str, Any]:
    """Return the document that :meth:`ntp.records.run.Run.from_document` and pytest-benchmark's tools read."""
    machine = run.measurements[0].environment.machine if run.measurements else None
    git = run.measurements[0].environment.git if run.measurements else None
    return {
        "machine_info": {} if machine is None else {"cpu": {"brand_raw": machine.cpu_model}, "system": machine.os},
        "commit_info": {} if git is None else {"id": git.commit, "branch": git.branch, "dirty": git.dirty},
        "benchmarks": [_benchmark(measurement) for measurement in run.measurements],
        "datetime": run.started,
        "version": f"ntp {ntp.__version__}",
        "ntp": run.header(),
    }


def save_run(run: Run, path: Path) -> None:
    """Write a run to its file.

    Raises:
        RecordError: the file cannot be written.
    """
    write_whole(path, json.dumps(document_of(run), indent=1) + "\n")


def _benchmark(measurement: Measurement) -> dict[str, Any]:
    workload, runtime = measurement.case.workload, measurement.case.runtime
    stats = Stats()
    for time_ns in measurement.step_time_ns:
        stats.update(time_ns / 1e9)
    name = f"{workload.part}[{measurement.case.id}]"
    return {
        "group": None,
        "name": name,
        "fullname": f"ntp::{name}",
        "params": {"threads": runtime.threads, "batch_size": workload.batch_size, "seq_len": workload.seq_len},
        "param": measurement.case.id,
        "extra_info": {"ntp": measurement.model_dump(mode="json")},
        "options": {},
        "stats": {**stats.as_dict(), "data": stats.data, "iterations": 1},
    }
