"""A run judged by stored baselines: what ``ntp compare --gate`` and ``pytest --ntp-baseline`` both do."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ntp.cli.exit_status import OF_VERDICT, TOOL_FAILED
from ntp.judge.baseline import THRESHOLD, BaselineVerdict, judge_run, nearest
from ntp.judge.between_runs import RunNoise, default_noise, run_noise
from ntp.judge.verdict import Verdict
from ntp.machine.cache import load_kept
from ntp.machine.system import read_machine
from ntp.records.baselines import load_baselines
from ntp.records.calibration import Calibration, fingerprints
from ntp.records.run import Run


def judged(base: Run, head: Run, threshold: float = THRESHOLD, allowed: Sequence[str] = ()) -> BaselineVerdict:
    """Judge a run, by the noise between runs of the machine and the software that it ran on."""
    return judge_run(base, head, noise_between(head, base, normalised=True), threshold, allowed)


def noise_between(*runs: Run, normalised: bool = False) -> RunNoise:
    """Return the noise between runs on the machine and with the software of the first of them, as far as it is known.

    The runs themselves do not count: they may differ by more than noise.
    """
    measured = runs[0].measurements
    if not measured:
        return default_noise(normalised)
    remembered = load_kept(Calibration, *fingerprints(measured[0]))
    return run_noise(remembered, without=[run.started for run in runs], normalised=normalised)


class Gate:
    """A folder of baselines that judge a sweep. They are read first, so that a wrong one costs no sweep.

    Raises:
        RecordError: the folder is not there, or holds what is no run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._baselines = load_baselines(folder)

    @property
    def is_empty(self) -> bool:
        """Whether there is no run to compare with."""
        return not any(run.measurements for run in self._baselines.values())

    @property
    def nothing_there(self) -> str:
        """The message that an empty folder gets, with its remedy."""
        return (
            f"Not comparable: {self._folder} holds no baseline; run the sweep without --ntp-baseline, "
            f"then store its run with ntp baseline RUN.json --out {self._folder}."
        )

    def forecast(self) -> Iterator[str]:
        """Say before anything is measured if times will not be comparable."""
        here = read_machine().fingerprint
        ours = [
            run
            for run in self._baselines.values()
            if any(measurement.environment.machine.fingerprint == here for measurement in run.measurements)
        ]
        if not ours:
            yield f"no baseline in {self._folder} was measured on this machine: counts will be compared, times will not"
        elif not any(noise_between(run, normalised=True).remembered for run in ours):
            yield "the noise of this machine is not known, so times will not be compared: run ntp doctor --calibrate"

    def judge(self, run: Run) -> tuple[Verdict, str]:
        """Judge a run by the baseline nearest to its machine and software. Returns the verdict and the text to show."""
        from ntp.report.baseline import report
        from ntp.report.document import terminal

        base = nearest(list(self._baselines.values()), run)
        if base is None:
            return "not comparable", f"{self.nothing_there}\n"
        verdict = judged(base, run)
        name = next(path.name for path, run in self._baselines.items() if run is base)
        return verdict.verdict, f"Baseline: {name}\n{terminal(report(verdict))}"


def status_of(verdict: Verdict, pytest_status: int, *, workers_alone_failed: bool) -> int:
    """Return the exit status of a gated session. pytest's own failures win, but a lost worker is no regression.

    Args:
        verdict: on what was measured.
        pytest_status: 0 all passed, 1 tests failed; others, such as an interruption, stay as they are.
        workers_alone_failed: whether each test that failed did so because its worker was lost.
    """
    if pytest_status == 0:
        return OF_VERDICT[verdict]
    if pytest_status == 1 and workers_alone_failed and verdict != "regression":
        return TOOL_FAILED
    return pytest_status
