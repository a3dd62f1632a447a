"""``ntp guard`` as its users meet it: with records made by hand, and with real processes in a real repository."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntp.cli import app as cli
from ntp.errors import WorkerFailed
from ntp.interrupts import Terminated
from ntp.judge.guard import plan_of, summary, verdict_on
from ntp.records.guard import Block, Counts, GuardedCase, GuardRecord, Pair, Side

COUNTS = Counts(parameters=7, flops=100, operators=(("aten::mm", 3.0),), allocated_bytes=64, peak_tensor_bytes=128)
NOISE = (0.001, -0.002, 0.0015, 0.0005, -0.001, 0.0, 0.002, -0.0015)
CASE_ID = "simple-b2-s4-t1"


def pair(slowdown):
    times = {"base": (1_000_000,) * 8, "head": (round(1_000_000 * (1 + slowdown)),) * 8}
    return Pair(case_id=CASE_ID, seed=0, blocks=tuple(Block(side=s, step_time_ns=t) for s, t in times.items()))


def record(slowdown=0.0, pairs=8, **cell):
    values = {"base": COUNTS, "head": COUNTS, "pairs": tuple(pair(slowdown + noise) for noise in NOISE[:pairs])}
    return GuardRecord(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=80.0,
        command=("ntp", "guard"),
        base=Side(ref="main", commit="a" * 40),
        head=Side(ref="worktree", commit="b" * 40, dirty=True),
        plan=plan_of([CASE_ID], 0.01, 60),
        budget_s=60,
        seed=0,
        cases=(GuardedCase(case_id=CASE_ID, **(values | cell)),),
    )


MORE = COUNTS.model_copy(update={"operators": (("aten::copy_", 2.0), ("aten::mm", 3.0))})
VERDICTS = {
    "Pass": (record(), 0),
    "Regression": (record(0.05), 1),
    "Improvement": (record(-0.05), 0),
    "Inconclusive": (record(0.0, pairs=2), 3),
    "Not comparable": (record(base=None, pairs=0, base_failure="no such model"), 4),
    "Failed": (record(head=None, pairs=0, failure="simple: died"), 5),
}


class Result:
    def __init__(self, capsys, *arguments):
        self.status = cli.main([str(argument) for argument in arguments])
        self.out, self.err = capsys.readouterr()


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return lambda *arguments: Result(capsys, "guard", *arguments)


@pytest.fixture
def kept(tmp_path):
    def keep(what):
        path = tmp_path / "guard.json"
        path.write_text(what.text(summary(verdict_on(what))))
        return path

    return keep


@pytest.mark.parametrize("name", VERDICTS)
def test_a_replay_says_the_verdict_and_ends_with_its_status(run, kept, name):
    what, status = VERDICTS[name]
    result = run("--replay", kept(what))
    assert result.status == status
    assert result.out.startswith(f"{name}: the work tree (bbbbbbbbbbbb, with uncommitted changes) ")
    assert max(map(len, result.out.splitlines())) <= 100
    assert result.err == ""


def test_the_file_holds_the_verdict_for_others_to_read(kept):
    document = json.loads(kept(record(0.05)).read_text())
    assert document["verdict"]["verdict"] == "regression"
    [case] = document["verdict"]["cases"]
    assert case["case"] == CASE_ID
    assert case["metrics"][0]["ratio"] == pytest.approx(1.05, rel=0.01)
    assert case["metrics"][0]["interval"][0] > 1.01


def test_whoever_pins_can_fail_on_an_improvement(run, kept):
    assert run("--replay", kept(record(-0.05)), "--fail-on", "improvement").status == 1
    assert run("--replay", kept(record()), "--fail-on", "improvement").status == 0


def test_what_several_workers_said_at_last_is_shown_once(run, kept):
    failed = record(head=None, pairs=0, failure="died")
    ids = ["simple-b2-s4-t1", "simple-b2-s4-t2", "simple-b8-s4-t1", "simple-b8-s4-t2"]
    tails = ["the same words", "other words", "the same words", ""]
    cells = tuple(
        failed.cases[0].model_copy(update={"case_id": case_id, "stderr_tail": tail})
        for case_id, tail in zip(ids, tails, strict=True)
    )
    result = run("--replay", kept(failed.model_copy(update={"cases": cells, "plan": plan_of(ids, 0.01, 60)})))
    assert result.status == 5
    assert result.err.splitlines() == [
        f"the last lines of the worker of {ids[0]}:", "the same words",
        f"the last lines of the worker of {ids[1]}:", "other words",
    ]  # fmt: skip


def test_a_count_that_rises_is_a_regression_and_named(run, kept):
    result = run("--replay", kept(record(head=MORE)))
    assert result.status == 1
    assert "+2 aten::copy_ a step" in result.out


def test_a_job_summary_is_added_to(run, kept, monkeypatch, tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    run("--replay", kept(record()))
    text = path.read_text()
    assert text.startswith("before\n**Pass: ")
    assert f"| `{CASE_ID}` |" in text


@pytest.mark.parametrize("where", ["nowhere/summary.md", ""])
def test_a_job_summary_that_cannot_be_written_is_one_line_and_the_verdict_stands(
    run, kept, monkeypatch, tmp_path, where
):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / where))
    result = run("--replay", kept(record()))
    assert (result.status, result.out.startswith("Pass: ")) == (0, True)
    assert result.err.count("\n") == 1
    assert "GITHUB_STEP_SUMMARY" in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--base REF"),
        (["--base", "HEAD", "--replay", "guard.json"], "--base REF"),
        (["--base", "HEAD", "--threshold", "0"], "1% or 0.01"),
        (["--base", "HEAD", "--threshold", "100%"], "1% or 0.01"),
        (["--base", "HEAD", "--threshold", "much"], "much"),
        (["--base", "HEAD", "--budget", "0s"], "5min"),
        (["--base", "HEAD", "--budget", "nan"], "nan"),
        (["--base", "HEAD", "--budget", "1e9"], "1e9"),
        (["--base", "HEAD", "--cases", "simple"], "not a case id"),
        (["--base", "HEAD", "--cases", "simple-b2-s4-t900"], "900"),
        (["--base", "HEAD", "--cases", CASE_ID, "--model", "model.py:make"], "give only one of the two"),
        (["--base", "HEAD", "--model", "/models/model.py:make"], "inside the repository"),
        (["--base", "no-such-branch"], "no-such-branch"),
        (["--base", "HEAD", "--head", "no-such-branch"], "no-such-branch"),
        (["--replay", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_usage_is_one_line(run, arguments, says):
    result = run(*arguments)
    assert result.status == 2
    assert says in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Terminated(signal.SIGTERM)])
def test_what_was_measured_before_an_interrupt_is_kept(run, monkeypatch, tmp_path, stop):
    closed = []

    def interrupted(*_arguments, **_options):
        try:
            yield record(pairs=0)
            yield record(pairs=6)
            raise stop
        finally:
            closed.append(True)

    monkeypatch.setattr("ntp.runners.guard.guard", interrupted)
    path = tmp_path / "guard.json"
    result = run("--base", "HEAD", "--cases", CASE_ID, "--out", path)
    assert result.status == (143 if isinstance(stop, Terminated) else 130)
    assert closed == [True]
    assert f"--replay {path}" in result.err
    assert len(GuardRecord.load(path).cases[0].pairs) == 6


def test_a_worker_that_cannot_be_started_is_a_failure(run, monkeypatch, tmp_path):
    def failing(*_arguments, **_options):
        raise WorkerFailed("the process that forks workers is gone", "ImportError: torch")
        yield

    monkeypatch.setattr("ntp.runners.guard.guard", failing)
    result = run("--base", "HEAD", "--cases", CASE_ID, "--out", tmp_path / "guard.json")
    assert result.status == 5
    assert result.err.startswith("ntp: error: the process that forks workers is gone (docs/")
    assert result.err.endswith("\nImportError: torch\n")


MODEL = """
import torch

class Model(torch.nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, ids):
        return self.table(ids){change}

def make(vocab_size):
    return Model(vocab_size)
"""
USERS_CASE = "model.py:make-b2-s4-t1-v50"


class Repository:
    """A user's own, whose base holds a model and whose work tree holds a change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", "--initial-branch", "trunk")
        self.git("config", "user.name", "Somebody")
        self.git("config", "user.email", "somebody@example.org")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def commit(self, **files: str) -> None:
        self.write(**files)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "a commit")

    def write(self, **files: str) -> None:
        for name, text in files.items():
            path = self.path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def guard(self, *arguments: str, folder: str = ".", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            cwd=self.path / folder,
            env=os.environ | variables,
            check=False,
        )

    def command(self, *arguments: str) -> list[str]:
        options = ["--base", "HEAD", "--cases", USERS_CASE, "--out", "out/guard.json"]
        return [sys.executable, "-m", "ntp", "guard", *options, *arguments]

    def is_clean(self) -> bool:
        """Whether no worktree is left, and the user's own files are as they were."""
        return self.git("worktree", "list").count("\n") == 1 and self.git("stash", "list") == ""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    path = tmp_path / "repository"
    path.mkdir()
    return Repository(path)


def test_a_change_in_a_users_repository_is_found_by_its_counts(repository):
    repository.commit(model=MODEL.format(change=""))
    repository.write(model=MODEL.format(change=".clone()"))
    status = repository.git("status", "--porcelain")
    result = repository.guard("--budget", "1s")
    assert result.returncode == 1, result.stderr
    assert "aten::clone" in result.stdout
    assert "with uncommitted changes" in result.stdout
    assert repository.is_clean()
    assert repository.git("status", "--porcelain") == f"{status}?? out/\n"
    allowed = repository.guard("--budget", "1s", "--allow", "*_bytes,aten::*")
    assert allowed.returncode == 3, allowed.stdout


def test_unchanged_code_is_measured_in_pairs(repository):
    repository.commit(model=MODEL.format(change=""))
    result = repository.guard("--budget", "8s", "--threshold", "90%", "--head", "HEAD")
    kept = GuardRecord.load(repository.path / "out/guard.json")
    assert kept.cases[0].pairs or kept.wall_time_s >= kept.budget_s, "counting alone may spend it on a busy machine"
    assert kept.cases[0].base == kept.cases[0].head
    assert result.returncode == (0 if len(kept.cases[0].pairs) >= kept.plan.min_pairs else 3), result.stdout
    replay = subprocess.run(
        [sys.executable, "-m", "ntp", "guard", "--replay", repository.path / "out/guard.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (replay.stdout, replay.returncode) == (result.stdout, result.returncode)


@pytest.fixture
def src_layout(repository):
    """A package in ``src``, whose head repeats a part, and a file outside of it that imports the package."""
    (repository.path / "pyproject.toml").write_text('[project]\nname = "my-project"\n')
    (repository.path / ".gitignore").write_text("out/\n")
    model = {"src/mine/__init__": "", "bench/bm": "from mine.model import make"}
    repository.commit(**model, **{"src/mine/model": MODEL.format(change="")})
    repository.commit(**{"src/mine/model": MODEL.format(change=".clone()"), "unrelated": ""})
    return repository


def assert_regression_of_its_own_code(repository, result, loaded):
    assert result.returncode == 1, result.stdout + result.stderr
    assert "aten::clone" in result.stdout
    kept = GuardRecord.load(next(repository.path.rglob("guard.json")))
    assert (kept.base.loaded, kept.head.loaded) == (loaded, loaded)
    assert kept.changed == ("src/mine/model.py", "unrelated.py")
    assert "were loaded" not in result.stdout


SRC_CASES = "mine.model:make-b2-s4-t1-v50,bm.py:make-b2-s4-t1-v50"


@pytest.mark.long
def test_each_side_imports_its_own_code_where_the_python_path_leads_into_the_work_tree(src_layout):
    path = str(src_layout.path / "src")
    options = ("--base", "HEAD~1", "--budget", "1s", "--cases", SRC_CASES)
    result = src_layout.guard(*options, folder="bench", PYTHONPATH=path)
    loaded = ("bench/bm.py", "src/mine/__init__.py", "src/mine/model.py")
    assert_regression_of_its_own_code(src_layout, result, loaded)


@pytest.mark.long
def test_each_side_imports_its_own_code_where_a_copy_of_the_package_is_installed(src_layout, tmp_path):
    copy, details = tmp_path / "installed", tmp_path / "installed/my_project-1.dist-info"
    shutil.copytree(src_layout.path / "src", copy)
    details.mkdir()
    (details / "METADATA").write_text("Metadata-Version: 2.1\nName: my-project\nVersion: 1\n")
    (details / "RECORD").write_text("mine/__init__.py,,\nmine/model.py,,\n")
    options = ("--base", "HEAD~1", "--budget", "1s", "--cases", SRC_CASES.partition(",")[0])
    result = src_layout.guard(*options, PYTHONPATH=str(copy))
    assert_regression_of_its_own_code(src_layout, result, ("src/mine/__init__.py", "src/mine/model.py"))


ABSOLUTE = """
import importlib.util
spec = importlib.util.spec_from_file_location("mine", {path!r})
module = importlib.util.module_from_spec(spec)
import sys
sys.modules["mine"] = module
spec.loader.exec_module(module)
make = module.make
"""


@pytest.mark.long
def test_one_side_twice_is_not_comparable(repository):
    repository.commit(mine=MODEL.format(change=""), model=ABSOLUTE.format(path=str(repository.path / "mine.py")))
    repository.write(mine=MODEL.format(change=".clone()"))
    result = repository.guard("--budget", "1s")
    assert result.returncode == 4, result.stdout + result.stderr
    assert "base: mine was imported from mine.py of the work tree" in " ".join(result.stdout.split())


@pytest.mark.long
def test_what_git_does_not_know_is_named_then_shared_or_made_on_each_side(repository):
    (repository.path / ".gitignore").write_text("generated.py\nout/\n")
    repository.commit(model="import generated\n" + MODEL.format(change=""))
    repository.write(generated="")
    options = ("--budget", "1s")
    result = repository.guard(*options)
    assert result.returncode == 4
    assert "lacks files of the work tree that git does not track: generated.py; share them with --link" in " ".join(
        result.stdout.split()
    )
    assert repository.guard(*options, "--link", "generated.py").returncode == 3
    made = repository.guard(*options, "--setup", "echo making; touch generated.py")
    assert made.returncode == 3, made.stdout
    kept = GuardRecord.load(repository.path / "out/guard.json")
    assert [(side.preparation.status, side.preparation.output) for side in (kept.base, kept.head)] == [
        (0, "making\n")
    ] * 2
    assert repository.is_clean()


@pytest.mark.parametrize(
    ("side", "fails_where", "status"), [("base", "! test -e new.py", 4), ("head", "test -e new.py", 5)]
)
def test_a_setup_that_fails_is_one_clear_line(repository, side, fails_where, status):
    repository.commit(model=MODEL.format(change=""))
    repository.write(new="")
    result = repository.guard("--budget", "1s", "--setup", f"if {fails_where}; then echo no luck; exit 7; fi")
    assert result.returncode == status, result.stdout
    assert f"{side}: --setup ended with exit status 7" in " ".join(result.stdout.split())
    assert "no luck" in result.stderr
    assert repository.is_clean()


@pytest.mark.parametrize(
    ("base", "head", "status", "says"),
    [
        ({"other": ""}, {"model": MODEL.format(change="")}, 4, "model.py"),
        ({"model": "import no_such_module"}, {"model": MODEL.format(change="")}, 4, "no_such_module"),
        ({"model": MODEL.format(change="")}, {"model": "1 / 0"}, 5, "division by zero"),
    ],
)
def test_a_side_that_cannot_run_never_passes(repository, base, head, status, says):
    repository.commit(**base)
    repository.write(**head)
    result = repository.guard("--budget", "30s")
    assert result.returncode == status, result.stdout
    assert says in result.stdout
    assert repository.is_clean()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_leaves_no_worktree_and_no_process(repository, number, status):
    repository.commit(model=MODEL.format(change=""))
    command = repository.command("--budget", "100s")
    process = subprocess.Popen(command, cwd=repository.path, stderr=subprocess.PIPE, text=True)
    kept = repository.path / "out/guard.json"
    while not kept.exists():
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "what was measured is kept" in errors
    assert errors.count("\n") == 1
    assert repository.is_clean()
    assert GuardRecord.load(kept).cases[0].base is not None
