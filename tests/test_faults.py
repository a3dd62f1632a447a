"""What a command does where its surroundings fail it: paths that are not UTF-8, streams that are closed or full."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntp.case import Case, Workload
from ntp.cli import app as cli
from ntp.cli import exit_status
from ntp.errors import MachineError, WorkerFailed
from ntp.machine.cache import cache_dir
from ntp.report.text import FORMATS
from ntp.worker.driver import PipeWorker

SMALL = ["--vocab-size", "300", "--embed-dim", "4", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "12"]
NAME = os.fsdecode(b"\xff")
"""A name that is not UTF-8, as Python has it in a path or an argument."""

MODEL = """
from torch import nn
def make(vocab_size):
    return nn.Embedding(vocab_size, vocab_size)
"""


class TestPathsThatAreNotUtf8:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch, capsys):
        """A command in a folder with a text and a model of such names."""
        monkeypatch.chdir(tmp_path)
        Path(f"{NAME}.txt").write_text("abcdefgh" * 100)
        Path(f"{NAME}.py").write_text(MODEL)

        def run(*arguments: str) -> tuple[int, str, str]:
            status = cli.main(arguments)
            return (status, *capsys.readouterr())

        return run

    @pytest.mark.parametrize("options", [("--data", f"file:{NAME}.txt"), ("--model", f"{NAME}.py:make")])
    def test_training_is_saved_goes_on_and_predicts(self, run, options):
        train = ["train", *SMALL, *options, "--checkpoint", f"saved{NAME}", "--json"]
        assert run(*train, "--steps", "2")[0] == 0
        status, out, err = run(*train, "--steps", "4")
        assert (status, err) == (0, "ntp: resuming from step 2\n")
        assert json.loads(out.splitlines()[-1])["summary"]["steps"] == 4
        trusted = options if "--model" in options else ()
        status, out, err = run("predict", "--checkpoint", f"saved{NAME}", "--prompt-ids", "1,2", *trusted)
        assert (status, len(out.split(",")), err) == (0, 16, "")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("report", f"{NAME}.json"),
            ("compare", f"{NAME}.json", f"other{NAME}.json"),
            ("predict", "--checkpoint", NAME, "--prompt-ids", "1"),
            ("train", f"--{NAME}"),
            ("train", "--data", NAME),
            ("train", "--optimizer", NAME),
            ("tune", "--out", "/dev/null/" + NAME),
        ],
    )
    def test_what_is_refused_is_one_line_that_shows_the_byte(self, run, arguments):
        status, out, err = run(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert r"\udcff" in err

    def test_a_model_may_say_anything(self, run):
        Path("model.py").write_text(f"def make(): raise ValueError({NAME + chr(0xD800)!r})")
        status, _, err = run("train", *SMALL, "--model", "model.py:make")
        assert (status, err.count("\n")) == (2, 1)
        assert r"ValueError: \udcff\ud800 " in err

    def test_a_run_of_such_a_case_is_reported_compared_and_kept(self, run, make_measurement, make_run):
        from ntp.records.run_file import save_run

        case = Case(workload=Workload(model=f"{NAME}.py:make", data=f"file:{NAME}.txt"))
        path = Path(f"run{NAME}.json")
        save_run(make_run(make_measurement(case), command=("ntp", NAME)), path)
        for format_ in (*FORMATS, "html"):
            status, out, err = run("report", str(path), "--format", format_)
            assert (status, err) == (0, "")
            assert out.encode()
            assert r"\udcff" in out
            assert "%FF.py:make" in out
        assert run("compare", str(path), str(path))[0] == 0
        assert run("compare", str(path), str(path), "--format", "html")[0] == 0
        status, out, _ = run("baseline", str(path), "--out", NAME)
        assert status == 0
        assert r"Written: \udcff/" in out


def ntp(command: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A command in a shell of its own, which says what its streams are; the folder is the test's."""
    return subprocess.run(
        ["bash", "-c", command.replace("ntp ", f"{sys.executable} -m ntp ")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class TestStreams:
    @pytest.fixture
    def run_file(self, tmp_path, make_measurement, make_run) -> Path:
        from ntp.records.run_file import save_run

        path = tmp_path / "run.json"
        save_run(make_run(make_measurement()), path)
        return path

    @pytest.mark.parametrize("stdout", [">/dev/full", ">&-"])
    @pytest.mark.parametrize("command", ["ntp report run.json", "ntp --version", "ntp report --help"])
    def test_an_answer_that_cannot_be_written_is_one_line_and_status_5(self, run_file, tmp_path, command, stdout):
        done = ntp(f"{command} {stdout}", tmp_path)
        assert done.returncode == exit_status.TOOL_FAILED
        assert done.stderr.startswith("ntp: error: ")
        assert done.stderr.count("\n") == 1

    @pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
    def test_without_a_place_for_errors_the_answer_and_the_status_are_the_same(self, run_file, tmp_path, stderr):
        done = ntp(f"ntp report run.json {stderr}", tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("# Training step times")
        assert ntp(f"ntp report none.json {stderr}", tmp_path).returncode == exit_status.USAGE
        assert ntp(f"ntp report run.json >&- {stderr} <&-", tmp_path).returncode == exit_status.TOOL_FAILED

    @pytest.mark.worker
    @pytest.mark.parametrize(
        ("stdout", "status", "lines"),
        [
            (">/dev/full", exit_status.TOOL_FAILED, 1),
            (">&-", exit_status.TOOL_FAILED, 1),
            ("| head -1; exit ${PIPESTATUS[0]}", exit_status.BROKEN_PIPE, 0),
        ],
    )
    def test_what_was_trained_is_saved_though_nobody_can_be_told(
        self, tmp_path, monkeypatch, capsys, stdout, status, lines
    ):
        train = ["train", *SMALL, "--checkpoint", "saved", "--log-every", "3"]
        done = ntp(f"ntp {' '.join(train)} {stdout}", tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (status, lines)
        monkeypatch.chdir(tmp_path)
        assert cli.main([*train, "--steps", "101"]) == 0
        assert "ntp: resuming from step " in capsys.readouterr().err


@pytest.mark.worker
def test_a_folder_that_is_gone_is_said(tmp_path):
    done = ntp("mkdir gone; cd gone; rmdir ../gone; ntp train", tmp_path)
    assert done.returncode == exit_status.TOOL_FAILED
    assert done.stderr == (
        "ntp: error: the working directory has been deleted: change to one that exists "
        "(docs/reference.md#when-the-machine-refuses)\n"
    )


class TestWithoutAHome:
    def test_the_cache_says_what_to_do(self, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", str(tmp_path / "none"))
        with pytest.raises(MachineError, match="no home directory: set XDG_CACHE_HOME"):
            cache_dir({})
        assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "ntp"

    def test_charts_are_drawn(self):
        code = """if True:
            import os
            home = os.path.expanduser
            os.path.expanduser = lambda path: home(path) if "HOME" in os.environ else path  # as for an unknown user
            del os.environ["HOME"]
            import ntp.report.html
        """
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files; raise the limit on open files"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "set TMPDIR to a writable folder",
        ),
    ],
)
def test_a_worker_that_cannot_be_started_has_failed(monkeypatch, error, message):
    def refuse(*_: object) -> None:
        raise error

    with pytest.raises(WorkerFailed, match=f"simple-b32-s128-t1: no worker can be started: .*{message}"):
        PipeWorker(Case(), launch=refuse)


def test_an_error_of_the_system_is_one_line_and_status_5(monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere")

    monkeypatch.setattr("ntp.core.train.TrainingRun", refuse)
    assert cli.main(["train"]) == exit_status.TOOL_FAILED
    assert capsys.readouterr().err == (
        "ntp: error: '/somewhere': No space left on device; free disk space "
        "(docs/reference.md#when-the-machine-refuses)\n"
    )


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 5), (errno.EMFILE, 5), (errno.ENOTDIR, 2)])
def test_what_the_machine_has_run_out_of_is_no_wrong_usage(monkeypatch, capsys, number, status):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ntp.core.checkpoint.try_to_write", refuse)
    assert cli.main(["train", "--checkpoint", "somewhere"]) == status
    assert os.strerror(number) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("report",), ("compare", "run.json"), ("compare", "--gate", "run.json"), ("baseline",)]
)
def test_a_run_of_an_older_version_is_refused_in_one_line(
    tmp_path, monkeypatch, capsys, make_run, make_measurement, arguments
):
    from ntp.records.run_file import document_of

    document = document_of(make_run(make_measurement()))
    document["ntp"]["schema_version"] -= 1
    (tmp_path / "run.json").write_text(json.dumps(document))
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "run.json"]) == exit_status.USAGE
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "run.json has schema version 2, this ntp reads 3: measure again" in err


LONG = "x" * 10_000
HUGE = 2**62


class TestWhatNoMachineHas:
    @pytest.mark.parametrize("option", ["--seq-len", "--batch-size", "--vocab-size", "--embed-dim", "--hidden-dim"])
    @pytest.mark.parametrize("value", [HUGE, 2**63 - 1])
    def test_a_size_is_refused_in_one_line_that_says_what_helps(self, capsys, option, value):
        assert cli.main(["train", option, str(value)]) == exit_status.USAGE
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "make batch size, sequence length or model smaller" in err

    @pytest.mark.parametrize(
        "arguments",
        [
            ("train", "--data", f"file:/{LONG}"),
            ("train", "--model", f"{LONG}.py:make"),
            ("train", "--checkpoint", LONG),
            ("predict", "--checkpoint", LONG, "--prompt-ids", "1"),
            ("report", LONG),
            ("tune", "--out", LONG),
            ("guard", "--base", "HEAD", "--cases", LONG),
            (LONG,),
        ],
    )
    def test_a_name_is_refused_in_one_short_line(self, capsys, arguments):
        assert cli.main(arguments) == exit_status.USAGE
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert len(err) < 1200


def test_a_model_cannot_take_away_the_clock(clockless, start_worker):
    with start_worker(clockless) as worker:
        worker.load()
        worker.warm_up()
        ran = worker.run(2)
        assert all(time_ns > 0 for time_ns in ran.step_time_ns)
        assert worker.calibration_kernel().time_ns


@pytest.fixture
def clockless(tmp_path) -> Case:
    path = tmp_path / "clock.py"
    path.write_text(f"import time\ntime.perf_counter_ns = time.process_time = None\n{MODEL}")
    return Case.of({"model": f"{path}:make", "vocab_size": 11, "batch_size": 2, "seq_len": 3})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: os.mkfifo(path), "is a pipe or a device"),
        (lambda path: path.write_text("x"), "has 1 token, fewer than one window of 129: use more data"),
    ],
)
def test_data_that_cannot_be_windows_is_refused_for_what_it_is(tmp_path, capsys, make, words):
    path = tmp_path / "data"
    make(path)
    assert cli.main(["train", "--data", f"file:{path}", "--vocab-size", "256"]) == exit_status.USAGE
    assert words in capsys.readouterr().err


def test_a_full_disk_is_what_a_checkpoint_failed_of(tmp_path, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos 267904 vs 267792")

    monkeypatch.setattr("torch.save", full)
    assert cli.main(["train", *SMALL, "--steps", "1", "--checkpoint", str(tmp_path)]) == exit_status.TOOL_FAILED
    err = capsys.readouterr().err
    assert "the disk is probably full" in err
    assert "unexpected pos" not in err


@pytest.mark.worker
def test_training_goes_on_without_a_clock_of_the_models(tmp_path):
    (tmp_path / "clock.py").write_text(
        f"import time\ntime.perf_counter = time.monotonic = time.process_time = None\n{MODEL}"
    )
    done = ntp(f"ntp train {' '.join(SMALL)} --steps 2 --model clock.py:make", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 steps, " in done.stdout
