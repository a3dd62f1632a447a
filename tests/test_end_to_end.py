"""Real workers: a handful, since each imports torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntp.case import PHASES, Case, StepConfig, Workload
from ntp.errors import WorkerFailed
from ntp.report.profile import markdown
from ntp.runners import profile as runner
from ntp.runners.bench import Bench
from ntp.runners.sweep import Plan, RoundsSweep
from ntp.worker.driver import Observing, PipeWorker, Sampling, cpus_for, measure
from ntp.worker.pairs import WorkerStarter

ROOT = Path(__file__).parent.parent
SMALL = Workload(batch_size=2, seq_len=8, vocab_size=50, embed_dim=8, hidden_dim=16)
QUICK = Sampling(time_s=0.01, min_samples=3, max_samples=3)


@pytest.mark.worker
def test_a_small_case_is_measured_in_the_quiet_runtime():
    case = Case(workload=SMALL)
    with PipeWorker(case) as worker:
        measurement = measure(case, worker, QUICK)
    process = measurement.environment.process
    assert len(measurement.step_time_ns) == 3
    assert min(measurement.step_time_ns) > 0
    assert measurement.parameters == 50 * 8 + (8 * 16 + 16) + (16 * 8 + 8) + 8 * 50
    (measured,) = measurement.processes
    assert measured.peak_rss_bytes > 100 * 2**20  # torch alone is more
    kernel = measured.calibration_kernel
    assert kernel.shape == (512, 512, 512)
    assert len(kernel.bursts_ns) == 4, "around each of three steps"
    assert {len(burst) for burst in kernel.bursts_ns} <= {1, 2, 3}, "as many as its time allows"
    assert kernel.time_ns > 1
    assert process.torch_threads == 1
    assert process.torch_interop_threads == 1
    assert dict(process.variables)["OMP_NUM_THREADS"] == "1"
    if sys.platform == "linux":
        assert process.affinity == cpus_for(case.runtime)
        assert len(process.affinity) == 1


@pytest.mark.worker
def test_a_sweep_measures_each_case_in_fresh_processes_and_sleeps_meanwhile():
    case = Case(workload=SMALL)
    with WorkerStarter(forks=None) as start:
        rounds = RoundsSweep([case], Plan(rounds=2, sampling=Sampling(time_s=0.5)), Bench(start))
        start.prepare(rounds.runtimes, rounds.source)
        assert list(rounds.run()) == [1, 2]
    assert (rounds.failures, rounds.plain_failure) == ({}, None)
    (measurement,) = rounds.measurements.values()
    processes = (*measurement.processes, *rounds.plain.processes)
    assert [process.round for process in processes] == [1, 2, 1, 2]
    for harness in (process.harness for process in processes):
        assert harness.parent_cpu_s < 0.02 * harness.timed_s
    if sys.platform == "linux":
        plain = rounds.plain.environment.process
        assert len(measurement.environment.process.affinity) == 1
        assert len(plain.affinity) == len(os.sched_getaffinity(0))
        assert plain.allocator_tunables == ()


def test_parts_of_a_step_take_a_part_of_its_time(start_worker):
    case = Case(
        workload=SMALL.model_copy(update={"part": "optimizer"}),
        step=StepConfig(optimizer="fused"),
    )
    with start_worker(case) as worker:
        worker.load()
        warm_up = worker.warm_up()
    assert 0 < sum(warm_up.step_time_ns) < warm_up.wall_time_ns


def test_a_model_that_is_not_ours(start_worker):
    pytest.importorskip("transformers")
    workload = SMALL.model_copy(update={"model": f"{ROOT / 'examples/gpt2.py'}:tiny"})
    with start_worker(Case(workload=workload)) as worker:
        assert worker.load().parameters > 100_000
        assert len(worker.run(2).step_time_ns) == 2


def test_a_model_that_prints_or_exits(tmp_path, start_worker):
    (tmp_path / "models.py").write_text(
        "import sys, torch\n"
        "def talkative(vocab_size):\n"
        "    print('hello from the model')\n"
        "    return torch.nn.Embedding(vocab_size, vocab_size)\n"
        "def hasty():\n"
        "    sys.exit(7)\n"
    )

    def load(name):
        workload = SMALL.model_copy(update={"model": f"{tmp_path}/models.py:{name}"})
        with start_worker(Case(workload=workload)) as worker:
            return worker.load()

    assert load("talkative").parameters == 2500
    with pytest.raises(WorkerFailed, match="the factory failed: SystemExit: 7"):
        load("hasty")


@pytest.mark.worker
def test_a_small_case_is_profiled(tmp_path, make_peaks, monkeypatch):
    monkeypatch.setattr(runner, "FLAME_S", 0.5)
    case = Case(workload=SMALL)
    peaks = make_peaks(threads=1, fp32=50, workload=SMALL)
    stages = runner.profile(
        case,
        tmp_path,
        sampling=QUICK,
        observing=Observing(phase_pairs=2, operator_steps=2),
        peaks=lambda _: peaks,
        bench=Bench(),
    )
    *_, run = stages
    assert run.failures == ()
    (measurement,) = run.measurements
    seen = measurement.observations
    assert seen.failures == ()
    assert [samples.phase for samples in seen.phases.phases] == list(PHASES)
    # 16 tokens, 6 operations for each weight that a token is multiplied with: E H, H E and E V.
    assert seen.flops.total_flops == 6 * 16 * (8 * 16 + 16 * 8 + 8 * 50)
    assert {"aten::mm", "aten::addmm"} <= {operator.name for operator in seen.operators.operators}
    assert seen.memory.baseline.parameters == 4 * measurement.parameters
    assert 0 <= seen.denormals.share <= 1
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    # Who may trace a process, and what py-spy reads of it, is the machine's business. It says so.
    for name in (seen.flame.speedscope, seen.flame.svg):
        assert (tmp_path / name).stat().st_size if name else seen.flame.warnings
    text = markdown(run)
    assert "Matrix products" in text
    assert "Incomplete" not in text


def test_a_sweep_needs_nothing_that_only_the_tests_do():
    """``pip install .`` brings no hypothesis, and the sweep's pytest reads the tests' conftest all the same."""
    without = (
        "import sys, pytest\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'hypothesis':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.exit(pytest.main(sys.argv[1:]))\n"
    )
    options = ["--benchmark-only", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = subprocess.run(
        [sys.executable, "-c", without, *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bench_train_step.py" in done.stdout
