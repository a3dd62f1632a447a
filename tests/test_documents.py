"""README and docs: commands exist, links work, and figures are those of the reports."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from ntp.cli import app as cli
from ntp.errors import NtpError

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(start):
    """Every command line in a bash block that starts with a word, as words, with the document's name."""
    for path in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part.split(" > ")[0], comments=True)
                    if words[:1] == [start]:
                        yield pytest.param(words[1:], id=f"{path.name}: {' '.join(words)}")


@pytest.mark.parametrize("words", list(commands("ntp")))
def test_a_command_of_ntp_is_understood(words):
    group = get_command(cli.app)
    name, *arguments = words
    command = group.get_command(group.make_context("ntp", [name]), name)
    command.make_context(name, arguments)  # refuses options and values that there are not


def test_every_option_of_pytest_exists():
    text = subprocess.run([sys.executable, "-m", "pytest", "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    existing = set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", text))
    for parameters in commands("pytest"):
        (words,) = parameters.values
        options = {word.split("=")[0] for word in words if word.startswith("-")}
        assert options <= existing, parameters.id


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "reports/README.md"], ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("error", [NtpError, *NtpError.__subclasses__()], ids=lambda error: error.__name__)
def test_an_error_names_a_section_that_there_is(error):
    page, _, anchor = error.section.partition("#")
    text = (ROOT / "docs" / page).read_text()
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    assert anchor in {"", *(re.sub(r"[^a-z0-9]+", "-", title.lower()) for title in titles)}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path):
    named = re.findall(
        r"`((?:bench|docs|examples|ntp|reports|tests)/[\w./-]+\.(?:py|md|yml|json|gz))`", path.read_text()
    )
    written = ("reports/latest/", "reports/glibc/", "reports/gpt2/", "reports/profile/")
    missing = [name for name in named if not name.startswith(written) and not (ROOT / name).exists()]
    assert not missing


def test_the_readme_can_be_read_in_one_go():
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


def test_the_figures_on_the_guard_are_the_recorded_ones():
    reported = (ROOT / "reports/guard/README.md").read_text()
    section = (ROOT / "docs/guard.md").read_text().split("## How often it is wrong")[1].split("\n## ")[0]
    shares = re.findall(r"[\d.]+%(?= \|)", section)
    assert len(shares) == 5
    assert all(share in reported for share in shares)
    seconds = re.findall(r"[\d]+ s\b", " ".join(section.split()))
    assert len(seconds) == 3
    assert all(time in reported for time in seconds)


def test_the_figures_on_pairing_are_the_recorded_ones():
    section = (
        (ROOT / "docs/method.md").read_text().split("What the ways of pairing are worth")[1].split("**Two clocks")[0]
    )
    rows = re.findall(r"^\| (\d+) x (\d+), (one|two) thread.*?((?: \| [\d.]+){4}) \|$", section, re.MULTILINE)
    assert len(rows) == 4
    reported = (ROOT / "reports/guard/README.md").read_text()
    for batch_size, seq_len, threads, figures in rows:
        case = f"simple-b{batch_size}-s{seq_len}-{'t1' if threads == 'one' else 't2-passive'}"
        arms = re.findall(rf"^\| `{case}` .*?\d+ \|[^|]*s \|[^|]*\|\s*([\d.]+) \|", reported, re.MULTILINE)
        assert figures.split(" | ")[1:] == arms


def test_the_figures_on_races_are_the_recorded_ones():
    section = (ROOT / "docs/race.md").read_text().split("## Is the new torch slower?")[1]
    reported = (ROOT / "reports/race/README.md").read_text()
    section = " ".join(section.split())
    ratios = re.findall(r"([\d.]+) times as long on \w+(?: thread)? \(([\d.]+) to ([\d.]+)\)", section)
    assert len(ratios) == 2
    assert all(f"takes {ratio} times as long ({low} to {high}) (" in reported for ratio, low, high in ratios)
    readme = " ".join((ROOT / "README.md").read_text().split())
    ((named, left),) = re.findall(
        r"Of 100 races of a case against itself, .*? (\d+) named a winner, and (\d+) were left open", readme
    )
    assert f"Of 100 races of a case against itself, {named} named a winner" in reported
    assert f"and {left} were left open" in reported
    ties = re.findall(r"\((\d+) pairs\)", section)
    assert len(ties) == 2
    assert all(f"are equally fast, to 1% ({pairs} pairs" in reported for pairs in ties)


def test_the_figures_on_speed_are_the_recorded_ones():
    section = (ROOT / "README.md").read_text().split("### Tune")[1].split("\n### ")[0]
    figures = re.findall(r"[\d.]+\s\([\d.]+\sto\s[\d.]+\)", section)
    assert len(figures) >= 3
    reported = (ROOT / "reports/fastest/README.md").read_text()
    assert all(" ".join(figure.split()) in reported for figure in figures)
