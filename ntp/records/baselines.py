"""Stored baselines: runs that later runs are compared with, one file for each machine and software."""

from pathlib import Path

from ntp.errors import RecordError
from ntp.records.calibration import fingerprints
from ntp.records.run import Run
from ntp.records.run_file import save_run


def save_baseline(run: Run, folder: Path) -> Path:
    """Save a run as the baseline of its machine and software, replacing an older one; return the file's path.

    Raises:
        RecordError: a case of the run failed or was never run, the run has no measurement, or it was made on several
            machines or with several software, or the file cannot be written.
    """
    if run.failures:
        failed = ", ".join(failure.case_id for failure in run.failures)
        raise RecordError(f"a failed run cannot be a baseline ({failed}): fix the failure and measure again")
    if run.missing:
        raise RecordError(f"an interrupted run cannot be a baseline (cases never run: {run.missing}): measure again")
    surroundings = {fingerprints(measurement) for measurement in run.measurements}
    if len(surroundings) != 1:
        number = len(surroundings)
        raise RecordError(f"a baseline needs one machine and one software, this run has {number}: measure again")
    (names,) = surroundings
    path = folder / f"{'-'.join(names)}.json"
    save_run(run, path)
    return path


def load_baselines(folder: Path) -> dict[Path, Run]:
    """Load all runs in a folder, by path in sorted order.

    Raises:
        RecordError: the folder does not exist, or a .json file in it is not a run.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder} is not a folder of baselines: create it with ntp baseline RUN.json --out {folder}")
    return {path: Run.load(path) for path in sorted(folder.glob("*.json"))}
