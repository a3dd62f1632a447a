import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ntp
from ntp import cli
from ntp.case import Workload
from ntp.errors import NtpError, WorkerFailed
from ntp.report.text import FORMATS
from ntp.train import TrainingRun

SMALL = ["--vocab-size", "300", "--embed-dim", "4", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "12"]


class Result:
    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        self.status = cli.main([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    return lambda *arguments: Result(capsys, *arguments)


def test_train_writes_a_line_each_ten_steps_and_a_summary(run):
    result = run("train", *SMALL, "--steps", 25)
    assert result.status == 0
    assert result.err == ""
    lines = result.out.splitlines()
    pattern = r"step +(\d+)  loss \d+\.\d{4} +[\d,]+ tokens/s +[\d.]+ ms/step"
    assert [re.fullmatch(pattern, line)[1] for line in lines[:3]] == ["10", "20", "25"]
    assert re.fullmatch(r"25 steps, [\d.]+ s in all, [\d,]+ tokens/s, [\d.]+ ms/step", lines[3])
    assert lines[4] == "input (2, 12) int64, logits (2, 12, 300) float32, parameters 2,476"
    assert [line.split()[0] for line in lines[6:]] == ["input", "target", "predicted"]
    assert all(len(line.split()) == 9 for line in lines[6:])
    assert lines[6].split()[2:] == lines[7].split()[1:-1]


def test_train_as_json_writes_a_line_a_logged_step_and_a_summary(run):
    result = run("train", *SMALL, "--steps", 20, "--log-every", 5, "--json", "--data", "zipf")
    *steps, last = map(json.loads, result.out.splitlines())
    assert [step["step"] for step in steps] == [5, 10, 15, 20]
    assert all(set(step) == {"step", "loss", "step_time_ms", "tokens_per_s"} for step in steps)
    assert all(0 < step["loss"] < 10 and step["step_time_ms"] > 0 for step in steps)
    assert last["summary"]["steps"] == 20
    assert last["summary"]["logits_shape"] == [2, 12, 300]


def test_train_without_options_is_the_default_workload(run, monkeypatch):
    asked = []

    def started(*arguments: object) -> None:
        asked.append(arguments)
        raise NtpError("enough")

    monkeypatch.setattr("ntp.train.TrainingRun", started)
    run("train")
    assert asked == [(Workload(), cli.StepConfig(), None)]


def test_train_goes_on_from_its_checkpoint(run, tmp_path: Path):
    plain = ["train", *SMALL, "--log-every", 1]
    saving = [*plain, "--checkpoint", tmp_path / "run"]
    whole = run(*plain, "--json", "--steps", 6).out.splitlines()
    first, second, third = (run(*saving, "--json", "--steps", steps) for steps in (3, 6, 6))
    assert first.err == ""
    assert second.err == "ntp: going on from step 3\n"
    assert third.err == "ntp: step 6 is already done: nothing to train, raise --steps 6 to go on\n"

    def losses(lines: list[str]) -> list[float]:
        return [json.loads(line)["loss"] for line in lines[:-1]]

    assert losses(first.out.splitlines()) + losses(second.out.splitlines()) == losses(whole)
    (summary,) = map(json.loads, third.out.splitlines())
    assert summary["summary"]["tokens_per_s"] is None
    assert "input (2, 12)" in run(*saving, "--steps", 6).out.splitlines()[0]


def test_ctrl_c_saves_says_so_and_exits_130(run, tmp_path: Path, monkeypatch):
    timed_step = TrainingRun._timed_step

    def interrupted_step(self: TrainingRun) -> tuple[float, float]:
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
        return timed_step(self)

    monkeypatch.setattr(TrainingRun, "_timed_step", interrupted_step)
    result = run("train", *SMALL, "--checkpoint", tmp_path)
    assert result.status == 130
    assert result.err == (
        f"ntp: interrupted after step 4 of 100; saved in {tmp_path}, the same command goes on from there\n"
    )
    assert len(result.out.splitlines()) == 1
    assert "nothing is saved" in run("train", *SMALL).err


def test_predict_writes_ids_for_ids_and_text_for_text(run, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh" * 50)
    trained = run(
        "train", "--data", f"file:{text}", "--vocab-size", 128, "--embed-dim", 64, "--hidden-dim", 64, "--seq-len", 12,
        "--steps", 200, "--checkpoint", tmp_path / "run",
    )  # fmt: skip
    assert trained.status == 0
    predict = ["predict", "--checkpoint", tmp_path / "run", "--max-new-tokens", 4]
    assert run(*predict, "--prompt", "xyzab").out == "cdef\n"
    assert run(*predict, "--prompt-ids", "97,98").out == "99,100,101,102\n"
    assert json.loads(run(*predict, "--prompt", "ab", "--json").out) == {
        "prompt_ids": [97, 98], "new_ids": [99, 100, 101, 102], "text": "cdef"
    }  # fmt: skip
    assert json.loads(run(*predict, "--prompt-ids", "97", "--json").out)["text"] is None
    hot = [*predict, "--prompt-ids", "97", "--temperature", 50]
    one, same, other = (run(*hot, "--seed", seed).out for seed in (1, 1, 2))
    assert one == same != other
    assert run(*hot, "--top-k", 1).out == "98,99,100,101\n"
    assert "prompt id 200 is not in the vocabulary" in run(*predict, "--prompt-ids", "200").err
    assert "prompt id 195" in run(*predict, "--prompt", "é").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("train --vocab-size 0", ["vocab-size", "0"]),
        ("train --vocab-size many", ["--vocab-size", "'many'"]),
        ("train --steps 0", ["--steps", "0"]),
        ("train --optimizer sgd", ["optimizer", "'default', 'foreach' or 'fused'", "'sgd'"]),
        ("train --data file:none.txt", ["'none.txt'", "not found"]),
        ("train --data noise", ["data", "'noise'", "zipf:EXPONENT"]),
        ("train --model clever", ["model", "'clever'", "package.module:factory"]),
        ("train --model none.py:make", ["none.py", "not found"]),
        ("train --batch-size 100000000000", ["100000000000", "memory"]),
        ("train --no-such-option", ["--no-such-option"]),
        ("fly", ["fly"]),
        ("predict --prompt-ids 1", ["--checkpoint"]),
        ("predict --checkpoint none --prompt-ids 1", ["none", "ntp train --checkpoint"]),
        ("predict --checkpoint none", ["--prompt-ids 1,2,3"]),
        ("predict --checkpoint none --prompt-ids 1 --seed -1", ["--seed", "-1"]),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_status_2(run, arguments: str, words: list[str], tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments.split())
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("ntp: error: ")
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (NtpError("a\nb"), 2, "ntp: error: a b\n"),
        (WorkerFailed("died", "its last words\n"), 5, "ntp: error: died\nits last words\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(3), 3, ""),
    ],
)
def test_exit_statuses(run, monkeypatch, error: BaseException, status: int, message: str):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ntp.train.TrainingRun", fail)
    result = run("train")
    assert (result.status, result.err) == (status, message)


def test_a_fault_of_our_own_keeps_its_traceback_and_is_no_regression(run, monkeypatch):
    monkeypatch.setattr("ntp.train.TrainingRun", lambda *_: 1 / 0)
    result = run("train")
    assert result.status == 5
    assert "Traceback" in result.err
    assert "ZeroDivisionError" in result.err


def test_threads_are_set_for_the_run_alone(run, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("ntp.train.TrainingRun", lambda *_: seen.append(torch.get_num_threads()) or 1 / 0)
    run("train", "--threads", before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_version_and_help(run):
    assert run("--version").out == f"ntp {ntp.__version__}\n"
    assert re.search(r"train .*predict ", run().out, re.DOTALL)
    for command in ("train", "predict"):
        result = run(command, "--help")
        assert result.status == 0
        assert f"ntp {command} --" in result.out
        assert "\x1b" not in result.out


def test_help_does_not_wait_for_torch():
    code = "import sys, ntp.cli; status = ntp.cli.main(['--help']); sys.exit('torch' in sys.modules or status)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "ntp", "train", *SMALL, "--log-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("step   1 ")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == cli.BROKEN_PIPE


def test_report_makes_the_same_again(make_measurement, make_run, tmp_path, capsys):
    run = make_run(make_measurement())
    benchmarks = [{"extra_info": {"ntp": m.model_dump(mode="json")}} for m in run.measurements]
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"ntp": run.header(), "benchmarks": benchmarks}))
    for name, render in FORMATS.items():
        assert cli.main(["report", str(path), "--format", name]) == 0
        assert capsys.readouterr().out == render(run)


def test_report_refuses_in_one_line(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "none.json")]) == cli.USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_doctor_says_what_the_machine_is(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Machine fingerprint" in out
    assert "torch" in out
