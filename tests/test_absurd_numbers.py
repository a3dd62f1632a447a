"""Files with a number that cannot be: refused by name when they are read, or else good for every report."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ntp.case import StepConfig, Workload
from ntp.cli.app import main
from ntp.core import checkpoint as checkpoints
from ntp.core.predict import load_trained
from ntp.core.train import TrainingRun
from ntp.errors import CheckpointError, RecordError
from ntp.judge.tuning import winner
from ntp.machine.runtime import environment_variables
from ntp.records.environment import Conditions, CoreKind, Process
from ntp.records.flame import Flame
from ntp.records.guard import GuardRecord
from ntp.records.pairs import Preparation
from ntp.records.peaks import MachinePeaks
from ntp.records.run import CalibrationKernel, Run, WarmUp
from ntp.records.run_file import document_of
from ntp.records.tuning import Lever, Race, Tuning
from ntp.report import profile, tuning
from ntp.report.document import markdown, terminal

pytestmark = pytest.mark.long

NEVER = (
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "-1" + "0" * 5000,
    "NaN",
    "Infinity",
    "-Infinity",
    "-256",
    "1e308",
    "-1e308",
)
"""As they stand in a file: no field of any record can have such a value."""

PERHAPS = ("-1", "0", "0.5", "1", "5e-324", "1e-9", str(2**31), str(2**63 - 1), str(2**63), "4.6e18", '"x"', "null")
"""What some fields can have and others not."""


def leaves(value, path=()):
    """The path of every number."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def kinds_of(document):
    """One path of each field: the first."""
    return list(
        {tuple(key for key in path if isinstance(key, str)): path for path in reversed([*leaves(document)])}.values()
    )


def text_with(document, path, raw):
    """The document as text, with something else in one place."""
    changed = deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "@"
    return json.dumps(changed).replace('"@"', raw)


@pytest.fixture(scope="module")
def run(make_measurement, make_run, make_observations, make_peaks):
    conditions = Conditions(steal_share=0.01, other_cpu_share=0.02, throttled_s=0.5, throttled_periods=3, load_1min=0.7)
    process = Process(affinity=(0, 1), quota_cpus=1.5, torch_threads=1, torch_interop_threads=1)
    flame = Flame(speedscope="flame.json", svg="flame.svg", samples=3, errors=1, rate_hz=100)
    measurements = []
    for case_id in ("simple-b8-s64-t2", "simple-b8-s64-t1", "simple-b8-s64-t2-forward"):
        whole = not case_id.endswith("forward")
        observations = {"observations": make_observations(flame=flame)} if whole else {}
        warm_up = WarmUp(
            step_time_ns=(30_000_000,), wall_time_ns=30_000_000, steady=True, compiling_step_ns=(5_000_000,)
        )
        plain = make_measurement(
            case_id,
            levels=(1.0, 1.01),
            warm_up=warm_up,
            calibration_kernel=CalibrationKernel(shape=(2, 3, 4), bursts_ns=((5, 6), (7, 8))),
            conditions=conditions,
            **observations,
        )
        environment = plain.environment
        kinds = (CoreKind(name="performance", capacity=1024, max_frequency_mhz=3000, cpus=2),)
        machine = environment.machine.model_copy(update={"numa_nodes": 1, "core_kinds": kinds})
        environment = environment.model_copy(update={"machine": machine, "process": process})
        measurements.append(plain.model_copy(update={"environment": environment}))
    peaks = make_peaks(fp32=300.0, onednn=400.0, bf16=600.0, workload=measurements[0].case.workload)
    (at_threads,) = peaks.by_threads
    setting = at_threads.setting.model_copy(update={"cpus": (0, 1), "quota_cpus": 1.5})
    at_threads = at_threads.model_copy(update={"setting": setting, "other_cpu_share": 0.02})
    search = {
        "rounds": 2,
        "precision": 0.01,
        "budget_s": 60.0,
        "plain": make_measurement("simple-b8-s64-t2-glibc-free"),
    }
    run = make_run(*measurements, **search, peaks=peaks.model_copy(update={"by_threads": (at_threads,)}))
    assert MachinePeaks.model_validate(run.peaks.model_dump()) == run.peaks
    return run


class Documents(dict):
    """Files by kind. A test that fails is shown by hypothesis with its arguments, these among them: in a word."""

    def __repr__(self):
        return "documents"


@pytest.fixture(scope="module")
def documents(run, make_guard_record, make_guarded):
    """A file of each kind, in which every field of its records that can be a number is one."""
    cells = make_guarded(), make_guarded("simple-b8-s64-t1", log_ratio=0.05)
    guarded = make_guard_record(*cells)
    prepared = Preparation(command="make", status=0, output="", wall_time_s=1.5)
    guarded = guarded.model_copy(update={"head": guarded.head.model_copy(update={"preparation": prepared})})
    of_run = json.loads(json.dumps(document_of(run)))
    for bench in of_run["benchmarks"]:  # pytest-benchmark's own, which ntp does not read
        del bench["stats"], bench["params"]
    races = [
        Race(purpose=purpose, case_id=case_id, against=against, outcome="raced", pairs=cells[0].pairs[:3])
        for purpose, case_id, against in (
            ("search", "simple-b32-s128-t1", "simple-b32-s128-t2"),
            ("final", "simple-b32-s128-t2", "simple-b32-s128-t2"),
        )
    ]
    races.append(races[0].model_copy(update={"outcome": "pruned", "pace": 1.5, "peak_rss_bytes": 2**20, "pairs": ()}))
    search = Tuning(
        started="2025-01-02T03:04:05+00:00",
        wall_time_s=12.5,
        command=("ntp", "tune"),
        default="simple-b32-s128-t2",
        levers=(Lever(field="threads", values=("1",)),),
        budget_s=60,
        memory_limit_bytes=2**30,
        seed=0,
        machine=guarded.machine,
        races=tuple(races),
    )
    return Documents(run=of_run, guard=json.loads(guarded.text({})), tune=search.model_dump(mode="json"))


LOAD = {"run": Run.load, "guard": GuardRecord.load, "tune": Tuning.load}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, documents):
    folder = tmp_path_factory.mktemp("absurd")
    (folder / "good.json").write_text(json.dumps(documents["run"]))
    return folder


def assert_names_field(refused, path):
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 500
    assert any(name in message or name.replace("_", " ") in message for name in path if isinstance(name, str))


@pytest.mark.parametrize("kind", LOAD)
def test_a_number_that_no_field_can_have_is_refused_by_the_field_when_the_file_is_read(documents, folder, kind):
    file = folder / "bad.json"
    fields = kinds_of(documents[kind])
    assert len(fields) > {"run": 90, "guard": 20, "tune": 15}[kind]
    for path in fields:
        for raw in NEVER:
            file.write_text(text_with(documents[kind], path, raw))
            with pytest.raises(RecordError) as refused:
                LOAD[kind](file)
            (*_, name) = (key for key in path if isinstance(key, str))
            assert_names_field(refused, (name,))


def command(*arguments, statuses):
    """Run a command: it must end well, and say nothing of a number that is none."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([*map(str, arguments)])
    assert status in statuses, (arguments, err.getvalue())
    assert "Traceback" not in err.getvalue()
    if "html" not in arguments:
        assert " nan" not in out.getvalue()


def report_run(bad, good):
    for form in ("markdown", "csv", "json", "html"):
        command("report", bad, "--format", form, statuses={0})
    for form in ("terminal", "markdown", "csv", "html"):
        command("compare", good, bad, "--format", form, statuses={0, 4})
    command("compare", bad, good, statuses={0, 4})
    command("compare", bad, "--by", "threads", statuses={0, 2, 4})
    for pair in ((good, bad), (bad, good)):
        command("compare", "--gate", *pair, statuses={0, 1, 3, 4})
    command("baseline", bad, "--out", bad.with_name("baselines"), statuses={0, 2})
    loaded = Run.load(bad)
    profile.markdown(loaded)
    profile.terminal(loaded)


def report_guard(bad, _good):
    command("guard", "--replay", bad, statuses={0, 1, 3, 4})


def report_tune(bad, _good):
    search = Tuning.load(bad)
    best = winner(search)
    report = tuning.report(search, best, environment_variables(best.case.runtime), (0, 1))
    assert markdown(report)
    assert terminal(report)


REPORTS = {"run": report_run, "guard": report_guard, "tune": report_tune}


@settings(max_examples=30, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["run", "run", "run", "guard", "tune"]),
    place=st.integers(0, 999),
    raw=st.sampled_from(PERHAPS),
)
def test_a_file_is_refused_by_the_field_or_good_for_every_report(documents, folder, kind, place, raw):
    fields = kinds_of(documents[kind])
    path = fields[place % len(fields)]
    bad, good = folder / "bad.json", folder / "good.json"
    bad.write_text(text_with(documents[kind], path, raw))
    try:
        LOAD[kind](bad)
    except RecordError:
        with pytest.raises(RecordError) as refused:
            LOAD[kind](bad)
        assert_names_field(refused, path)
    else:
        REPORTS[kind](bad, good)


@pytest.mark.parametrize(
    ("field", "value"),
    [("self_time_ns_per_step", 5e-324), ("moved_bytes_per_step", 5e-324), ("allocated_bytes_per_step", 2**63 - 1)],
)
def test_operators_at_the_ends_of_what_a_field_can_have_are_good_for_every_report(documents, folder, field, value):
    document = deepcopy(documents["run"])
    for bench in document["benchmarks"]:
        observations = bench["extra_info"]["ntp"]["observations"]
        for operator in (observations["operators"] or {"operators": []})["operators"]:
            operator[field] = value
    bad = folder / "bad.json"
    bad.write_text(json.dumps(document))
    report_run(bad, folder / "good.json")


def test_step_times_that_no_two_runs_of_a_pair_can_have_are_refused(documents, folder):
    path = ("cases", 0, "pairs", 0, "blocks", 0, "step_time_ns", 0)
    (folder / "bad.json").write_text(text_with(documents["guard"], path, str(2**63 - 1)))
    with pytest.raises(
        RecordError, match=r"cases.0.pairs.0: no step_time_ns can be \d+ where another is 9223372036854775807"
    ):
        GuardRecord.load(folder / "bad.json")


WORKLOAD = Workload(vocab_size=7, embed_dim=2, hidden_dim=3, batch_size=2, seq_len=3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint's folder, and what lies in the file."""
    folder = tmp_path_factory.mktemp("checkpoint")
    list(TrainingRun(WORKLOAD, StepConfig(), folder).run(2))
    return folder, torch.load(folder / checkpoints.FILE_NAME, weights_only=True)


@pytest.mark.parametrize("use", [lambda folder: TrainingRun(WORKLOAD, StepConfig(), folder), load_trained])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("step", value) for value in (-1, 10**400, 2**63, "2", 2.0, True, None, float("nan"), float("inf"))],
        *[(field, value) for field in ("model", "optimizer") for value in (None, 3, [], "x")],
        *[(field, value) for field in ("global_rng", "data_rng") for value in (None, 3, "x")],
        *[(field, ...) for field in ("step", "model", "optimizer", "global_rng", "data_rng")],
        ("surplus", 1),
    ],
)
def test_a_checkpoint_with_a_field_that_cannot_be_is_refused_by_the_field(saved, use, field, value):
    folder, content = saved
    changed = {name: part for name, part in {**content, field: value}.items() if part is not ...}
    torch.save(changed, folder / checkpoints.FILE_NAME)
    with pytest.raises(CheckpointError, match=f"is damaged: {field}: ") as refused:
        use(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("number", [0, -1, 10**400])
def test_a_checkpoint_of_a_case_that_cannot_be_is_refused_by_the_field(saved, number):
    folder, content = saved
    config = json.loads(content["config"])
    config["workload"]["batch_size"] = number
    torch.save({**content, "config": json.dumps(config)}, folder / checkpoints.FILE_NAME)
    with pytest.raises(CheckpointError, match=r"is damaged: workload.batch_size: "):
        load_trained(folder)
