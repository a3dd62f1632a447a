"""``ntp profile``, with a runner that yields what a test gives it."""

import pytest

from ntp.case import Case, Runtime
from ntp.cli import exit_status
from ntp.machine.cpus import available_cpus
from ntp.records.run import Failure, Run
from ntp.report.profile import markdown, pictures, terminal


@pytest.fixture
def profiled(call, monkeypatch, tmp_path):
    """``profiled(runs, *arguments)``: the command with a runner that yields these runs, and what it was asked for."""

    def profile(runs, *arguments):
        asked = []

        def runner(*cases, **options):
            asked.append((*cases, options))
            yield from runs

        monkeypatch.setattr("ntp.runners.profile.profile", runner)
        return call("profile", "--out", tmp_path / "out", *arguments), asked

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


def test_a_profile_that_cannot_be_written_is_refused_before_it_starts(call, tmp_path):
    (tmp_path / "file").write_text("")
    result = call("profile", "--threads", 1, "--out", tmp_path / "file" / "out")
    assert (result.status, result.out) == (exit_status.USAGE, "")
    assert result.err.startswith(f"ntp: error: {tmp_path}/file/out/profile.json cannot be written (Not a directory): ")
