"""The stages of a profile, with a worker, a flame and a roofline that need no process."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeWorker

from ntp.case import Case, Runtime, Workload
from ntp.errors import RecordError, WorkerFailed
from ntp.records.flame import Flame, FlameWarning
from ntp.runners import profile as runner
from ntp.runners.bench import Bench
from ntp.runners.profile import FLAME_S, OBSERVING, profile
from ntp.worker.channel import Refused
from ntp.worker.driver import Observing, Sampling

CASE = Case(workload=Workload(batch_size=2, seq_len=4), runtime=Runtime(threads=2))
SAMPLING = Sampling(time_s=1.0, min_samples=5, blocks=1)
FLAME = Flame(speedscope="flame.json", svg="flame.svg", samples=300, rate_hz=100)
STEP_NS = 100_000_000
DIED = WorkerFailed("simple-b2-s4-t2: died of SIGSEGV", "its last words")


class FakeBench(FakeWorker):
    """All that a profile starts, in one log: what was asked, in order, and when a run was handed out."""

    def __init__(self, shows, peaks):
        self.shows = shows
        self.peaks = peaks
        self.fails = {}
        """What fails, and how: a stage's name, or one with ``run 5`` for a block of five steps."""
        self.log = []
        self.written = '{"traceEvents": []}'
        """The trace, as the worker writes it; None: not at all."""
        self.pid = 4711
        self.flame = lambda pid, seconds, folder: self.said("flame", FLAME)

    def said(self, what, answer=None):
        self.log.append(what)
        if what in self.fails:
            raise self.fails[what]
        return answer

    # The worker's side

    step_ns = STEP_NS

    def stop(self):
        self.log.append("stop early")

    def __exit__(self, *_):
        self.log.append("stop")

    def ask(self, name, trace=None, **arguments):
        answer = super().ask(name, **arguments)
        if trace is not None:
            self.trace = Path(trace)
            if self.written is not None:
                self.trace.write_text(self.written)
        return answer

    # The profile

    def profile(self, out_dir, **options):
        """The runs that it yields, with those in the log too."""
        runs = []
        for run in profile(
            CASE,
            out_dir,
            sampling=SAMPLING,
            observing=Observing(phase_pairs=2, operator_steps=3),
            flame=lambda *arguments: self.flame(*arguments),
            peaks=lambda case: self.said(f"peaks {case.id}", self.peaks),
            bench=Bench(lambda case, _: self.said(f"start {case.id}", self), command=("ntp", "profile"), **options),
        ):
            self.log.append(f"yield {len(runs)}")
            runs.append(run)
        return runs


@pytest.fixture
def bench(make_observations, make_peaks):
    return FakeBench(make_observations(), make_peaks())


OBSERVERS = ["phases 2", "memory", "denormals", "flops", "operators 3"]


def without_blocks(log):
    """The log without the steps that keep the worker busy under the flame: how many is a matter of chance."""
    return [entry for entry in log if entry != "run 5"]


def test_the_stages_follow_each_other_and_each_hands_out_a_run(bench, tmp_path):
    bench.profile(tmp_path)
    assert without_blocks(bench.log) == [
        *(
            "start simple-b2-s4-t2",
            "load",
            "warm_up",
            "calibration_kernel",
            "run 10",
            "calibration_kernel",
            "yield 0",
        ),
        *(*OBSERVERS, "yield 1"),
        *("flame", "yield 2", "stop"),
        *("peaks simple-b2-s4-t2", "yield 3"),
    ]


def test_each_run_holds_more_than_the_one_before(bench, tmp_path):
    samples, observed, flamed, whole = bench.profile(tmp_path)
    (plain,) = samples.measurements
    assert (plain.case, plain.step_time_ns, plain.observations.phases) == (CASE, (STEP_NS,) * 10, None)
    assert (samples.command, samples.planned, samples.missing) == (("ntp", "profile"), 1, 0)
    (measurement,) = observed.measurements
    shown = {
        name: getattr(measurement.observations, name)
        for name in ("phases", "memory", "denormals", "flops", "operators")
    }
    assert shown == {name: getattr(bench.shows, name) for name in shown}
    assert measurement.observations.flame is None
    assert flamed.measurements[0].observations == measurement.observations.model_copy(update={"flame": FLAME})
    assert flamed.measurements[0].step_time_ns == plain.step_time_ns
    assert (flamed.peaks, whole.peaks) == (None, bench.peaks)
    assert whole.measurements == flamed.measurements
    assert len({run.started for run in (samples, observed, flamed, whole)}) == 1
    times_s = [run.wall_time_s for run in (samples, observed, flamed, whole)]
    assert times_s == sorted(times_s)
    assert not any(run.failures for run in (samples, observed, flamed, whole))


def test_the_observers_get_their_steps_and_the_trace_its_file(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench.profile(Path("out"))
    # The worker need not be where this process is.
    assert bench.trace.is_absolute()
    assert bench.trace.parent.parent == tmp_path / "out"
    assert (tmp_path / "out" / "trace.json").read_text() == bench.written
    assert OBSERVING.operator_steps > 0


def test_a_trace_of_an_earlier_profile_does_not_pass_for_this_ones(bench, tmp_path):
    (tmp_path / "trace.json").write_text("old")
    bench.fails["operators 3"] = Refused("no")
    bench.profile(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", [None, "", '{"traceEvents": [{"na'])
def test_half_a_trace_is_told_and_does_not_stay(bench, tmp_path, written):
    bench.written = written
    *_, run = bench.profile(tmp_path)
    observations = run.measurements[0].observations
    assert observations.failures == ("trace.json: it could not be written: free the disk or choose another folder",)
    assert observations.operators == bench.shows.operators
    assert list(tmp_path.iterdir()) == []


def test_what_lies_where_a_folder_is_tried_is_not_touched(bench, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out" / ".writable").symlink_to("../mine")
    bench.profile(tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine"


def test_progress_is_told_before_each_stage(bench, tmp_path):
    bench.profile(tmp_path, progress=lambda line: bench.log.append(line[:9]))
    told = ["starting ", "observing", "recording", "measuring"]
    firsts = ["load", "phases 2", "flame", "peaks simple-b2-s4-t2"]
    for line, first in zip(told, firsts, strict=True):
        assert bench.log.index(line) < bench.log.index(first)
    assert [entry for entry in bench.log if entry in told] == told


@pytest.mark.parametrize("dies_at", ["start simple-b2-s4-t2", "load", "warm_up", "run 10"])
def test_without_samples_there_is_a_failure_and_nothing_else(bench, tmp_path, dies_at):
    bench.fails[dies_at] = DIED
    (run,) = bench.profile(tmp_path)
    assert run.measurements == ()
    (failure,) = run.failures
    assert (failure.case_id, failure.message, failure.stderr_tail) == (CASE.id, str(DIED), "its last words")
    assert (run.planned, run.missing, run.peaks) == (1, 0, None)
    assert "flame" not in bench.log
    assert "peaks simple-b2-s4-t2" not in bench.log
    assert ("stop" in bench.log) == (not dies_at.startswith("start"))


def test_an_observer_that_refuses_leaves_the_rest(bench, tmp_path):
    bench.fails["flops"] = Refused("no formula")
    run = bench.profile(tmp_path)[-1]
    (measurement,) = run.measurements
    assert measurement.observations.failures == ("flops: no formula",)
    assert measurement.observations.flops is None
    assert measurement.observations.operators == bench.shows.operators
    assert measurement.observations.flame == FLAME
    assert run.failures == ()


def test_a_worker_that_dies_under_an_observer(bench, tmp_path):
    bench.fails |= {"denormals": DIED, "run 5": DIED}
    finished = threading.Event()

    def record(pid, seconds, folder):
        # The worker is asked for steps before the recording is over, or never.
        assert finished.wait(10)
        return FLAME

    def run(steps, expected_s=0.0, run=bench.run):
        try:
            return run(steps, expected_s)
        finally:
            if steps == 5:
                finished.set()

    bench.flame, bench.run = record, run
    samples, observed, failed, whole = bench.profile(tmp_path)
    assert observed.measurements[0].observations.memory == bench.shows.memory
    assert observed.measurements[0].observations.failures == (f"denormals: {DIED}",)
    assert failed.measurements == whole.measurements == observed.measurements
    assert [failure.message for failure in failed.failures] == [str(DIED)]
    assert whole.failures == failed.failures
    assert whole.peaks == bench.peaks
    assert samples.failures == observed.failures == ()


def test_a_roofline_that_cannot_be_measured(bench, tmp_path):
    bench.fails["peaks simple-b2-s4-t2"] = WorkerFailed("the probe was killed", "its last words")
    *_, flamed, last = bench.profile(tmp_path)
    assert last.measurements == flamed.measurements
    assert last.peaks is None
    (failure,) = last.failures
    assert (failure.case_id, failure.message, failure.stderr_tail) == (
        *("roofline", "the probe was killed"),
        "its last words",
    )


def test_all_that_failed_is_told(bench, tmp_path):
    bench.fails |= {"run 5": DIED, "peaks simple-b2-s4-t2": WorkerFailed("the probe was killed")}
    asked = threading.Event()
    bench.flame = lambda *_: asked.wait(10) and FLAME

    def run(steps, expected_s=0.0, run=bench.run):
        if steps == 5:
            asked.set()
        return run(steps, expected_s)

    bench.run = run
    assert [failure.message for failure in bench.profile(tmp_path)[-1].failures] == [str(DIED), "the probe was killed"]


def test_a_flame_that_could_not_be_recorded_is_no_failure(bench, tmp_path):
    warning = FlameWarning(kind="not-permitted", message="no", advice="ask")
    bench.flame = lambda *_: Flame(rate_hz=100, warnings=(warning,))
    run = bench.profile(tmp_path)[-1]
    assert run.failures == ()
    assert run.measurements[0].observations.flame.warnings == (warning,)


def test_the_worker_is_busy_until_the_recording_is_done(bench, tmp_path):
    enough, blocks = threading.Event(), []

    def record(pid, seconds, folder):
        assert (pid, seconds, folder) == (bench.pid, FLAME_S, tmp_path)
        assert enough.wait(10)
        bench.log.append("recorded")
        return FLAME

    def run(steps, expected_s=0.0, run=bench.run):
        if "operators 3" in bench.log:
            blocks.append((steps, expected_s))
            if len(blocks) == 4:
                enough.set()
        return run(steps, expected_s)

    bench.flame, bench.run = record, run
    bench.profile(tmp_path)
    assert len(blocks) >= 4
    # Half a second of steps of 100 ms at a time.
    assert set(blocks) == {(5, 0.5)}
    assert bench.log.index("recorded") < bench.log.index("yield 2") < bench.log.index("stop")


def test_a_step_that_takes_seconds_is_asked_for_one_at_a_time(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_BLOCK_S", 0.05)
    asked = threading.Event()
    bench.flame = lambda *_: asked.wait(10) and FLAME

    def run(steps, expected_s=0.0, run=bench.run):
        if steps == 1:
            asked.set()
        return run(steps, expected_s)

    bench.run = run
    bench.profile(tmp_path)
    assert "run 1" in bench.log


def test_what_is_written_nowhere_is_refused_before_anything_starts(bench, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"file/out/trace.json cannot be written \(Not a directory\)"):
        bench.profile(tmp_path / "file" / "out")
    with pytest.raises(RecordError, match=r"file/trace.json cannot be written \(Not a directory\)"):
        bench.profile(tmp_path / "file")
    assert bench.log == []


def test_a_disk_that_is_nearly_full_is_refused_before_anything_starts(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=31 << 20))
    with pytest.raises(RecordError, match="has 31 MiB free, a profile needs 32: free the disk"):
        bench.profile(tmp_path)
    assert bench.log == []


def test_checking_a_folder_leaves_nothing_in_it(bench, tmp_path):
    bench.profile(tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep" / "out").iterdir()] == ["trace.json"]


def test_who_stops_listening_stops_the_worker(bench, tmp_path):
    runs = profile(CASE, tmp_path, sampling=SAMPLING, flame=bench.flame, bench=Bench(lambda *_: bench))
    next(runs)
    runs.close()
    assert bench.log[-3:] == ["run 10", "calibration_kernel", "stop"]


def test_the_roofline_is_that_of_the_cases_threads_and_products(monkeypatch):
    monkeypatch.setattr(runner, "measure_peaks", lambda *arguments: arguments)
    threads, shapes = runner.machine_peaks(CASE)
    assert list(threads) == [2]
    assert shapes == ((8, 256, 1024), (8, 1024, 256), (8, 256, 1000))
