import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntp.core.products import medium_precision
from ntp.errors import OptionError, WorkerFailed
from ntp.observe.probe import Answer, GemmRoute, Request, gemm_routes, measure_streams
from ntp.records.environment import Cache, Counters, Machine, Software
from ntp.records.peaks import FP32_ERROR, MachinePeaks, Skipped
from ntp.runners.roofline import (
    Probe,
    measure_peaks,
    setting_for,
    steering_variables,
    stream_array_bytes,
)
from ntp.worker.launch import new_process

MIB = 2**20
SHAPE = (8, 16, 32)

FAKE_PROBE = """
import json, os, sys
request = json.loads(sys.stdin.readline())
with open({log!r}, "a") as log:
    print(json.dumps([request, dict(os.environ)]), file=log)
if request["threads"] == {fails_at}:
    sys.exit(3)
print(json.dumps({{"ok": {{
    "products": [
        {{"dtype": "fp32", "route": "default", "library": "mkl", "shape": s, "error": 0, "time_ns": [{time_ns}]}}
        for s in request["shapes"]
    ],
    "streams": [{{"kernel": "copy", "array_bytes": request["array_bytes"], "time_ns": [5]}}]
    if request["array_bytes"] else [],
    "skipped": [],
}}}}))
"""


class FakeProbe:
    """A fake probe and the log of what it was asked, and of the environment it was asked in."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        self.folder = folder / "cache"
        self._script = folder / "probe.py"
        self.now_takes(10)

    def now_takes(self, time_ns: int) -> None:
        self._write(time_ns, None)

    def fails_at(self, threads: int | None) -> None:
        self._write(10, threads)

    def _write(self, time_ns: int, fails_at: int | None) -> None:
        self._script.write_text(FAKE_PROBE.format(log=str(self._log), time_ns=time_ns, fails_at=fails_at))

    @property
    def calls(self) -> list:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    def measure(self, threads=(1,), shapes=(SHAPE,), **options) -> MachinePeaks:
        defaults = {
            "square": 64,
            "folder": self.folder,
            "machine": Machine(cpu_model="a"),
            "software": Software(torch="1"),
            "launch": partial(new_process, command=(sys.executable, "-I", "-S", str(self._script))),
        }
        return measure_peaks(threads, shapes, **(defaults | options))


@pytest.fixture
def probe(tmp_path, monkeypatch) -> FakeProbe:
    # What else this machine does meanwhile is of no concern here.
    monkeypatch.setattr("ntp.runners.roofline.read_counters", lambda cpus: Counters())
    return FakeProbe(tmp_path)


class TestCache:
    def test_a_process_for_each_thread_count_then_none(self, probe):
        said = []
        first = probe.measure([1, 2], progress=said.append)
        again = probe.measure([1, 2], progress=said.append)
        assert [request["threads"] for request, _ in probe.calls] == [1, 2]
        assert said == [
            "measuring this machine's peak with 1 thread",
            "measuring this machine's peak with 2 threads",
        ]
        assert first == again
        assert first.warnings == ()
        assert [peaks.setting.threads for peaks in first.by_threads] == [1, 2]
        assert first.by_threads[0].shapes == {SHAPE, (64, 64, 64)}

    def test_only_what_is_missing_is_measured(self, probe):
        probe.measure([1])
        probe.now_takes(20)
        other = (1, 2, 3)
        both = probe.measure([2, 1], (SHAPE, other))
        requests = [request for request, _ in probe.calls]
        assert [request["threads"] for request in requests] == [1, 2, 1]
        assert requests[2]["shapes"] == [list(other)]
        assert requests[2]["array_bytes"] is None
        at_one = both.at(1)
        assert at_one is not None
        assert {p.shape: p.best_ns for p in at_one.products} == {SHAPE: 10, (64, 64, 64): 10, other: 20}
        assert at_one.streams
        assert both.shapes == (SHAPE, other)

    def test_the_answer_holds_only_what_was_asked(self, probe):
        probe.measure([1, 2], ((1, 2, 3),))
        peaks = probe.measure([2])
        assert [item.setting.threads for item in peaks.by_threads] == [2]
        assert peaks.by_threads[0].shapes == {SHAPE, (64, 64, 64)}

    def test_refresh_measures_again_and_replaces(self, probe):
        probe.measure()
        probe.now_takes(20)
        refreshed = probe.measure(refresh=True)
        assert len(probe.calls) == 2
        assert {p.best_ns for p in refreshed.by_threads[0].products} == {20}
        assert probe.calls[1][0]["array_bytes"]
        assert probe.measure() == refreshed
        assert len(probe.calls) == 2

    def test_what_cannot_be_used_is_measured_again(self, probe):
        whole = probe.measure()
        (file,) = probe.folder.iterdir()
        file.write_text("{")
        assert probe.measure() == whole
        assert len(probe.calls) == 2
        assert MachinePeaks.model_validate_json(file.read_text()).by_threads

    @pytest.mark.parametrize("other", [{"machine": Machine(cpu_model="b")}, {"software": Software(torch="2")}])
    def test_another_machine_or_software_has_its_own_file(self, probe, other):
        probe.measure()
        probe.measure(**other)
        assert len(probe.calls) == 2
        assert len(list(probe.folder.iterdir())) == 2

    def test_variables_that_steer_a_library_are_another_setting(self, probe, monkeypatch):
        probe.measure()
        monkeypatch.setenv("MKL_CBWR", "AVX2")
        assert probe.measure().by_threads[0].setting.variables == (("MKL_CBWR", "AVX2"),)
        assert len(probe.calls) == 2

    def test_a_folder_that_cannot_be_written_is_a_warning(self, probe, tmp_path):
        (tmp_path / "file").write_text("")
        peaks = probe.measure([1, 2], folder=tmp_path / "file")
        assert len(peaks.by_threads) == 2
        (warning,) = peaks.warnings
        assert "not kept" in warning

    def test_what_was_measured_before_a_failure_is_kept(self, probe):
        probe.fails_at(2)
        with pytest.raises(WorkerFailed, match="the peak with 2 threads"):
            probe.measure([1, 2, 3])
        probe.fails_at(None)
        probe.measure([1, 2, 3])
        assert [request["threads"] for request, _ in probe.calls] == [1, 2, 2, 3]


class TestDisturbance:
    """The CPUs count 10 s; a probe that is a fake uses next to none of them."""

    @pytest.fixture
    def busy(self, monkeypatch):
        def counters(idle_s: float, steal_s: float = 0.0) -> None:
            readings = [
                Counters(total_s=0, idle_s=0, steal_s=0),
                Counters(total_s=10, idle_s=idle_s, steal_s=steal_s),
            ]
            monkeypatch.setattr("ntp.runners.roofline.read_counters", lambda cpus: readings.pop(0))

        return counters

    def test_busy_cpus_are_a_warning_each_time_until_measured_again(self, probe, busy):
        busy(idle_s=5, steal_s=2)
        peaks = probe.measure()
        (warning,) = peaks.warnings
        assert peaks.by_threads[0].other_cpu_share == pytest.approx(0.5, abs=0.05)
        assert "the peak with 1 thread was measured while other processes or guests used" in warning
        assert probe.measure().warnings == (warning,)
        busy(idle_s=9.8)
        assert probe.measure(refresh=True).warnings == ()
        assert probe.measure().warnings == ()

    def test_unknown_is_no_warning(self, probe):
        peaks = probe.measure()
        assert peaks.warnings == ()
        assert peaks.by_threads[0].other_cpu_share is None


class TestSetting:
    def test_the_probe_runs_in_the_default_runtime(self, probe, monkeypatch):
        monkeypatch.setenv("OMP_PROC_BIND", "true")
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
        monkeypatch.setenv("OMP_NUM_THREADS", "17")
        probe.measure([2])
        request, environ = probe.calls[0]
        assert environ["OMP_NUM_THREADS"] == environ["MKL_NUM_THREADS"] == "2"
        assert not {"OMP_WAIT_POLICY", "OMP_PROC_BIND"} & environ.keys()
        assert request["cpus"] == (None if (cpus := setting_for(2).cpus) is None else list(cpus))

    def test_variables(self):
        environ = {
            "MKL_CBWR": "1",
            "ONEDNN_VERBOSE": "1",
            "MKL_NUM_THREADS": "4",
            "HOME": "h",
            "ATEN_CPU_CAPABILITY": "d",
        }
        assert steering_variables(environ) == (("ATEN_CPU_CAPABILITY", "d"), ("MKL_CBWR", "1"))

    @pytest.mark.parametrize("wrong", [{"threads": [1, 0]}, {"shapes": [(1, 0, 1)]}, {"square": 0}])
    def test_nonsense_is_refused_before_anything_is_measured(self, probe, wrong):
        with pytest.raises(OptionError):
            probe.measure(**wrong)
        assert probe.calls == []

    def test_arrays_are_four_times_the_last_level_cache_that_the_threads_reach(self):
        caches = (
            Cache(level=1, size_bytes=32 * 1024, instances=8),
            Cache(level=2, size_bytes=MIB, instances=8),
            Cache(level=3, size_bytes=32 * MIB, instances=2),
        )
        plenty = 10**12
        assert [stream_array_bytes(caches, threads, plenty) for threads in (1, 2, 8)] == [
            128 * MIB,
            256 * MIB,
            256 * MIB,
        ]

    def test_arrays_of_a_machine_without_third_level_or_known_caches(self):
        plenty = 10**12
        assert stream_array_bytes((Cache(level=2, size_bytes=12 * MIB, instances=2),), 1, plenty) == 48 * MIB
        assert stream_array_bytes(None, 1, plenty) == stream_array_bytes((), 1, plenty) == 64 * MIB

    @given(st.integers(0, 2**45), st.integers(1, 2**30), st.integers(1, 64))
    def test_three_arrays_always_fit_into_half_the_memory(self, available, cache_bytes, threads):
        caches = (Cache(level=3, size_bytes=cache_bytes, instances=4),)
        size = stream_array_bytes(caches, threads, available)
        assert size % 4 == 0
        assert size >= 8 * MIB
        assert size == 8 * MIB or 3 * size <= available / 2


def test_a_probe_that_fails_is_told_of_by_its_threads():
    body = "import sys; print('boom', file=sys.stderr); sys.exit(3)"
    launch = partial(new_process, command=(sys.executable, "-I", "-S", "-c", body))
    with Probe(2, launch=launch) as probe, pytest.raises(WorkerFailed) as failure:
        probe.peaks(Request(threads=2))
    assert str(failure.value) == (
        "the peak with 2 threads could not be measured: the worker ended with exit status 3 while measuring peaks"
    )
    assert failure.value.stderr_tail == "boom"


class TestRoutes:
    def test_every_route_is_there_or_says_why_not(self):
        routes = list(gemm_routes())
        assert [(route.dtype, route.route) for route in routes] == [
            ("fp32", "default"),
            ("fp32", "onednn"),
            ("fp32", "medium"),
            ("bf16", "default"),
        ]
        assert all(route.reason for route in routes if isinstance(route, Skipped))
        assert isinstance(routes[0], GemmRoute)

    def test_routes_multiply(self):
        for route in gemm_routes():
            if isinstance(route, GemmRoute):
                exact = (route.dtype, route.route) in {("fp32", "default"), ("fp32", "onednn")}
                assert 0 < route.error() < (FP32_ERROR if exact else 2e-2)

    def test_without_onednn_its_routes_are_skipped(self, monkeypatch):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        default, *others = gemm_routes()
        assert isinstance(default, GemmRoute)
        assert {other.reason for other in others if isinstance(other, Skipped)} == {"torch was built without oneDNN"}
        assert all(isinstance(other, Skipped) for other in others)

    def test_an_operator_that_torch_refuses_is_skipped_with_its_words(self, monkeypatch):
        def refuse(*_):
            raise NotImplementedError("Could not run it\nbackend list")

        monkeypatch.setattr("ntp.observe.probe._through_onednn", refuse)
        skipped = [route for route in gemm_routes() if isinstance(route, Skipped) and route.route == "onednn"]
        assert skipped or not torch.backends.mkldnn.is_available()
        assert all(route.reason.endswith("Could not run it") for route in skipped)

    def test_medium_is_put_back(self):
        before = torch.get_float32_matmul_precision()
        inside = []

        def fail() -> None:
            with medium_precision():
                inside.append(torch.get_float32_matmul_precision())
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert inside == ["medium"]
        assert torch.get_float32_matmul_precision() == before != "medium"

    def test_streams(self):
        copy, triad = measure_streams(4 * 1000, 0.0)
        assert (copy.kernel, triad.kernel) == ("copy", "triad")
        assert copy.array_bytes == triad.array_bytes == 4000
        assert min(len(copy.time_ns), len(triad.time_ns)) >= 2

    @pytest.mark.worker
    def test_the_real_probe_answers(self, monkeypatch):
        monkeypatch.setenv("ONEDNN_VERBOSE", "1")  # chatter on standard output must not spoil the answer
        request = Request(
            threads=1,
            shapes=(SHAPE,),
            array_bytes=4096,
            products_budget_s=0.0,
            streams_budget_s=0.0,
            cpus=setting_for(1).cpus,
        )
        with Probe(1) as probe:
            answer = probe.peaks(request)
        assert {product.shape for product in answer.products} == {SHAPE}
        assert len(answer.products) + len(answer.skipped) == 4
        assert len(answer.streams) == 2
        assert Answer.model_validate_json(answer.model_dump_json()) == answer
