"""Every committed report is what its raw run makes."""

import re
from pathlib import Path

import pytest

from ntp.judge.compare import Column, compare
from ntp.judge.tuning import winner
from ntp.machine.runtime import environment_variables
from ntp.records.run import Run
from ntp.records.tuning import Tuning
from ntp.report import comparison, profile, sweep_charts, text, tuning
from ntp.report.document import markdown

pytestmark = pytest.mark.long

REPORTS = Path(__file__).parent.parent / "reports"
COMMITTED = [
    folder for folder in REPORTS.iterdir() if folder.name not in {"latest", "glibc", "gpt2", "profile", "baselines"}
]


def words(svg: str) -> list[str]:
    """What a picture says. Where exactly it says so changes with the version of the library that draws."""
    return re.findall(r">([^<>]+)<", svg) + re.findall(r'aria-label="([^"]*)"', svg)


@pytest.mark.parametrize("path", sorted(p for f in COMMITTED for p in f.glob("report.md")), ids=lambda p: p.parent.name)
def test_a_sweep_and_its_reports(path):
    run = Run.load(path.with_name("run.json"))
    pictures = sweep_charts.pictures(run)
    assert path.read_text() == text.markdown(run, pictures)
    assert path.with_name("report.csv").read_text() == text.csv(run)
    assert {file.name for file in path.parent.glob("*.svg")} == pictures.keys()
    for name, picture in pictures.items():
        assert words(path.with_name(name).read_text()) == words(picture)


@pytest.mark.parametrize(
    "path", sorted(p for f in COMMITTED for p in f.glob("profile.md")), ids=lambda p: p.parent.name
)
def test_a_profile_and_its_pictures(path):
    run = Run.load(path.with_name("profile.json"))
    assert path.read_text() == profile.markdown(run)
    pictures = profile.pictures(run)
    assert {file.name for file in path.parent.glob("*.svg")} == {*pictures, "flame.svg"}
    for name, draw in pictures.items():
        assert words(path.with_name(name).read_text()) == words(draw())


def test_two_sweeps_of_identical_code():
    columns = [
        Column.of(name, Run.load(REPORTS / name / "run.json").measurements) for name in ("sweep", "repeatability")
    ]
    assert (REPORTS / "repeatability/comparison.md").read_text() == markdown(comparison.report(compare(columns)))


@pytest.mark.parametrize("path", sorted(REPORTS.glob("tune-*/tune.json")), ids=lambda path: path.parent.name)
def test_a_search(path):
    search = Tuning.load(path)
    best = winner(search)
    # The CPUs are those of the machine that it was made on, if the winner is pinned to any.
    text = path.with_suffix(".md").read_text()
    cpus = [int(cpu) for cpu in "".join(re.findall(r"taskset -c ([\d,]+)", text)).split(",") if cpu]
    variables = environment_variables(best.case.runtime)
    assert text == markdown(tuning.report(search, best, variables, cpus))


INDEX = re.findall(
    r"^\| \[([\w-]+)\]\((\S+)\) \| .*? \| (\S+), (.*?) \| ", (REPORTS / "README.md").read_text(), re.MULTILINE
)


def test_the_index_has_every_report():
    assert sorted(folder for folder, *_ in INDEX) == sorted(folder.name for folder in COMMITTED if folder.is_dir())


@pytest.mark.parametrize(("folder", "page", "day", "machine"), INDEX, ids=[folder for folder, *_ in INDEX])
def test_the_index_says_when_and_where_a_report_was_taken(folder, page, day, machine):
    assert (REPORTS / page).is_file()
    raw = [REPORTS / folder / name for name in ("run.json", "profile.json")]
    taken = [Run.load(path) for path in raw if path.exists()]
    if taken:
        (run,) = taken
        said = f"{run.started} {run.measurements[0].environment.machine.cpu_model}"
    elif (path := REPORTS / folder / "tune.json").exists():
        search = Tuning.load(path)
        said = f"{search.started} {search.machine.cpu_model}"
    else:  # several recordings, each with its own in the page's table of files
        said = (REPORTS / page).read_text()
    assert day in said
    assert machine in said
