"""Options that several commands take, with the same names and the same help everywhere; and how values are read."""

import re
from typing import Annotated

import typer

from ntp.case import Runtime, StepConfig, Workload

WORKLOAD, STEP, RUNTIME = Workload(), StepConfig(), Runtime()
"""The defaults."""

_PANEL = "What is trained"
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="SPEC",
        rich_help_panel=_PANEL,
        help="'simple', 'package.module:factory' or 'path/to/file.py:factory'. A factory gets those of vocab_size, "
        "embed_dim, hidden_dim and seq_len that it names.",
    ),
]
VocabSizeOption = Annotated[int, typer.Option("--vocab-size", metavar="V", rich_help_panel=_PANEL, help="Token ids.")]
EmbedDimOption = Annotated[int, typer.Option("--embed-dim", metavar="E", rich_help_panel=_PANEL, help="Width.")]
HiddenDimOption = Annotated[
    int, typer.Option("--hidden-dim", metavar="H", rich_help_panel=_PANEL, help="Width of the hidden layer.")
]
BatchSizeOption = Annotated[
    int, typer.Option("--batch-size", metavar="B", rich_help_panel=_PANEL, help="Sequences in a step.")
]
SeqLenOption = Annotated[
    int, typer.Option("--seq-len", metavar="T", rich_help_panel=_PANEL, help="Predicted positions of a sequence.")
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SPEC",
        rich_help_panel=_PANEL,
        help="'uniform' random ids, 'zipf' or 'zipf:EXPONENT' (realistic frequencies), or 'file:PATH': a text file as "
        "bytes, or a .bin file of uint16 tokens (uint32 if V > 65536).",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", rich_help_panel=_PANEL, help="Of weights and data.")]
OptimizerOption = Annotated[
    str, typer.Option("--optimizer", metavar="KIND", help="AdamW's kernels: 'default', 'foreach' or 'fused'.")
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, max=1024, help="torch's threads.", show_default="torch's choice"),
]
_RUNTIME_PANEL = "How the worker is set up"
WorkerThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=1024,
        rich_help_panel=_RUNTIME_PANEL,
        help="torch's threads.",
        show_default="all CPUs",
    ),
]
AllocatorOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", rich_help_panel=_RUNTIME_PANEL, help="'glibc-tuned' keeps large blocks in the heap; or 'glibc'."
    ),
]
WaitPolicyOption = Annotated[
    str,
    typer.Option(metavar="NAME", rich_help_panel=_RUNTIME_PANEL, help="OpenMP's idle threads: 'passive', 'active'."),
]
AffinityOption = Annotated[
    str, typer.Option(metavar="NAME", rich_help_panel=_RUNTIME_PANEL, help="'pinned' to a CPU a thread, or 'free'.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def names(text: str) -> tuple[str, ...]:
    """A comma-separated list, without repeats, in the order given."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def fraction(text: str | float) -> float:
    """A share between 0 and 1, as ``1%`` or ``0.01``.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)(%?)", str(text).strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < value < 1:
        raise typer.BadParameter(f"a share is more than 0% and less than 100%, as in 1% or 0.01 (got {text!r})")
    return value


_UNITS_S = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600}
_MAX_S = 7 * 86_400


def seconds(text: str | float) -> float:
    """A duration in seconds, as ``300``, ``300s``, ``5min`` or ``1h``; a week at most.

    Raises:
        typer.BadParameter: it is none.
    """
    match = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(s|min|m|h|)", str(text).strip())
    value = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not 0 < value <= _MAX_S:
        raise typer.BadParameter(f"a time is more than 0 and at most a week, as in 300s, 5min or 1h (got {text!r})")
    return value
