"""The recordings: default sweeps of identical code, minutes apart. Each is kept as soon as it is there."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydantic import TypeAdapter
from recordings import ROOT, read, tell, write

from ntp.case import Frozen
from ntp.records.observations import Observations
from ntp.records.run import Measurement, Run

CONDITIONS = {"quiet": "nothing else running", "neighbour": "a busy process beside it"}


class RecordedSweep(Frozen):
    """One sweep, without what its observers saw."""

    condition: str
    run: Run


_SWEEPS = TypeAdapter(tuple[RecordedSweep, ...])


def load(path: Path) -> tuple[RecordedSweep, ...]:
    """Read the sweeps that a file holds, in the order in which they were recorded."""
    return _SWEEPS.validate_json(read(path)) if path.exists() else ()


def record_sweeps(path: Path, number: int, condition: str, pause_s: float) -> None:
    """Add default sweeps to a file, with a pause before each but the first."""
    for count in range(number):
        if count:
            time.sleep(pause_s)
        sweeps = (*load(path), RecordedSweep(condition=condition, run=_swept()))
        write(path, _SWEEPS.dump_json(sweeps).decode())
        tell(f"{path.name}: {len(sweeps)} sweeps, the last in {sweeps[-1].run.wall_time_s:.0f} s")


def _swept() -> Run:
    """Run the sweep of a user who gives no options, and return its run without observations."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "--benchmark-only", "bench/bench_train_step.py"]
        subprocess.run([*command, "--ntp-report-dir", folder], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        run = Run.load(Path(folder) / "run.json")
    command_line = tuple(word if word != folder else "DIR" for word in run.command)
    measurements = tuple(map(_without_observations, run.measurements))
    return run.model_copy(update={"command": command_line, "measurements": measurements, "peaks": None})


def _without_observations(measurement: Measurement) -> Measurement:
    return measurement.model_copy(update={"observations": Observations()})
