"""Token batches: uniform random ids, Zipf-distributed ids, or windows of a text or token file.

Shapes: B batch size, T sequence length, V vocabulary size. A batch is (B, T+1) int64: the input is [:, :-1], the
target [:, 1:].
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ntp.case import Workload
from ntp.errors import DataError


def token_batches(workload: Workload, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield ``(B, T+1)`` int64 batches of ``workload.data`` without end.

    All randomness comes from ``generator``, and there is no other state between batches: saving, resetting or restoring
    the generator's state saves, repeats or continues the stream. Errors are raised here, before the first batch.

    - ``uniform``: ``torch.randint(0, V, (B, T+1))``.
    - ``zipf:a``: id i with probability proportional to 1 / (i+1)^a, like word frequencies (Zipf, 1949). Realistic
      tokens repeat, and so do the rows of the embedding that they read.
    - ``file:PATH``: windows of T+1 tokens, each start equally probable. A ``.bin`` file holds
      little-endian uint16 tokens (nanoGPT's format), uint32 if V > 65536; any other file is read as bytes. The file is
      memory-mapped, not loaded.

    Raises:
        DataError: the file is missing, unreadable, empty, or shorter than a window, or holds ids >= V.
    """
    kind, _, detail = workload.data.partition(":")
    if kind == "file":
        return _windows(_open_tokens(Path(detail), workload), workload, generator)
    if kind == "zipf":
        return _zipf(float(detail or 1), workload, generator)
    return _uniform(workload, generator)


def _uniform(workload: Workload, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield torch.randint(0, workload.vocab_size, (workload.batch_size, workload.seq_len + 1), generator=generator)


def _zipf(exponent: float, workload: Workload, generator: torch.Generator) -> Iterator[Tensor]:
    # Inverse transform sampling: O(log V) a token, where torch.multinomial walks the whole vocabulary for each row.
    ranks = torch.arange(1, workload.vocab_size + 1, dtype=torch.float64)  # (V,)
    cumulative = torch.cumsum(ranks**-exponent, dim=0)  # (V,)
    cumulative /= cumulative[-1].item()  # ends in exactly 1: every draw from [0, 1) lands on an id
    shape = (workload.batch_size, workload.seq_len + 1)
    while True:
        yield torch.searchsorted(cumulative, torch.rand(shape, dtype=torch.float64, generator=generator), right=True)


def _windows(tokens: npt.NDArray[np.integer], workload: Workload, generator: torch.Generator) -> Iterator[Tensor]:
    offsets = np.arange(workload.seq_len + 1)  # (T+1,)
    while True:
        starts = torch.randint(0, len(tokens) - workload.seq_len, (workload.batch_size, 1), generator=generator)
        yield torch.from_numpy(tokens[starts.numpy() + offsets].astype(np.int64))  # (B, 1) + (T+1,) -> (B, T+1)


def _open_tokens(path: Path, workload: Workload) -> npt.NDArray[np.integer]:
    """Map the file as a read-only array of tokens, and check every one."""
    dtype = np.dtype(np.uint8) if path.suffix != ".bin" else np.dtype("<u2" if workload.vocab_size <= 65536 else "<u4")
    try:
        if path.is_dir():
            raise DataError(f"data file {str(path)!r} is a directory: name a text file or a .bin file of tokens")
        if not path.exists():
            raise DataError(f"data file {str(path)!r} not found: check the path after 'file:'")
        if not path.is_file():
            raise DataError(f"data file {str(path)!r} is a pipe or a device: save its output to a file and name that")
        size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise DataError(f"data file {str(path)!r} is empty: name one with at least {workload.seq_len + 1} tokens")
        if size_bytes % dtype.itemsize:
            raise DataError(
                f"data file {str(path)!r} has {size_bytes} bytes, not a whole number of {dtype.name} tokens; "
                "a .bin file holds uint16 tokens, or uint32 if --vocab-size is above 65536"
            )
        tokens = np.asarray(np.memmap(path, dtype=dtype, mode="r"))
    except OSError as exc:
        raise DataError(f"data file {str(path)!r} cannot be read: {exc.strerror or exc}") from exc
    _check_tokens(tokens, path, workload)
    return tokens


def _check_tokens(tokens: npt.NDArray[np.integer], path: Path, workload: Workload) -> None:
    if len(tokens) <= workload.seq_len:
        count = "1 token" if len(tokens) == 1 else f"{len(tokens)} tokens"
        shorter = f"lower --seq-len to {len(tokens) - 1} or less, or " if len(tokens) > 1 else ""
        raise DataError(
            f"data file {str(path)!r} has {count}, fewer than one window of {workload.seq_len + 1}: "
            f"{shorter}use more data"
        )
    if workload.vocab_size > np.iinfo(tokens.dtype).max:
        return  # no token of this type can be out of the vocabulary, so the file need not be read
    largest = int(tokens.max())
    if largest >= workload.vocab_size:
        raise DataError(
            f"data file {str(path)!r} holds token {largest}, outside the vocabulary of {workload.vocab_size}: "
            f"raise --vocab-size to {largest + 1} or more"
        )
