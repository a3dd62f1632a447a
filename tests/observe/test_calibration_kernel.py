"""The calibration kernel: timed as asked, and nothing of it stays behind."""

import mmap

import pytest
import torch

from ntp.observe import calibration_kernel as kernel
from ntp.observe.calibration_kernel import CALLS, _matrices, kernel_burst, plain_settings
from ntp.worker.worker import CaseHolder

SIDE = 8


@pytest.fixture
def settings():
    """Puts torch's process-wide settings back."""
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


def test_the_product_is_the_same_every_time_and_timed_after_a_call_that_is_not(monkeypatch):
    log, products, mm = [], [], torch.mm

    def multiply(a, b, out):
        log.append("multiply")
        assert torch.allclose(mm(a, b, out=out), a @ b)
        return out

    def timed(job, times):
        log.append("timed")
        products.append(job().clone())
        return [3] * times

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(kernel, "burst", timed)
    answers = [kernel_burst(1, SIDE, 4) for _ in range(2)]
    assert [(burst.shape, burst.time_ns) for burst in answers] == [((SIDE, SIDE, SIDE), (3, 3, 3, 3))] * 2
    assert log == ["multiply", "timed", "multiply"] * 2
    assert torch.equal(*products)
    # Elements near 1, so that nothing overflows or is denormal whatever the side.
    assert 0.01 < float(products[0].std()) < 3


def test_every_call_is_a_sample_and_its_cpu_time_is_told():
    answer = kernel_burst(1, 64)
    assert len(answer.time_ns) == CALLS
    assert answer.cpu_time_s > 0


def test_random_numbers_and_heap_of_the_training_are_left_alone(monkeypatch):
    rooms = []

    class Room(mmap.mmap):
        def __init__(self, *_):
            rooms.append(len(self))

    monkeypatch.setattr(mmap, "mmap", Room)
    _matrices.cache_clear()
    random_state = torch.get_rng_state()
    for _ in range(2):
        kernel_burst(1, SIDE)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert rooms == [3 * 4 * SIDE**2]
    _matrices.cache_clear()


@pytest.mark.usefixtures("settings")
def test_what_a_model_has_set_does_not_touch_the_product_and_is_put_back():
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("medium")

    inside = []

    def fail():
        with plain_settings(2):
            inside.append((torch.get_num_threads(), torch.get_float32_matmul_precision()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [(2, "highest")]
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (3, "medium")


def test_a_worker_times_it_with_the_threads_of_its_case(monkeypatch):
    monkeypatch.setattr(kernel, "kernel_burst", lambda threads: f"with {threads}")
    holder = CaseHolder()
    holder._threads = 3
    assert holder.calibration_kernel() == "with 3"


@pytest.mark.usefixtures("settings")
def test_threads_that_are_right_already_are_not_set_again(monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("set again"))
    with plain_settings(2):
        assert torch.get_num_threads() == 2
    monkeypatch.undo()
