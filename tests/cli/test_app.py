"""The command line as a whole: exit statuses, wrong usage, help."""

import os
import re
import signal
import subprocess
import sys

import pytest

import ntp
from ntp.cli import exit_status
from ntp.errors import NtpError, WorkerFailed
from ntp.interrupts import Terminated
from ntp.records.sole_writer import sole_writer


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
def test_bad_input_is_one_line_on_stderr_and_status_2(call, arguments: str, words: list[str], tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments.split())
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
def test_exit_statuses(call, monkeypatch, error: BaseException, status: int, message: str):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ntp.core.train.TrainingRun", fail)
    result = call("train")
    assert (result.status, result.err) == (status, message)


def test_a_fault_of_our_own_keeps_its_traceback_and_is_no_regression(call, monkeypatch):
    monkeypatch.setattr("ntp.core.train.TrainingRun", lambda *_: 1 / 0)
    result = call("train")
    assert result.status == 5
    assert "Traceback" in result.err
    assert "ZeroDivisionError" in result.err


@pytest.mark.parametrize("error", [GeneratorExit, BaseException("odd")])
def test_no_exception_at_all_is_a_regression(call, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ntp.core.train.TrainingRun", fail)
    assert call("train").status == 5


def test_version_and_help(call):
    assert call("--version").out == f"ntp {ntp.__version__}\n"
    assert re.search(r"train .*predict ", call().out, re.DOTALL)
    for command in ("train", "predict", "profile"):
        result = call(command, "--help")
        assert result.status == 0
        assert f"ntp {command} --" in result.out
        assert "\x1b" not in result.out


def test_help_does_not_wait_for_torch():
    code = "import sys, ntp.cli.app; status = ntp.cli.app.main(['--help']); sys.exit('torch' in sys.modules or status)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("tune", "--threads", 1, "--out", "out/tune.json"), "tune.json"),
        (("guard", "--base", "HEAD", "--cases", "simple-b2-s4-t1", "--out", "out/guard.json"), "guard.json"),
        (("profile", "--threads", 1, "--out", "out"), "profile.json"),
    ],
    ids=["tune", "guard", "profile"],
)
def test_what_another_process_writes_is_refused_before_anything_is_measured(call, tmp_path, monkeypatch, command, file):
    monkeypatch.chdir(tmp_path)
    for runner in ("tune", "guard", "profile"):
        monkeypatch.setattr(f"ntp.runners.{runner}.{runner}", lambda *_, **__: pytest.fail("it measures"))
    with sole_writer(tmp_path / "out" / file):
        result = call(*command)
    assert (result.status, result.err.count("\n"), result.out) == (exit_status.USAGE, 1, "")
    assert f"{file} is being written by another process ({os.getpid()})" in result.err
