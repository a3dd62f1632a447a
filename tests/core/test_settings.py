"""Each process-wide setting is read before and after a change."""

import os
import sys
from contextlib import contextmanager, suppress

import pytest
import torch

from ntp.core.products import medium_precision, onednn_says
from ntp.core.settings import changed_settings, read_settings


@contextmanager
def called(function, value, back):
    function(value)
    try:
        yield
    finally:
        function(back)


@contextmanager
def one_cpu():
    cpus = os.sched_getaffinity(0)
    with called(lambda some: os.sched_setaffinity(0, some), {min(cpus)}, cpus):
        yield


@contextmanager
def another_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)
        with suppress(AttributeError):  # torch 2.9 does not tell the device from then on
            del torch._GLOBAL_DEVICE_CONTEXT.device_context


CHANGES = {
    "threads": lambda: called(torch.set_num_threads, torch.get_num_threads() + 1, torch.get_num_threads()),
    "default dtype": lambda: called(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": another_device,
    "deterministic algorithms": lambda: called(torch.use_deterministic_algorithms, True, False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "autocast": lambda: torch.autocast("cpu"),
    "gradients": torch.no_grad,
    "denormals": lambda: called(torch.set_flush_denormal, True, False),
    "precision of fp32 products": medium_precision,
    "CPUs": one_cpu,
}


def test_every_setting_is_tried_here():
    assert set(read_settings()) == set(CHANGES) - ({"CPUs"} if not hasattr(os, "sched_getaffinity") else set())


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_changed_is_seen_alone(name: str):
    if name == "CPUs" and (not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) == 1):
        pytest.skip("there is one CPU to choose from")
    if name == "denormals" and not torch.set_flush_denormal(False):
        pytest.skip("this CPU cannot flush them")
    if name == "precision of fp32 products" and not onednn_says("_is_mkldnn_bf16_supported"):
        pytest.skip("on this CPU it changes nothing")
    before = read_settings()
    with CHANGES[name]():
        assert set(changed_settings(before, read_settings())) == {name}
    assert read_settings() == before
    assert sys.float_info.min / 2 > 0
