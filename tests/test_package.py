"""The wheel contains everything that is needed, and works without a checkout."""

import os
import pwd
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ntp.machine.software import tested_with

ROOT = Path(__file__).parent.parent

MODEL = """\
import torch

def make(vocab_size):
    return torch.nn.Sequential(torch.nn.Embedding(vocab_size, 8), torch.nn.Linear(8, vocab_size))
"""

# What the machine is capable of takes seconds to measure, and is no matter of where ntp is installed.
CONFTEST = """\
import ntp.sweep
from ntp.records.peaks import MachinePeaks

ntp.sweep.measure_peaks = lambda threads, **_: MachinePeaks(machine="m", software="s")
"""

BENCHMARK = """\
def test_train_step(measure, case):
    measure(case)
"""


def run(*command, **options):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from the source distribution: what is missing in either is missing here."""
    folder = tmp_path_factory.mktemp("wheel")
    # It downloads setuptools: as pip's settings in the user's own home say, wherever HOME points.
    home = os.environ | {"HOME": pwd.getpwuid(os.getuid()).pw_dir}
    run("-m", "build", ROOT, "--outdir", folder, env=home)
    (path,) = folder.glob("ntp-*.whl")
    return path


@pytest.mark.long
def test_what_is_no_module_is_in_it_too(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {"ntp/py.typed", "ntp/constraints.txt", "ntp/report/templates/base.html"} <= set(names)
    assert all(name.split("/")[0] == "ntp" or ".dist-info/" in name for name in names)


@pytest.mark.long
@pytest.mark.worker
def test_it_works_in_an_unrelated_repository_with_a_model_of_its_own(wheel, tmp_path):
    installed, repository = tmp_path / "installed", tmp_path / "repository"
    run("-m", "pip", "install", wheel, "--no-deps", "--no-compile", "--quiet", "--target", installed)
    repository.mkdir()
    (repository / "model.py").write_text(MODEL)
    (repository / "conftest.py").write_text(CONFTEST)
    (repository / "test_speed.py").write_text(BENCHMARK)
    where = {"cwd": repository, "env": os.environ | {"PYTHONPATH": str(installed)}}
    assert run("-c", "import ntp; print(ntp.__file__)", **where).startswith(str(installed))
    assert "10 steps" in run("-m", "ntp", "train", "--steps", 10, "--batch-size", 2, "--seq-len", 8, **where)
    sizes = ("--ntp-threads", 1, "--ntp-batch-sizes", 2, "--ntp-seq-lens", 8, "--ntp-sample-time", 0.1)
    out = run("-m", "pytest", "--benchmark-only", "--ntp-model", "model.py:make", *sizes, **where)
    assert "Fastest: model.py:make-b2-s8-t1" in out
    written = {path.name for path in (repository / "reports/latest").iterdir()}
    assert written >= {"run.json", "report.html", "report.md", "report.csv", "throughput.svg"}


def test_what_is_tested_is_what_the_package_needs_and_its_metadata_caps_nothing():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [Requirement(need) for need in (*project["dependencies"], *(r for name in extras for r in extras[name]))]
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert {need.name for need in pins} == {need.name for need in needed} - {"ntp", "jax"}
    assert all(specifier.operator == ">=" for need in needed for specifier in need.specifier)
    tested = {requirement.name: next(iter(requirement.specifier)).version for requirement in pins}
    assert all(
        requirement.specifier.contains(tested[requirement.name]) for requirement in needed if requirement.name in tested
    )
    assert tested["torch"] == tested_with("torch")
