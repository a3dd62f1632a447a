"""Which workers a calibration starts, in which order, and what it keeps of them."""

import pytest
from fakes import FakeWorker

from ntp.case import Case
from ntp.errors import RecordError, WorkerFailed
from ntp.machine.cache import load_kept, save_kept
from ntp.machine.system import read_machine
from ntp.records.calibration import CalibratedCase, Calibration
from ntp.records.environment import Software
from ntp.runners.bench import Bench
from ntp.runners.calibrate import calibrate, default_cases
from ntp.worker.channel import Refused
from ntp.worker.driver import Sampling

ONE, TWO, PART = map(Case.parse, ("simple-b2-s4-t1", "simple-b4-s4-t1", "simple-b2-s4-t1-forward"))
STEP_NS = 1_000_000
SAMPLING = Sampling(time_s=0.02, min_samples=3, blocks=2)
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
        """Of the n-th worker, where it is another."""

    def start(self, case, _source):
        self.started += 1
        self.log.append(case.id)
        self.now_s += 2.0
        return Worker(self, self.started)

    def calibrate(self, cases, runs, **options):
        return list(self.calibrating(cases, runs, **options))

    def calibrating(self, cases, runs, sampling=SAMPLING):
        bench = Bench(self.start, lambda: self.now_s, self.told.append)
        return calibrate(cases, runs, sampling=sampling, folder=self.folder, bench=bench)

    @property
    def kept(self):
        """The runs of each case in the cache, as the numbers of their workers."""
        kept = load_kept(Calibration, read_machine().fingerprint, SOFTWARE.fingerprint, self.folder)
        return {
            calibrated.case.id: [run.step_time_ns[0] - STEP_NS for run in calibrated.runs] for calibrated in kept.cases
        }


class Worker(FakeWorker):
    def __init__(self, bench, number):
        self.bench, self.number = bench, number
        self.step_ns, self.kernel_ns = STEP_NS, 1000 + number
        self.software = bench.software.get(number, SOFTWARE)

    def said(self, what):
        if what == "stop":
            self.bench.log.append(what)
        if what.startswith("run"):
            self.step_ns = STEP_NS + self.number
        if error := self.bench.fails.get((self.number, what.partition(" ")[0])):
            raise error


@pytest.fixture
def bench(tmp_path):
    return FakeBench(tmp_path / "cache")


def test_cases_alternate_in_fresh_workers(bench):
    *_, last = bench.calibrate([ONE, TWO], 3)
    assert bench.log == [name for _ in range(3) for case in (ONE, TWO) for name in (case.id, "stop")]
    assert {calibrated.case.id: len(calibrated.runs) for calibrated in last.cases} == {ONE.id: 3, TWO.id: 3}
    assert bench.kept == {ONE.id: [1, 3, 5], TWO.id: [2, 4, 6]}


def test_every_sample_and_the_calibration_kernel_are_kept(bench):
    *_, last = bench.calibrate([ONE, PART], 1)
    whole, part = (calibrated.runs[0] for calibrated in last.cases)
    assert whole.step_time_ns == (STEP_NS + 1,) * 20
    assert part.step_time_ns == (STEP_NS + 2,) * 5, "a part has a quarter of the time, as in a sweep"
    assert whole.calibration_kernel.bursts_ns == ((1001,),) * 3


def test_each_run_is_kept_at_once_and_an_interruption_costs_the_one_under_way(bench):
    bench.fails = {(4, "run"): KeyboardInterrupt()}
    runs = []

    def look(calibration):
        yielded = sum(len(calibrated.runs) for calibrated in calibration.cases)
        runs.append((yielded, sum(map(len, bench.kept.values()))))

    with pytest.raises(KeyboardInterrupt):
        list(map(look, bench.calibrating([ONE, TWO], 3)))
    assert runs == [(1, 1), (2, 2), (3, 3)]
    assert bench.log[-2:] == [TWO.id, "stop"]
    assert bench.kept == {ONE.id: [1, 3], TWO.id: [2]}


def test_an_interrupted_calibration_does_not_cost_a_better_one(bench):
    bench.calibrate([ONE, TWO], 2)
    bench.fails = {(8, "run"): KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        bench.calibrate([ONE, TWO], 3)
    # Of the first case there are as many new runs as old ones; of the second there are not.
    assert bench.kept == {ONE.id: [5, 7], TWO.id: [2, 4]}


def test_a_finished_calibration_takes_the_place_of_a_longer_one_and_leaves_other_cases(bench):
    bench.calibrate([ONE, TWO], 3)
    *_, last = bench.calibrate([ONE], 2)
    assert bench.kept == {TWO.id: [2, 4, 6], ONE.id: [7, 8]}
    assert [calibrated.case for calibrated in last.cases] == [ONE], "what was measured now, and nothing else"


def test_progress_says_how_much_is_left(bench):
    bench.calibrate([ONE, TWO], 2)
    assert bench.told[0] == f"run 1 of 4: {ONE.id}"
    assert bench.told[1] == f"run 2 of 4: {TWO.id}, about 6 s left"
    assert bench.told[3] == f"run 4 of 4: {TWO.id}, about 2 s left"


def test_a_worker_that_is_lost_ends_it_and_what_was_finished_stays(bench):
    bench.fails = {(3, "load"): WorkerFailed("simple-b2-s4-t1: was killed")}
    with pytest.raises(WorkerFailed, match="was killed"):
        bench.calibrate([ONE, TWO], 2)
    assert bench.kept == {ONE.id: [1], TWO.id: [2]}


def test_without_the_calibration_kernel_no_run_counts(bench):
    bench.fails = {(1, "calibration_kernel"): Refused("simple-b2-s4-t1: no memory")}
    with pytest.raises(WorkerFailed, match="simple-b2-s4-t1: torch refused the calibration kernel"):
        bench.calibrate([ONE], 2)
    assert bench.kept == {}


def test_another_software_half_way_ends_it(bench):
    bench.software = {2: Software(torch="3.0")}
    with pytest.raises(WorkerFailed, match="has changed since the first run: start over"):
        bench.calibrate([ONE], 2)
    assert bench.kept == {ONE.id: [1]}


def test_a_cache_that_cannot_be_written_is_one_line(bench, tmp_path):
    bench.folder = tmp_path / "file"
    bench.folder.write_text("")
    with pytest.raises(RecordError, match="cannot be written"):
        bench.calibrate([ONE], 2)


def test_what_is_kept_of_another_machine_is_left_alone(bench):
    other = Calibration(machine="another", software=SOFTWARE.fingerprint)
    save_kept(other, bench.folder)
    *_, last = bench.calibrate([ONE], 1)
    assert load_kept(Calibration, "another", SOFTWARE.fingerprint, bench.folder) == other
    assert all(isinstance(calibrated, CalibratedCase) for calibrated in last.cases)


def test_without_options_the_steps_of_a_sweep_are_calibrated():
    ids = [case.id for case in default_cases((1, 2))]
    assert ids == [f"simple-b{b}-s{s}-t{t}" for t in (1, 2) for b in (8, 32) for s in (64, 128)]
