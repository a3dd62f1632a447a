import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ntp
from ntp.case import Case, Runtime, StepConfig, Workload
from ntp.cli import app as cli
from ntp.cli import exit_status
from ntp.core.train import TrainingRun
from ntp.errors import NtpError, WorkerFailed
from ntp.interrupts import Terminated
from ntp.judge.disturbance import Spreads
from ntp.machine.cpus import available_cpus
from ntp.records.run import Failure, Run
from ntp.records.run_file import save_run
from ntp.records.sole_writer import sole_writer
from ntp.report.profile import markdown, pictures, terminal
from ntp.report.text import FORMATS

SMALL = ["--vocab-size", "300", "--embed-dim", "4", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "12"]


class Result:
    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        self.status = cli.main([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield lambda *arguments: Result(capsys, *arguments)
    for number, handler in before.items():  # one that was interrupted is about to end, and deaf
        signal.signal(number, handler)


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


def test_train_says_when_nothing_is_learned_any_more(run, tmp_path: Path):
    (tmp_path / "burst.py").write_text(
        "from torch import nn\n"
        "class make(nn.Embedding):\n"
        "    steps = 0\n"
        "    def __init__(self, vocab_size): super().__init__(vocab_size, vocab_size)\n"
        "    def forward(self, ids):\n"
        "        self.steps += self.training\n"
        "        return super().forward(ids) * (float('inf') if self.steps >= 3 else 1)\n"
    )
    result = run("train", *SMALL, "--steps", 5, "--model", f"{tmp_path / 'burst.py'}:make")
    assert result.status == 0
    assert result.err == "ntp: the loss of step 3 is nan: nothing is learned from here on\n"


def test_train_says_what_the_models_code_has_changed_for_everybody(run, tmp_path: Path):
    (tmp_path / "rude.py").write_text(
        "import torch\n"
        "class make(torch.nn.Embedding):\n"
        "    def __init__(self, vocab_size):\n"
        "        super().__init__(vocab_size, vocab_size)\n"
        "        torch.set_num_threads(3)\n"
        "    def forward(self, ids):\n"
        "        torch.use_deterministic_algorithms(self.training)\n"
        "        return super().forward(ids)\n"
    )
    try:
        result = run("train", *SMALL, "--steps", 5, "--threads", 2, "--model", f"{tmp_path / 'rude.py'}:make")
    finally:
        torch.use_deterministic_algorithms(False)
    assert result.status == 0
    changed = "ntp: the model's code has changed {}, for the whole process"
    assert result.err.splitlines() == [
        changed.format("threads from 2 to 3"),
        changed.format("deterministic algorithms from off to on"),
    ]


def test_train_without_options_is_the_default_workload(run, monkeypatch):
    asked = []

    def started(*arguments: object) -> None:
        asked.append(arguments)
        raise NtpError("enough")

    monkeypatch.setattr("ntp.core.train.TrainingRun", started)
    run("train")
    assert asked == [(Workload(), StepConfig(), None)]


def test_train_goes_on_from_its_checkpoint(run, tmp_path: Path):
    plain = ["train", *SMALL, "--log-every", 1]
    saving = [*plain, "--checkpoint", tmp_path / "run"]
    whole = run(*plain, "--json", "--steps", 6).out.splitlines()
    first, second, third = (run(*saving, "--json", "--steps", steps) for steps in (3, 6, 6))
    assert first.err == ""
    assert second.err == "ntp: resuming from step 3\n"
    assert third.err == "ntp: step 6 is already done, nothing is left to train: raise --steps 6\n"

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
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert result.err == (
        f"ntp: interrupted after step 4 of 100; saved in {tmp_path}, the same command resumes from there\n"
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
        (NtpError("a\nb"), 2, "ntp: error: a b (docs/reference.md)\n"),
        (
            WorkerFailed("died", "its last words\n"),
            5,
            "ntp: error: died (docs/reference.md#when-a-worker-fails)\nits last words\n",
        ),
        (WorkerFailed("no model", kind="ModelError"), 2, "ntp: error: no model (docs/your-own-model.md)\n"),
        (KeyboardInterrupt(), 130, "ntp: interrupted\n"),
        (Terminated(signal.SIGTERM), 143, "ntp: ended by SIGTERM\n"),
        (Terminated(signal.SIGHUP), 129, "ntp: ended by SIGHUP\n"),
        (SystemExit(3), 3, ""),
    ],
)
def test_exit_statuses(run, monkeypatch, error: BaseException, status: int, message: str):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ntp.core.train.TrainingRun", fail)
    result = run("train")
    assert (result.status, result.err) == (status, message)


def test_a_fault_of_our_own_keeps_its_traceback_and_is_no_regression(run, monkeypatch):
    monkeypatch.setattr("ntp.core.train.TrainingRun", lambda *_: 1 / 0)
    result = run("train")
    assert result.status == 5
    assert "Traceback" in result.err
    assert "ZeroDivisionError" in result.err


@pytest.mark.parametrize("error", [GeneratorExit, BaseException("odd")])
def test_no_exception_at_all_is_a_regression(run, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ntp.core.train.TrainingRun", fail)
    assert run("train").status == 5


def test_threads_are_set_for_the_run_alone(run, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr("ntp.core.train.TrainingRun", lambda *_: seen.append(torch.get_num_threads()) or 1 / 0)
    monkeypatch.setattr("ntp.machine.cpus.check_threads", lambda _: None)  # this machine may have one CPU
    run("train", "--threads", before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_version_and_help(run):
    assert run("--version").out == f"ntp {ntp.__version__}\n"
    assert re.search(r"train .*predict ", run().out, re.DOTALL)
    for command in ("train", "predict", "profile"):
        result = run(command, "--help")
        assert result.status == 0
        assert f"ntp {command} --" in result.out
        assert "\x1b" not in result.out


def test_help_does_not_wait_for_torch():
    code = "import sys, ntp.cli.app; status = ntp.cli.app.main(['--help']); sys.exit('torch' in sys.modules or status)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


def test_a_reader_that_leaves_is_no_error():
    command = [sys.executable, "-m", "ntp", "train", *SMALL, "--log-every", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().startswith("step   1 ")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == exit_status.BROKEN_PIPE


def test_report_makes_the_same_again(make_measurement, make_run, tmp_path, capsys):
    run = make_run(make_measurement())
    benchmarks = [{"extra_info": {"ntp": m.model_dump(mode="json")}} for m in run.measurements]
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"ntp": run.header(), "benchmarks": benchmarks}))
    for name, render in FORMATS.items():
        assert cli.main(["report", str(path), "--format", name]) == 0
        assert capsys.readouterr().out == render(run)


def test_report_refuses_in_one_line(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "none.json")]) == exit_status.USAGE
    assert capsys.readouterr().err.count("\n") == 1


def test_doctor_says_what_the_machine_is(run, make_peaks, monkeypatch):
    monkeypatch.setattr("ntp.runners.roofline.measure_peaks", lambda *_, **__: make_peaks(fp32=123))
    monkeypatch.setattr("ntp.runners.disturbance.spreads", lambda *_, **__: Spreads(quiet=0.021, plain=0.02))
    result = run("doctor")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("Step times vary by about 2.1% here.")
    assert "Machine fingerprint" in result.out
    assert "torch" in result.out
    assert "123 GFLOP/s" in result.out


def test_doctor_says_that_ntp_is_not_tested_with_this_torch(run, make_peaks, monkeypatch):
    monkeypatch.setattr("ntp.runners.roofline.measure_peaks", lambda *_, **__: make_peaks(fp32=123))
    monkeypatch.setattr("ntp.runners.disturbance.spreads", lambda *_, **__: Spreads(quiet=0.021, plain=0.02))
    monkeypatch.setattr("ntp.machine.software.tested_with", lambda package: f"1.0.0 of {package}")
    result = run("doctor")
    assert result.status == 0
    assert "untested-torch: this is torch" in result.out
    assert "1.0.0 of torch" in " ".join(result.out.split())


def test_doctor_without_peaks_says_so_and_tells_the_rest(run, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise WorkerFailed("the probe was killed")

    monkeypatch.setattr("ntp.runners.roofline.measure_peaks", fail)
    monkeypatch.setattr("ntp.runners.disturbance.spreads", fail)
    result = run("doctor")
    lost = ("no step could be timed", "the peaks could not be measured")
    assert (result.status, result.err.splitlines()) == (0, [f"ntp: {what}: the probe was killed" for what in lost])
    assert "Machine fingerprint" in result.out


@pytest.fixture
def profiled(run, monkeypatch, tmp_path):
    """``profiled(runs, *arguments)``: the command with a runner that yields these runs, and what it was asked for."""

    def profile(runs, *arguments):
        asked = []

        def runner(*cases, **options):
            asked.append((*cases, options))
            yield from runs

        monkeypatch.setattr("ntp.runners.profile.profile", runner)
        return run("profile", "--out", tmp_path / "out", *arguments), asked

    return profile


def test_profile_writes_what_was_found_and_says_it(
    profiled, make_measurement, make_run, make_observations, make_peaks, tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["ntp", "profile", "--threads", "1"])
    first = make_run(make_measurement())
    last = make_run(make_measurement(observations=make_observations()), peaks=make_peaks(threads=1))
    out = tmp_path / "out"
    result, asked = profiled(
        [first, last], "--threads", 1, "--optimizer", "fused", "--batch-size", 8, "--allocator", "glibc"
    )
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{terminal(last)}\nWritten: profile.md, profile.html and everything they show, in {out}\n"
    ((case, folder, options),) = asked
    assert (case.id, folder) == ("simple-b8-s128-t1-fused-glibc", out)
    assert options["bench"].command == ("ntp", "profile", "--threads", "1")
    assert (out / "profile.md").read_text() == markdown(last)
    assert Run.load(out / "profile.json") == last
    assert {path.name for path in out.iterdir()} == {"profile.md", "profile.html", "profile.json", *pictures(last)}
    assert all((out / name).read_text().startswith("<svg") for name in pictures(last))


def test_profile_writes_after_each_stage(profiled, make_measurement, make_run, tmp_path):
    first = make_run(make_measurement())

    def runs():
        yield first
        assert Run.load(tmp_path / "out/profile.json") == first
        assert (tmp_path / "out/profile.md").read_text() == markdown(first)
        raise KeyboardInterrupt

    result, _ = profiled(runs())
    assert result.status == exit_status.INTERRUPTED
    assert Run.load(tmp_path / "out/profile.json") == first


def test_a_stage_that_failed_is_status_5_and_the_files_stay(profiled, make_measurement, make_run, tmp_path):
    failure = Failure(case_id="roofline", message="the probe was killed", stderr_tail="its last words")
    run = make_run(make_measurement(), failures=(failure,))
    result, _ = profiled([run])
    assert result.status == exit_status.TOOL_FAILED
    assert result.err == ("ntp: error: the probe was killed (docs/reference.md#when-a-worker-fails)\nits last words\n")
    assert "Written: profile.md" in result.out
    assert Run.load(tmp_path / "out/profile.json") == run
    assert "the probe was killed" in (tmp_path / "out/profile.md").read_text()
    assert (tmp_path / "out/steps.svg").exists()


@pytest.mark.parametrize(("kind", "status"), [("ModelError", exit_status.USAGE), ("", exit_status.TOOL_FAILED)])
def test_a_profile_of_nothing_leaves_the_one_that_was_there(profiled, make_run, tmp_path, kind, status):
    failure = Failure(case_id="simple-b32-s128-t1", message="simple-b32-s128-t1: no such model", kind=kind)
    result, _ = profiled([make_run(failures=(failure,))])
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("ntp: error: simple-b32-s128-t1: no such model (docs/")
    assert not (tmp_path / "out/profile.md").exists()


def test_profile_without_options_uses_all_that_there_is(profiled, make_measurement, make_run):
    _, asked = profiled([make_run(make_measurement())])
    threads = available_cpus().max_threads
    assert asked[0][0] == Case(runtime=Runtime(threads=threads))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--threads 1000", ["threads: 1000 asked for, but this process may use"]),
        ("--threads 0", ["--threads", "0"]),
        ("--affinity loose", ["affinity", "'loose'"]),
        ("--optimizer sgd", ["optimizer", "'sgd'"]),
        ("--model clever", ["model", "'clever'"]),
        ("--batch-size 0", ["batch-size", "0"]),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused_before_it_starts(profiled, tmp_path, arguments, words):
    result, asked = profiled([], *arguments.split())
    assert (result.status, result.out, asked) == (exit_status.USAGE, "", [])
    assert result.err.startswith("ntp: error: ")
    assert result.err.count("\n") == 1
    assert all(word in result.err for word in words), result.err
    assert not (tmp_path / "out").exists()


def test_a_profile_that_cannot_be_written_is_refused_before_it_starts(run, tmp_path):
    (tmp_path / "file").write_text("")
    result = run("profile", "--threads", 1, "--out", tmp_path / "file" / "out")
    assert (result.status, result.out) == (exit_status.USAGE, "")
    assert result.err.startswith(f"ntp: error: {tmp_path}/file/out/profile.json cannot be written (Not a directory): ")


@pytest.fixture
def stored(make_measurement, make_run, tmp_path):
    """A function that writes a run of these cases, and gives its path."""

    def store(name, *case_ids):
        path = tmp_path / f"{name}.json"
        save_run(make_run(*map(make_measurement, case_ids)), path)
        return path

    return store


def test_compare_shows_runs(stored, run):
    one, two, other = (
        stored(name, case_id)
        for name, case_id in (("a", "simple-b8-s64-t1"), ("b", "simple-b8-s64-t2"), ("c", "simple-b32-s64-t1"))
    )
    same = run("compare", one, one)
    assert same.status == 0
    assert "In 1 case, 2: a takes 1.000 times as long per token as 1: a." in same.out
    assert run("compare", one, two, one, "--format", "csv").out.count("\n") == 4
    assert run("compare", one, two).out.startswith("threads: 1 -> 2.\n")
    nothing = run("compare", one, other)
    assert nothing.status == exit_status.NOT_COMPARABLE
    assert "no case in common" in nothing.out


def test_compare_shows_a_run_within_itself(stored, run):
    path = stored("run", "simple-b8-s64-t1", "simple-b8-s64-t2")
    assert run("compare", path, "--by", "threads").out.startswith("threads: 1 -> 2.\nIn 1 case, threads 2 takes ")


@pytest.mark.parametrize(
    ("runs", "options", "said"),
    [
        (1, (), "one run alone"),
        (1, ("--by", "colour"), "no such field"),
        (2, ("--by", "threads"), "got 2 runs"),
        (3, ("--gate",), "got 3 runs"),
        (2, ("--gate", "--format", "csv"), "terminal, markdown or html"),
    ],
)
def test_compare_refuses_what_makes_no_sense(stored, run, runs, options, said):
    result = run("compare", *[stored("run", "simple-b8-s64-t1")] * runs, *options)
    assert (result.status, result.out) == (exit_status.USAGE, "")
    assert said in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("tune", "--threads", 1, "--out", "out/tune.json"), "tune.json"),
        (("guard", "--base", "HEAD", "--cases", "simple-b2-s4-t1", "--out", "out/guard.json"), "guard.json"),
        (("profile", "--threads", 1, "--out", "out"), "profile.json"),
    ],
    ids=["tune", "guard", "profile"],
)
def test_what_another_process_writes_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch, command, file):
    monkeypatch.chdir(tmp_path)
    for runner in ("tune", "guard", "profile"):
        monkeypatch.setattr(f"ntp.runners.{runner}.{runner}", lambda *_, **__: pytest.fail("it measures"))
    with sole_writer(tmp_path / "out" / file):
        result = run(*command)
    assert (result.status, result.err.count("\n"), result.out) == (exit_status.USAGE, 1, "")
    assert f"{file} is being written by another process ({os.getpid()})" in result.err
