"""Every command of the README, run in a clone of the repository, each made short, two at a time.

Not collected unless it is named: ``pytest tests/readme_commands.py``, as ``tox run -e readme`` does. It takes minutes.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

SMALL = "--batch-size 2 --seq-len 8"
SWEEP = "--ntp-rounds 2 --ntp-batch-sizes 2 --ntp-seq-lens 8 --ntp-sample-time 0.1"
ALONE = f"{SWEEP} --ntp-threads 1 --ntp-no-profile -k train_step"
APART = f"{ALONE} --ntp-report-dir reports/apart"


class Rule(NamedTuple):
    """How a command is made short: options that follow its own, and override them."""

    start: str
    added: str = ""
    statuses: tuple[int, ...] = (0,)


JUDGED = (0, 1, 3)
"""So little is measured that any verdict may result. None of them is an error."""

NOT_COMPARABLE = 4
"""A sweep of one case has none of most of the baseline's."""

SWEEPS_AND_GUARDS = (
    Rule("pytest --benchmark-only --ntp-allocator", ALONE),
    Rule("pytest --benchmark-only --ntp-baseline", ALONE, (*JUDGED, NOT_COMPARABLE)),
    Rule("pytest --benchmark-only", f"{SWEEP} -k train_step"),
    Rule("ntp guard --replay", statuses=JUDGED),
    Rule("ntp guard", "--budget 5s --cases simple-b2-s4-t1", JUDGED),
    Rule("ntp doctor --calibrate", "--runs 2 --cases reports/glibc/run.json"),
    Rule("ntp race", f"{SMALL} --budget 5s"),
    Rule("ntp compare"),
    Rule("ntp baseline"),
)
ALL_ELSE = (
    Rule("pytest --benchmark-only bench/bench_scaling.py", f"{APART} -k b4-s128-t1-deduplicated"),
    Rule("pytest --benchmark-only bench/bench_train_step.py", f"{APART} -k deduplicated"),
    Rule("pytest --benchmark-only --ntp-model", APART),
    Rule("ntp profile", SMALL),
    Rule("ntp tune --model", f"{SMALL} --threads 1 --budget 36s --fresh --memory-limit 1MiB"),  # that nothing keeps to
    Rule("ntp tune", f"{SMALL} --threads 1 --budget 36s --fresh"),  # with less, there is no time for a race
    Rule("ntp train --checkpoint", f"{SMALL} --steps 20"),
    Rule("ntp train --model", SMALL),
    Rule("ntp predict"),
    Rule("ntp train"),
)
RULES = ALL_ELSE + SWEEPS_AND_GUARDS

ELSEWHERE = re.compile(r"python3 -m venv|\.venv/bin/pip install|\.venv/bin/tox run|ntp race torch==")
"""What has been done before this runs; and what downloads gigabytes, which ``evidence/race`` records."""


def readme_commands() -> list[str]:
    """The commands in order, with those that ``&&`` joins separated."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&") if part.strip()]
    return [part.removeprefix(".venv/bin/") for part in parts if not ELSEWHERE.match(part)]


def golden_losses() -> list[str]:
    """The losses in the README of a training run without options."""
    (block,) = re.findall(r"```text\n([\d. ]+)\n```", (ROOT / "README.md").read_text())
    return str(block).split()


def rule_of(command: str) -> Rule:
    """Find the first rule that applies.

    Raises:
        LookupError: there is none.
    """
    for rule in RULES:
        if command.startswith(rule.start):
            return rule
    raise LookupError(f"{command}: say in {Path(__file__).name} how it is made short")


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A user's clone, with the branch and the tag of the README's commands, and a separate cache."""
    path = tmp_path_factory.mktemp("readme") / "ntp"
    subprocess.run(["git", "clone", "--quiet", ROOT, path], check=True)
    for command in (["tag", "v1.2"], ["checkout", "--quiet", "-B", "main"]):
        subprocess.run(["git", *command], cwd=path, check=True)
    return path


class Run(NamedTuple):
    line: str
    status: int
    stdout: str
    stderr: str


def run(command, clone):
    words, arrow, file = command.partition(" > ")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),  # the clone's own ntp, as if it were installed from there
        "XDG_CACHE_HOME": str(clone.parent / "cache"),
    }
    line = f"{words} {rule_of(command).added}{arrow}{file}"
    done = subprocess.run(["bash", "-c", line], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    return Run(line, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def runs(clone):
    """What became of each command, as soon as it is known.

    Sweeps and guards use each other's reports, and so do training and prediction: within both, one runs after the
    other. Nothing that is measured here matters, so that both go on at the same time.
    """
    commands = readme_commands()
    with ThreadPoolExecutor(1) as sweeps_and_guards, ThreadPoolExecutor(1) as all_else:
        pools = {
            command: sweeps_and_guards if rule_of(command) in SWEEPS_AND_GUARDS else all_else for command in commands
        }
        yield {command: pool.submit(run, command, clone) for command, pool in pools.items()}
        for pool in (sweeps_and_guards, all_else):
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("command", readme_commands())
def test_it_runs(command, runs):
    done = runs[command].result()
    assert done.status in rule_of(command).statuses, f"{done.line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    if command == "ntp train":
        assert re.findall(r"^step +\d+ +loss ([\d.]+)", done.stdout, re.MULTILINE) == golden_losses()


def test_no_rule_is_without_a_command():
    assert {rule_of(command) for command in readme_commands()} == set(RULES)
