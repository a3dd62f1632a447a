"""A suite that does not use ntp, in an environment where it is installed: it notices nothing of it."""

import json
import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

pytest_plugins = ["pytester"]

# The names are ours, the fixtures are not.
OWN = """
import time
import pytest

@pytest.fixture
def measure():
    def run(function):
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    return run

@pytest.mark.parametrize("case", ["a", "b"])
def test_speed(measure, case, benchmark):
    assert measure(lambda: time.sleep(0.001)) > 0
    benchmark(lambda: None)

def test_plain():
    pass
"""

OWN_CASE = """
import pytest

@pytest.fixture(params=[1, 2])
def case(request):
    return request.param

def pytest_generate_tests(metafunc):
    if "measure" in metafunc.fixturenames:
        metafunc.parametrize("measure", ["m"])

def test_case(case):
    assert case in (1, 2)

def test_both(measure, case):
    assert measure == "m"
"""


def with_and_without_ntp(pytester, *options):
    """What a session prints with ntp and without it, less how long it took and which plugins there are."""

    def lines(*more):
        # Warnings of what is loaded come once, when it is.
        run = pytester.runpytest_subprocess if "-W" in options else pytester.runpytest_inprocess
        out = run("-p", "no:cacheprovider", *options, *more)
        varying = re.compile(r"^plugins:|\bin [\d.]+s\b")
        return out.ret, [line for line in out.outlines if not varying.search(line)], out.errlines

    return lines(), lines("-p", "no:ntp")


def test_fixtures_of_its_own_that_are_called_as_ours(pytester):
    pytester.makepyfile(OWN)
    result = pytester.runpytest_subprocess("--benchmark-json=own.json")
    result.assert_outcomes(passed=3)
    document = json.loads(pytester.path.joinpath("own.json").read_text())
    assert [bench["name"] for bench in document["benchmarks"]] == ["test_speed[a]", "test_speed[b]"]
    for bench in document["benchmarks"]:
        assert bench["stats"]["mean"] > 0
        assert bench["options"]["timer"] == "perf_counter"
    assert "ntp" not in document
    assert not (pytester.path / "reports").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--collect-only", "-q"),
        ("-W", "error", "--strict-markers", "--strict-config"),
        ("--benchmark-disable", "--benchmark-skip"),
        ("-p", "no:benchmark"),
        ("--markers", "-k", "nothing"),
    ],
    ids=" ".join,
)
def test_what_it_prints_is_the_same(pytester, options):
    pytester.makepyfile(OWN_CASE if "no:benchmark" in options or "error" in options else OWN)
    ours, theirs = with_and_without_ntp(pytester, *options)
    if "--markers" in options:
        ours = (ours[0], [line for line in ours[1] if not line.startswith("@pytest.mark.ntp_case")], ours[2])
        ours, theirs = ((ret, [line for line in out if line], err) for ret, out, err in (ours, theirs))
    assert ours == theirs


def test_a_part_of_a_parallel_session(pytester):
    pytester.makepyfile(OWN_CASE)
    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=4)


def test_nothing_is_loaded_for_it(pytester):
    pytester.makepyfile(OWN)
    script = "import sys, pytest; pytest.main(['--co', '-q', *sys.argv[1:]]); print(*sys.modules, sep='\\n')"

    def loaded(*options):
        command = [sys.executable, "-c", script, "-p", "no:cacheprovider", *options]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return {line for line in out.splitlines() if re.fullmatch(r"[\w.]+", line)}

    assert loaded() - loaded("-p", "no:ntp") == {"ntp", "ntp.errors", "ntp.lines", "ntp.pytest_plugin"}


def test_a_case_alone_is_refused_in_one_line(pytester):
    pytester.makepyfile("def test_it(case): pass")
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["ntp's fixture case works only together with its fixture measure: request both"])
    result.stdout.no_fnmatch_line("*Traceback*")
