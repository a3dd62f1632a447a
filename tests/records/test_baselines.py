"""Stored baselines: which runs become one, and where."""

import json

import pytest

from ntp.errors import RecordError
from ntp.records.baselines import load_baselines, save_baseline
from ntp.records.run import Failure, Run


def test_a_baseline_is_the_run_under_the_name_of_its_machine_and_software(make_measurement, make_run, tmp_path):
    run = make_run(make_measurement(), make_measurement("simple-b8-s64-t2"))
    path = save_baseline(run, tmp_path / "deep" / "baselines")
    environment = run.measurements[0].environment
    assert path.name == f"{environment.machine.fingerprint}-{environment.software.fingerprint}.json"
    assert Run.load(path) == run
    assert load_baselines(path.parent) == {path: run}


def test_a_newer_baseline_takes_the_place_of_the_old_one_of_its_machine_alone(make_measurement, make_run, tmp_path):
    here = make_measurement()
    there = make_measurement(machine=here.environment.machine.model_copy(update={"logical_cpus": 96}))
    first, second = make_run(here), make_run(here, wall_time_s=7.0)
    paths = [save_baseline(run, tmp_path) for run in (first, make_run(there), second)]
    assert paths[0] == paths[2] != paths[1]
    assert load_baselines(tmp_path)[paths[0]] == second
    assert len(load_baselines(tmp_path)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"failures": (Failure(case_id="simple-b1-s1-t1", message="killed"),)},
            r"a failed run .*\(simple-b1-s1-t1\)",
        ),
        ({"planned": 3}, "cases never run: 2"),
        ({"measurements": (), "planned": 0}, "this run has 0"),
    ],
)
def test_a_run_that_is_not_whole_is_refused_and_writes_nothing(make_measurement, make_run, tmp_path, changes, message):
    run = make_run(make_measurement())
    with pytest.raises(RecordError, match=message) as refusal:
        save_baseline(Run.model_validate({**dict(run), **changes}), tmp_path)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_two_machines_is_refused(make_measurement, make_run, tmp_path):
    here = make_measurement()
    there = make_measurement(software=here.environment.software.model_copy(update={"torch": "3.0"}))
    with pytest.raises(RecordError, match="needs one machine and one software, this run has 2"):
        save_baseline(make_run(here, there), tmp_path)


def test_a_refused_run_leaves_the_old_baseline(make_measurement, make_run, tmp_path):
    good = make_run(make_measurement())
    path = save_baseline(good, tmp_path)
    with pytest.raises(RecordError):
        save_baseline(make_run(make_measurement(), planned=2), tmp_path)
    assert load_baselines(tmp_path) == {path: good}


def test_folders_that_hold_none_or_are_not_there(tmp_path):
    (tmp_path / "notes.md").write_text("not a run")
    assert load_baselines(tmp_path) == {}
    with pytest.raises(
        RecordError, match=r"none is not a folder .*: create it with ntp baseline RUN.json --out .*none"
    ):
        load_baselines(tmp_path / "none")
    (tmp_path / "notes.json").write_text(json.dumps({"benchmarks": []}))
    with pytest.raises(RecordError, match=r"notes\.json was not written by ntp"):
        load_baselines(tmp_path)
