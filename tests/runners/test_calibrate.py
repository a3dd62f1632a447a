"""Which sweeps a calibration runs, what is remembered of them, and which other sweeps are."""

from contextlib import contextmanager

import pytest
from fakes import FakeWorker

from ntp.case import Case
from ntp.errors import RecordError, WorkerFailed
from ntp.machine.cache import load_kept, save_kept
from ntp.machine.system import read_machine
from ntp.records.calibration import Calibration
from ntp.records.environment import Git, Software
from ntp.runners.bench import Bench
from ntp.runners.calibrate import calibrate, default_cases, remember, try_to_remember
from ntp.runners.sweep import Plan
from ntp.worker.channel import Refused
from ntp.worker.driver import Observing, Sampling

ONE, TWO = map(Case.parse, ("simple-b2-s4-t1", "simple-b4-s4-t1"))
STEP_NS = 1_000_000
PLAN = Plan(rounds=2, sampling=Sampling(time_s=0.02, min_samples=3, blocks=2), observing=Observing(operator_steps=2))
SOFTWARE = Software(torch="2.9")


class FakeBench:
    """All workers of a calibration: the n-th worker's steps take n ns longer than a millisecond."""

    def __init__(self, folder):
        self.folder = folder
        self.log = []
        self.told = []
        self.started = 0
        self.now_s = 0.0
        self.fails = {}
        """What the n-th worker raises, and at which request."""
        self.software = {}
        """That of the n-th worker, where it is another."""

    @contextmanager
    def __call__(self, progress):
        self.log.append("bench")
        yield Bench(self.start, lambda: self.now_s, progress)

    def start(self, case, _source):
        self.started += 1
        self.log.append(case.id)
        self.now_s += 2.0
        return Worker(self, self.started)

    def calibrate(self, cases, runs):
        return list(self.calibrating(cases, runs))

    def calibrating(self, cases, runs):
        return calibrate(cases, runs, plan=PLAN, folder=self.folder, progress=self.told.append, new_bench=self)

    @property
    def kept(self):
        """The runs of each case in the cache, as the numbers of the workers of each."""
        kept = load_kept(Calibration, read_machine().fingerprint, SOFTWARE.fingerprint, self.folder)
        return {case.case.id: [[ns - STEP_NS for ns in run.medians_ns] for run in case.runs] for case in kept.cases}


class Worker(FakeWorker):
    def __init__(self, bench, number):
        self.bench, self.number = bench, number
        self.step_ns, self.kernel_ns = STEP_NS, 1000 + number
        self.software = bench.software.get(number, SOFTWARE)

    def said(self, what):
        if what.startswith("run"):
            self.step_ns = STEP_NS + self.number
        if error := self.bench.fails.get((self.number, what.partition(" ")[0])):
            raise error


@pytest.fixture
def bench(tmp_path):
    return FakeBench(tmp_path / "cache")


def test_each_run_is_a_sweep_in_rounds_on_a_bench_of_its_own_and_is_remembered(bench):
    *_, last = bench.calibrate([ONE], 3)
    assert bench.log == ["bench", ONE.id, ONE.id] * 3
    assert bench.kept == {ONE.id: [[1, 2], [3, 4], [5, 6]]}
    (calibrated,) = last.cases
    assert [run.kernel_ns for run in calibrated.runs] == [(1001, 1002), (1003, 1004), (1005, 1006)]
    assert len({run.code for run in calibrated.runs}) == 1, "nothing changed meanwhile"
    assert len({run.started for run in calibrated.runs}) == 3


def test_every_round_measures_all_cases(bench):
    bench.calibrate([ONE, TWO], 1)
    assert sorted(bench.log[1:3]) == sorted(bench.log[3:5]) == sorted([ONE.id, TWO.id])


def test_a_run_is_remembered_at_once_and_an_interruption_costs_the_one_under_way(bench):
    bench.fails = {(5, "run"): KeyboardInterrupt()}
    runs = []
    with pytest.raises(KeyboardInterrupt):
        runs += (len(calibration.cases[0].runs) for calibration in bench.calibrating([ONE], 3))
    assert bench.kept == {ONE.id: [[1, 2], [3, 4]]}


def test_what_was_remembered_before_stays_and_is_not_shown(bench):
    bench.calibrate([ONE, TWO], 1)
    *_, last = bench.calibrate([ONE], 2)
    assert {case_id: len(runs) for case_id, runs in bench.kept.items()} == {ONE.id: 3, TWO.id: 1}
    (calibrated,) = last.cases
    assert (calibrated.case, len(calibrated.runs)) == (ONE, 2)


def test_progress_says_how_much_is_left(bench):
    bench.calibrate([ONE], 3)
    assert bench.told[0] == f"run 1 of 3, round 1 of 2: {ONE.id}, about 2 s left"
    assert bench.told[1] == f"run 1 of 3, round 2 of 2: {ONE.id}, about 2 s left"
    assert bench.told[2] == f"run 2 of 3 (1 more takes about 4 s), round 1 of 2: {ONE.id}, about 2 s left"
    assert bench.told[4].startswith("run 3 of 3, round 1 of 2: ")


def test_a_case_that_fails_ends_it_and_what_was_finished_stays(bench):
    bench.fails = {(3, "load"): WorkerFailed("simple-b2-s4-t1: was killed")}
    with pytest.raises(WorkerFailed, match="was killed"):
        bench.calibrate([ONE], 2)
    assert bench.kept == {ONE.id: [[1, 2]]}
    assert bench.started == 3


def test_without_the_calibration_kernel_a_run_is_remembered_without_it(bench):
    bench.fails = {(1, "calibration_kernel"): Refused("simple-b2-s4-t1: no memory")}
    (calibration,) = bench.calibrate([ONE], 1)
    assert calibration.cases[0].runs[0].kernel_ns == (None, 1002)


def test_another_software_half_way_ends_it(bench):
    bench.software = {3: Software(torch="3.0"), 4: Software(torch="3.0")}
    with pytest.raises(WorkerFailed, match="has changed since the first run: start over"):
        bench.calibrate([ONE], 2)
    assert bench.kept == {ONE.id: [[1, 2]]}


def test_a_cache_that_cannot_be_written_is_refused_before_anything_is_measured(bench, tmp_path):
    bench.folder = tmp_path / "file"
    bench.folder.write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        bench.calibrate([ONE], 2)
    assert bench.started == 0


def test_what_is_kept_of_another_machine_is_left_alone(bench):
    other = Calibration(machine="another", software=SOFTWARE.fingerprint)
    save_kept(other, bench.folder)
    bench.calibrate([ONE], 1)
    assert load_kept(Calibration, "another", SOFTWARE.fingerprint, bench.folder) == other


def test_without_options_the_steps_of_a_sweep_are_calibrated():
    ids = [case.id for case in default_cases((1, 2))]
    assert ids == [f"simple-b{b}-s{s}-t{t}" for t in (1, 2) for b in (8, 32) for s in (64, 128)]


class TestRemember:
    def test_a_complete_sweep_is_remembered_by_its_commit(self, make_measurement, make_run, tmp_path):
        git = Git(commit="abc", dirty=False)
        remember(make_run(make_measurement(levels=(1, 1), git=git), rounds=2), folder=tmp_path)
        kept = remember(make_run(make_measurement(levels=(1, 1), git=git), rounds=2, started="later"), folder=tmp_path)
        assert [run.code for run in kept.cases[0].runs] == ["abc", "abc"]

    @pytest.mark.parametrize("fields", [{"rounds": 1}, {"rounds": 2, "planned": 3}])
    def test_one_round_and_an_interrupted_sweep_are_not(self, make_measurement, make_run, tmp_path, fields):
        assert remember(make_run(make_measurement(levels=(1, 1)), **fields), folder=tmp_path) is None
        assert remember(make_run(rounds=2), folder=tmp_path) is None
        assert list(tmp_path.iterdir()) == []

    def test_a_cache_that_cannot_be_written_is_a_line_and_no_error(
        self, make_measurement, make_run, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        run = make_run(make_measurement(levels=(1, 1)), rounds=2)
        assert try_to_remember(run) == ""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        line = try_to_remember(run)
        assert line.startswith("this run cannot be remembered: ")
        assert "\n" not in line
