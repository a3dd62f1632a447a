"""What a notebook imports from the top, and that it is loaded no sooner than it is used."""

import subprocess
import sys

import pytest

import ntp


def test_every_entry_point_is_there():
    assert {name for name in ntp.__all__ if callable(getattr(ntp, name))} == set(ntp.__all__) <= set(dir(ntp))
    assert ntp.SimpleNextTokenModel.__module__ == "ntp.core.model"
    with pytest.raises(AttributeError, match="has no attribute 'train_stop'"):
        _ = ntp.train_stop


def test_they_train_and_generate():
    workload = ntp.Workload(batch_size=2, seq_len=8)
    run = ntp.TrainingRun(workload, ntp.StepConfig())
    assert [record.step for record in run.run(steps=2)] == [1, 2]
    training = run.training
    tokens = next(ntp.token_batches(workload, training.generator))
    assert ntp.train_step(training.method, training.optimizer, tokens).isfinite()
    assert len(list(ntp.generate(training.language_model, workload, [1, 2], max_new_tokens=3))) == 3


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("ntp, ntp.observe.phases, ntp.observe.flops, ntp.observe.py_spy, ntp.runners.roofline", "torch"),
        ("ntp.machine.cpus, ntp.machine.system", "torch psutil cpuinfo threadpoolctl"),
        ("ntp.records.environment, ntp.records.observations, ntp.records.run", "torch psutil cpuinfo threadpoolctl"),
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_used(modules, absent):
    code = f"import sys, {modules}; sys.exit(' '.join(set({absent.split()!r}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stderr.strip(), done.returncode) == ("", 0)
