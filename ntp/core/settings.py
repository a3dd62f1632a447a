"""Settings of the whole process that a model's code can change, and that a step's time depends on."""

import os
import sys

import torch

from ntp.core.products import onednn_says

THREADS = "threads"


def read_settings() -> dict[str, str]:
    """The present value of each setting, as text, by its name. Nothing is changed."""
    settings = {
        THREADS: str(torch.get_num_threads()),
        "default dtype": str(torch.get_default_dtype()),
        "default device": _default_device(),
        "deterministic algorithms": _on(torch.are_deterministic_algorithms_enabled()),
        "anomaly detection": _on(torch.is_anomaly_enabled()),
        "autocast": _on(torch.is_autocast_enabled("cpu")),
        "gradients": _on(torch.is_grad_enabled()),
        # torch has a function that sets it and none that tells: a half of the smallest normal number does.
        "denormals": "kept" if sys.float_info.min / 2 else "flushed",
        "precision of fp32 products": "bf16" if _products_in_bf16() else "fp32",
    }
    if hasattr(os, "sched_getaffinity"):
        settings["CPUs"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return settings


def changed_settings(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Before and after of each setting that is another now."""
    return {name: (value, after[name]) for name, value in before.items() if after[name] != value}


def _default_device() -> str:
    try:
        return str(torch.get_default_device())
    except AttributeError:  # torch 2.9, where one was set and then taken back
        return "cpu"


def _on(enabled: bool) -> str:
    return "on" if enabled else "off"


def _products_in_bf16() -> bool:
    """Whether torch may round the factors of fp32 products, on a CPU where it then does otherwise than by default."""
    precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return bool(precision == "bf16" and onednn_says("_is_mkldnn_bf16_supported"))
