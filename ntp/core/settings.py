"""Process-wide settings that a model's code can change, and that affect a step's time."""

import os
import sys

import torch

from ntp.core.products import onednn_says

THREADS, CPUS = "threads", "CPUs"


def read_settings() -> dict[str, str]:
    """Return the present value of each setting as text, by name."""
    settings = {
        THREADS: str(torch.get_num_threads()),
        "default dtype": str(torch.get_default_dtype()),
        "default device": _default_device(),
        "deterministic algorithms": _on(torch.are_deterministic_algorithms_enabled()),
        "anomaly detection": _on(torch.is_anomaly_enabled()),
        "autocast": _on(torch.is_autocast_enabled("cpu")),
        "gradients": _on(torch.is_grad_enabled()),
        # torch has a function to set it but none to read it: half of the smallest normal number shows it.
        "denormals": "kept" if sys.float_info.min / 2 else "flushed",
        "precision of fp32 products": "bf16" if _products_in_bf16() else "fp32",
    }
    if hasattr(os, "sched_getaffinity"):
        settings[CPUS] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return settings


def changed_settings(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the old and new value of each setting that has changed."""
    return {name: (value, after[name]) for name, value in before.items() if after[name] != value}


def _default_device() -> str:
    try:
        return str(torch.get_default_device())
    except AttributeError:  # torch 2.9, after one was set and reset
        return "cpu"


def _on(enabled: bool) -> str:
    return "on" if enabled else "off"


def _products_in_bf16() -> bool:
    """Return whether torch may round the factors of fp32 products, on a CPU where that has an effect."""
    precision = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    return bool(precision == "bf16" and onednn_says("_is_mkldnn_bf16_supported"))
