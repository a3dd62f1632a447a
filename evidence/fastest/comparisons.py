"""What is compared with what, and how much faster it was hoped to be."""

from typing import NamedTuple

from ntp.case import Case

GPT2 = {"model": "examples/gpt2.py:tiny", "batch_size": 8, "seq_len": 64}
LONG = {"batch_size": 128, "seq_len": 1024}
EXACT = {"matmul": "onednn", "loss": "deduplicated", "optimizer": "fused"}
BF16 = {"precision": "bf16", "loss": "deduplicated", "optimizer": "fused"}
JAX = "jax"
THREADS = 2
PLAIN_RUNTIME: dict[str, str] = {"allocator": "glibc", "wait_policy": "unset", "affinity": "free"}
"""A runtime that leaves everything as an ordinary Python process has it."""


class Comparison(NamedTuple):
    what: str
    base: Case
    head: Case
    target: float | None = None
    """How many times as fast as the base the head was hoped to be."""
    peer: str = ""
    """Another framework in place of the base, with the base's workload."""


def _of(threads: int = THREADS, **fields: object) -> Case:
    return Case.of({"threads": threads, **fields})


def _plain(**fields: object) -> Case:
    """Return the loop as one would write it, in the environment of an ordinary process."""
    return _of(**PLAIN_RUNTIME, **fields)


COMPARISONS = {
    "exact": Comparison("the best exact fp32 step against the plain loop", _plain(), _of(**EXACT), 10),
    "bf16": Comparison("the best step with bf16 products against the plain loop", _plain(), _of(**BF16), 15),
    "long": Comparison("B=128, T=1024: deduplicated against the plain loop", _plain(**LONG), _of(**LONG, **EXACT), 250),
    "growth": Comparison(
        "the best exact step at B=32, T=128 against B=128, T=1024", _of(**LONG, **EXACT), _of(**EXACT)
    ),
    "onednn": Comparison("matmul=onednn alone", _of(), _of(matmul="onednn"), 1.8),
    "onednn-gpt2": Comparison("matmul=onednn alone, a small GPT-2", _of(**GPT2), _of(**GPT2, matmul="onednn"), 1.3),
    "jax": Comparison("the best exact step against JAX's jitted step", _of(), _of(**EXACT), 7, peer=JAX),
    "compile": Comparison(
        "the best exact step against torch.compile of the plain step", _plain(compile="step"), _of(**EXACT), 8
    ),
    "quiet": Comparison("the quiet runtime alone", _plain(), _of()),
    "deduplicated": Comparison("loss=deduplicated alone", _of(), _of(loss="deduplicated")),
    "chunked": Comparison("loss=chunked alone", _of(), _of(loss="chunked")),
    "fused": Comparison("optimizer=fused alone", _of(), _of(optimizer="fused")),
}

SPACES = {"simple": _of(batch_size=8, seq_len=64), "gpt2": _of(**GPT2)}
"""The workloads whose cases are all measured, to see what a search finds of them."""

LEVERS = ("loss", "matmul", "precision", "optimizer", "threads", "allocator")
"""The levers that are varied then: with all levers there would be thousands of cases."""

COMPILED = tuple(
    Comparison(
        f"{'GPT-2' if model else 'simple'}, {threads} thread{'s' if threads > 1 else ''}, {precision}",
        _of(threads, precision=precision, **model),
        _of(threads, precision=precision, compile="step", **model),
    )
    for model in ({}, GPT2)
    for threads in (1, 2)
    for precision in ("fp32", "bf16")
)
"""Comparisons of what compiling the whole step gains, and costs."""
