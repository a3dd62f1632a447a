import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ntp.case import Workload
from ntp.records.peaks import (
    MachinePeaks,
    Product,
    RooflinePoint,
    Setting,
    Shape,
    Skipped,
    Stream,
    ThreadPeaks,
    attainable_flops_per_s,
    gemm_flops,
    gemm_shapes,
    matmul_advice,
    ridge_flops_per_byte,
)

SQUARE = (1000, 1000, 1000)
rates = st.floats(1e6, 1e15)
amounts = st.floats(1, 1e15)


def product(gflops: float, route: str = "default", dtype: str = "fp32", shape: Shape = SQUARE, **fields) -> Product:
    """One whose best sample has the given rate; the other sample is slower."""
    time_ns = round(gemm_flops(shape) / gflops)
    library = "mkl" if (dtype, route) == ("fp32", "default") else "onednn"
    defaults = {"library": library, "error": 1e-7, "time_ns": (2 * time_ns, time_ns)}
    return Product(dtype=dtype, route=route, shape=shape, **(defaults | fields))


def thread_peaks(*products: Product, threads: int = 1, **fields) -> ThreadPeaks:
    return ThreadPeaks(setting=Setting(threads=threads), products=products, **fields)


def machine_peaks(*by_threads: ThreadPeaks, **fields) -> MachinePeaks:
    return MachinePeaks(machine="m", software="s", by_threads=by_threads, **fields)


def advice(*products: Product, **fields) -> str | None:
    return matmul_advice(machine_peaks(thread_peaks(*products), **fields))


class TestArithmetic:
    @given(rates, rates, rates)
    def test_the_roof_is_the_lower_of_its_two_lines(self, intensity, peak, bandwidth):
        roof = attainable_flops_per_s(intensity, peak, bandwidth)
        assert roof <= peak
        assert roof <= intensity * bandwidth
        assert roof in (peak, intensity * bandwidth)

    @given(rates, rates)
    def test_the_lines_meet_at_the_ridge(self, peak, bandwidth):
        ridge = ridge_flops_per_byte(peak, bandwidth)
        assert attainable_flops_per_s(ridge, peak, bandwidth) == pytest.approx(peak)
        assert attainable_flops_per_s(ridge / 2, peak, bandwidth) == pytest.approx(peak / 2)
        assert attainable_flops_per_s(ridge * 2, peak, bandwidth) == peak

    @given(amounts, amounts, st.floats(1e-9, 1e6), rates, rates)
    def test_a_points_figures_agree_with_each_other(self, flops, bytes_moved, time_s, peak, bandwidth):
        point = RooflinePoint(
            flops=flops,
            bytes_moved=bytes_moved,
            time_s=time_s,
            peak_flops_per_s=peak,
            bandwidth_bytes_per_s=bandwidth,
        )
        assert point.share_of_roof == pytest.approx(point.achieved_flops_per_s / point.attainable_flops_per_s)
        assert point.share_of_roof >= point.share_of_peak * (1 - 1e-9)
        if point.bound == "compute":
            assert point.attainable_flops_per_s == pytest.approx(peak)
        else:
            assert point.attainable_flops_per_s < peak

    def test_a_compute_bound_point_by_hand(self):
        point = RooflinePoint(
            flops=50, bytes_moved=1, time_s=1, peak_flops_per_s=100, bandwidth_bytes_per_s=10
        )  # ridge at 10 flops a byte
        assert (point.bound, point.intensity_flops_per_byte, point.share_of_peak) == ("compute", 50, 0.5)
        assert point.share_of_roof == 0.5

    def test_a_bandwidth_bound_point_by_hand(self):
        point = RooflinePoint(flops=10, bytes_moved=5, time_s=1, peak_flops_per_s=100, bandwidth_bytes_per_s=10)
        assert (point.bound, point.attainable_flops_per_s, point.share_of_peak) == ("bandwidth", 20, 0.1)
        assert point.share_of_roof == 0.5

    def test_what_only_moves_bytes_has_a_share_of_the_roof_too(self):
        point = RooflinePoint(flops=0, bytes_moved=4, time_s=1, peak_flops_per_s=100, bandwidth_bytes_per_s=10)
        assert (point.bound, point.share_of_peak, point.share_of_roof) == ("bandwidth", 0, 0.4)

    def test_what_moves_nothing_is_bound_by_compute(self):
        point = RooflinePoint(flops=4, bytes_moved=0, time_s=1, peak_flops_per_s=100, bandwidth_bytes_per_s=10)
        assert (point.bound, point.intensity_flops_per_byte) == ("compute", math.inf)
        assert point.attainable_flops_per_s == 100

    def test_unknown_bytes_leave_the_bound_unknown(self):
        point = RooflinePoint(flops=4, time_s=1, peak_flops_per_s=100, bandwidth_bytes_per_s=10)
        assert point.share_of_peak == 0.04
        assert {point.bound, point.intensity_flops_per_byte, point.attainable_flops_per_s, point.share_of_roof} == {
            None
        }

    @pytest.mark.parametrize("wrong", [{"flops": 0, "bytes_moved": 0}, {"flops": -1}, {"time_s": 0}])
    def test_nonsense_is_refused(self, wrong):
        values = {"flops": 1, "bytes_moved": 1, "time_s": 1, "peak_flops_per_s": 1, "bandwidth_bytes_per_s": 1}
        with pytest.raises(ValidationError):
            RooflinePoint(**(values | wrong))


class TestShapes:
    def test_the_simple_model_multiplies_three_times(self):
        workload = Workload(batch_size=8, seq_len=64, embed_dim=256, hidden_dim=1024, vocab_size=1000)
        assert gemm_shapes(workload) == ((512, 256, 1024), (512, 1024, 256), (512, 256, 1000))

    def test_equal_layers_are_one_shape(self):
        assert len(gemm_shapes(Workload(embed_dim=64, hidden_dim=64, vocab_size=64))) == 1

    def test_other_models_shapes_are_unknown(self):
        assert gemm_shapes(Workload(model="package.module:factory")) == ()

    @given(st.integers(1, 10**5), st.integers(1, 10**4), st.integers(1, 10**4), st.integers(1, 10**5))
    def test_rows_are_cut_only_where_a_product_would_take_long(self, batch, seq, embed, vocab):
        workload = Workload(batch_size=batch, seq_len=seq, embed_dim=embed, vocab_size=vocab)
        for m, k, n in gemm_shapes(workload):
            assert 1 <= m <= workload.tokens
            assert m == workload.tokens or m == 256 or 0.99 < gemm_flops((m, k, n)) / (2 * 2048**3) <= 1


class TestRates:
    def test_best_and_median(self):
        timed = product(1, shape=(10, 10, 10), time_ns=(4000, 1000, 2000))
        assert timed.best_flops_per_s == 2000 / 1e-6
        assert timed.median_flops_per_s == 1000 / 1e-6

    def test_copy_counts_two_arrays_and_triad_three(self):
        copy, triad = (Stream(kernel=kernel, array_bytes=60, time_ns=(1, 3, 2)) for kernel in ("copy", "triad"))
        assert (copy.best_bytes_per_s, triad.best_bytes_per_s) == (120e9, 180e9)
        assert (copy.median_bytes_per_s, triad.median_bytes_per_s) == (60e9, 90e9)
        assert thread_peaks(streams=(copy, triad)).bandwidth_bytes_per_s == 180e9

    def test_a_clock_that_saw_no_time_pass_divides_by_no_zero(self):
        assert product(1, time_ns=(0,)).best_flops_per_s == gemm_flops(SQUARE) * 1e9

    def test_the_peak_is_the_best_of_libraries_and_shapes_in_the_dtypes_own_accuracy(self):
        peaks = thread_peaks(
            product(100),
            product(110, "onednn"),
            product(120, "onednn", shape=(10, 1000, 1000)),
            product(500, "medium"),  # may be bf16 in truth
            product(400, dtype="bf16"),
        )
        assert peaks.peak_flops_per_s("fp32") == pytest.approx(120e9, rel=1e-3)
        assert peaks.peak_flops_per_s("bf16") == pytest.approx(400e9, rel=1e-3)

    def test_the_rate_of_several_products_is_that_of_running_them_all(self):
        small = (1000, 100, 1000)
        peaks = thread_peaks(product(100), product(50, shape=small))
        both = peaks.rate_flops_per_s("fp32", "default", (SQUARE, small))
        assert both == pytest.approx((2e9 + 2e8) / (2e9 / 100e9 + 2e8 / 50e9))
        assert peaks.rate_flops_per_s("fp32", "default") == pytest.approx(100e9)
        assert peaks.rate_flops_per_s("fp32", "default", ((1, 2, 3),)) is None
        assert peaks.rate_flops_per_s("bf16", "default") is None

    def test_a_point_needs_a_roof(self):
        streams = (Stream(kernel="copy", array_bytes=5, time_ns=(1,)),)
        point = thread_peaks(product(100), streams=streams).point(50e9, 1e9, 1.0)
        assert point is not None
        assert (point.bound, round(point.share_of_peak, 3)) == ("compute", 0.5)
        assert thread_peaks(product(100), streams=streams).point(1, 1, 1, "bf16") is None
        assert thread_peaks(product(100)).point(1, 1, 1) is None

    def test_merging_prefers_the_newer_and_keeps_the_rest(self):
        stream = Stream(kernel="copy", array_bytes=5, time_ns=(1,))
        skipped = (Skipped(dtype="bf16", route="default", reason="none"),)
        old = thread_peaks(product(100), product(7, shape=(1, 2, 3)), streams=(stream,), skipped=skipped)
        assert old.merged(thread_peaks()) == old
        merged = old.merged(thread_peaks(product(200)))
        assert merged.products == (product(7, shape=(1, 2, 3)), product(200))
        assert merged.streams == (stream,)
        assert merged.skipped == ()

    def test_of_two_disturbances_the_larger_one_stays(self):
        shares = [(0.2, 0.1), (0.1, 0.2), (None, 0.2), (0.2, None)]
        for ours, theirs in shares:
            assert (
                thread_peaks(other_cpu_share=ours).merged(thread_peaks(other_cpu_share=theirs)).other_cpu_share == 0.2
            )
        assert thread_peaks().merged(thread_peaks()).other_cpu_share is None


class TestAdvice:
    def test_nothing_measured_nothing_said(self):
        assert matmul_advice(machine_peaks()) is None
        assert advice(product(100, "onednn")) is None

    @pytest.mark.parametrize("gflops", [88, 100, 114])
    def test_nothing_is_said_within_15_percent(self, gflops):
        others = (product(gflops, "onednn"), product(gflops, "medium"), product(gflops, dtype="bf16"))
        assert advice(product(100), *others) is None

    def test_medium_that_keeps_the_accuracy(self):
        assert advice(product(100), product(216, "onednn"), product(210, "medium")) == (
            "fp32 products run at 100 GFLOP/s a thread through MKL: torch.set_float32_matmul_precision('medium') takes "
            "them to 210 GFLOP/s (2.1x) through oneDNN and keeps fp32's accuracy on this CPU"
        )

    def test_medium_that_rounds_says_so(self):
        said = advice(product(100), product(210, "medium", error=2e-3))
        assert said is not None
        assert "rounds their factors to bf16" in said
        assert "keeps" not in said

    def test_a_faster_library_that_no_setting_reaches(self):
        said = advice(product(100), product(216, "onednn"), product(100, "medium"))
        assert said is not None
        assert "oneDNN reaches 216 GFLOP/s (2.2x), but no setting" in said
        assert "'medium'" not in said

    def test_medium_that_is_slower(self):
        said = advice(product(100), product(50, "medium"))
        assert said is not None
        assert "leave torch.set_float32_matmul_precision at 'highest'" in said

    def test_bf16_that_is_faster(self):
        said = advice(product(100), product(400, dtype="bf16"))
        assert said is not None
        assert "bf16 reaches 400 GFLOP/s (4.0x)" in said
        assert "torch.autocast('cpu', dtype=torch.bfloat16)" in said

    def test_bf16_that_is_slower(self):
        said = advice(product(100), product(20, dtype="bf16"))
        assert said is not None
        assert said.endswith("stay with fp32, because bf16 reaches only 20 GFLOP/s")

    def test_what_a_step_uses_already_is_not_advised(self):
        peaks = machine_peaks(thread_peaks(product(100), product(200, "medium"), product(400, dtype="bf16")))
        said = matmul_advice(peaks, "medium")
        assert said is not None
        assert said.startswith("fp32 products run at 200 GFLOP/s a thread")
        assert "medium" not in said
        assert matmul_advice(machine_peaks(thread_peaks(product(100), product(200, "medium"))), "medium") is None

    def test_two_findings_are_one_sentence(self):
        said = advice(product(100), product(200, "medium"), product(400, dtype="bf16"))
        assert said is not None
        assert said.count(";") == 1
        assert "\n" not in said

    def test_the_workloads_own_products_count_where_there_are_any(self):
        small = (10, 1000, 1000)
        products = (product(100), product(300, "medium"), product(80, shape=small), product(80, "medium", shape=small))
        assert advice(*products) is not None
        assert advice(*products, shapes=(small,)) is None

    def test_the_most_threads_count_and_rates_are_a_threads(self):
        one = thread_peaks(product(100), product(300, "medium"))
        four = thread_peaks(product(200), product(800, "medium"), threads=4)
        said = matmul_advice(machine_peaks(four, one))
        assert said is not None
        assert "at 50 GFLOP/s a thread" in said
        assert "to 200 GFLOP/s (4.0x)" in said

    def test_disturbed_measurements_are_the_last_choice(self):
        quiet = thread_peaks(product(100), product(300, "medium"), other_cpu_share=0.1)
        busy = thread_peaks(product(50), product(50, "medium"), threads=2, other_cpu_share=0.5)
        assert matmul_advice(machine_peaks(quiet, busy)) == matmul_advice(machine_peaks(quiet))
        assert matmul_advice(machine_peaks(busy)) is None


class TestRecords:
    @given(
        st.lists(st.integers(0, 10**12), min_size=1, max_size=4),
        st.tuples(*[st.integers(1, 10**5)] * 3),
        st.floats(0, 1),
        st.none() | st.lists(st.integers(0, 500), max_size=3).map(tuple),
    )
    def test_json_round_trip(self, time_ns, shape, error, cpus):
        peaks = ThreadPeaks(
            setting=Setting(threads=2, cpus=cpus, quota_cpus=1.5, variables=(("MKL_CBWR", "AVX2"),)),
            products=(product(1, shape=shape, time_ns=tuple(time_ns), error=error),),
            streams=(Stream(kernel="triad", array_bytes=4, time_ns=tuple(time_ns)),),
            skipped=(Skipped(dtype="bf16", route="default", reason="none"),),
        )
        whole = machine_peaks(peaks, shapes=(shape,), warnings=("w",))
        assert MachinePeaks.model_validate_json(whole.model_dump_json()) == whole

    def test_at(self):
        peaks = machine_peaks(thread_peaks(threads=1), thread_peaks(threads=2))
        assert peaks.at(2) == thread_peaks(threads=2)
        assert peaks.at(3) is None
