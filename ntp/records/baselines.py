"""Stored baselines: runs that later ones are held against, one file for each machine and software."""

from pathlib import Path

from ntp.errors import RecordError
from ntp.records.calibration import fingerprints
from ntp.records.run import Run, write_whole
from ntp.records.run_file import document_of, text_of


def save_baseline(run: Run, folder: Path) -> Path:
    """Write a run as the baseline of its machine and software, in place of what was there; return the file's path.

    Raises:
        RecordError: a case of the run failed or was never run, it holds no measurement, it is of several machines or
            software, or the file cannot be written.
    """
    if run.failures:
        failed = ", ".join(failure.case_id for failure in run.failures)
        raise RecordError(f"a run that failed is no baseline ({failed}): mend that and measure again")
    if run.missing:
        raise RecordError(f"an interrupted run is no baseline (cases never run: {run.missing}): measure again")
    surroundings = {fingerprints(measurement) for measurement in run.measurements}
    if len(surroundings) != 1:
        seen = f"of {len(surroundings)} machines or software" if surroundings else "of nothing"
        raise RecordError(f"a baseline is of one machine and one software, this run is {seen}: measure again")
    (names,) = surroundings
    path = folder / f"{'-'.join(names)}.json"
    write_whole(path, text_of(document_of(run)))
    return path


def load_baselines(folder: Path) -> dict[Path, Run]:
    """All runs in a folder, by path and in its order. None in one that is empty.

    Raises:
        RecordError: the folder is not there, or a file in it that ends in .json is no run.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder} is no folder of baselines: ntp baseline RUN.json --out {folder} makes one")
    return {path: Run.load(path) for path in sorted(folder.glob("*.json"))}
