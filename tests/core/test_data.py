import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntp.case import Workload
from ntp.core.data import token_batches
from ntp.errors import DataError


def batches(data: str, count: int = 3, seed: int = 0, **sizes: int) -> list[torch.Tensor]:
    workload = Workload(data=data, **{"vocab_size": 50, "batch_size": 4, "seq_len": 6, **sizes})
    return list(itertools.islice(token_batches(workload, torch.Generator().manual_seed(seed)), count))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(40)))
    return path


def test_uniform_is_one_randint_a_batch():
    generator = torch.Generator().manual_seed(0)
    expected = [torch.randint(0, 50, (4, 7), generator=generator) for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(batches("uniform"), expected, strict=True))


@pytest.mark.parametrize("data", ["uniform", "zipf:1.2", "file"])
def test_a_stream_is_its_generator(data: str, text: Path):
    spec = f"file:{text}" if data == "file" else data
    before = torch.get_rng_state()
    one, same, other = (torch.stack(batches(spec, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)

    generator = torch.Generator().manual_seed(1)
    stream = token_batches(Workload(data=spec, vocab_size=50, batch_size=4, seq_len=6), generator)
    next(stream)
    state = generator.get_state()
    second = next(stream)
    generator.set_state(state)
    assert torch.equal(next(stream), second)


@given(
    data=st.sampled_from(["uniform", "zipf:0", "zipf", "zipf:2.5", "zipf:" + "9" * 400]),
    vocab_size=st.integers(1, 300),
    batch_size=st.integers(1, 5),
    seq_len=st.integers(1, 9),
)
def test_ids_are_in_the_vocabulary(data: str, vocab_size: int, batch_size: int, seq_len: int):
    (batch,) = batches(data, 1, vocab_size=vocab_size, batch_size=batch_size, seq_len=seq_len)
    assert batch.dtype == torch.int64
    assert batch.shape == (batch_size, seq_len + 1)
    assert batch.min() >= 0
    assert batch.max() < vocab_size


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_zipf_frequencies_follow_the_power_law(exponent: float):
    (batch,) = batches(f"zipf:{exponent}", 1, vocab_size=8, batch_size=1000, seq_len=99)
    frequencies = torch.bincount(batch.flatten(), minlength=8).double() / batch.numel()
    weights = torch.arange(1, 9, dtype=torch.float64) ** -exponent
    torch.testing.assert_close(frequencies, weights / weights.sum(), atol=0.006, rtol=0)  # over 4 sigma


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(2, 60), seq_len=st.integers(1, 59), suffix=st.sampled_from([".txt", ".bin"]))
def test_windows_are_pieces_of_the_file(tmp_path: Path, length: int, seq_len: int, suffix: str):
    path = tmp_path / f"tokens{suffix}"
    np.arange(length, dtype="<u2" if suffix == ".bin" else np.uint8).tofile(path)
    if length <= seq_len:
        with pytest.raises(DataError, match="fewer than one window"):
            batches(f"file:{path}", vocab_size=60, seq_len=seq_len)
        return
    (batch,) = batches(f"file:{path}", 1, vocab_size=60, batch_size=8, seq_len=seq_len)
    assert batch.dtype == torch.int64
    assert torch.equal(batch, batch[:, :1] + torch.arange(seq_len + 1))
    assert batch.max() < length


def test_windows_reach_both_ends_of_the_file(text: Path):
    (batch,) = batches(f"file:{text}", 1, batch_size=2000, seq_len=6)
    assert set(batch[:, 0].tolist()) == set(range(40 - 6))


def test_a_bin_file_holds_uint32_if_the_vocabulary_needs_it(tmp_path: Path):
    path = tmp_path / "tokens.bin"
    np.array([70_000, 1], dtype="<u4").tofile(path)
    (batch,) = batches(f"file:{path}", 1, vocab_size=70_001, seq_len=1)
    assert batch[0].tolist() == [70_000, 1]
    (batch,) = batches(f"file:{path}", 1, vocab_size=65_536, seq_len=3)
    assert batch[0].tolist() == [70_000 - 65_536, 1, 1, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "is empty"),
        ("short.txt", b"\x01" * 6, "has 6 tokens, fewer than one window of 7: lower --seq-len to 5"),
        ("high.txt", b"\x00" * 20 + b"\x32", "holds token 50, outside the vocabulary of 50: raise --vocab-size to 51"),
        ("odd.bin", b"\x00" * 21, "has 21 bytes, not a whole number of uint16 tokens"),
        ("high.bin", b"\x00" * 20 + b"\x00\x01", "holds token 256"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_before_any_batch(
    tmp_path: Path, name: str, content: bytes, message: str
):
    path = tmp_path / name
    path.write_bytes(content)
    workload = Workload(data=f"file:{path}", vocab_size=50, seq_len=6)
    with pytest.raises(DataError, match=message) as caught:
        token_batches(workload, torch.Generator())
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path):
    for path, message in [(tmp_path / "none.txt", "not found"), (tmp_path, "is a directory")]:
        with pytest.raises(DataError, match=message):
            token_batches(Workload(data=f"file:{path}"), torch.Generator())


def test_a_file_that_cannot_be_read_is_refused(text: Path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        token_batches(Workload(data=f"file:{text}"), torch.Generator())


def test_every_byte_may_occur_if_the_vocabulary_has_256(tmp_path: Path):
    path = tmp_path / "bytes.txt"
    path.write_bytes(bytes(range(256)))
    (batch,) = batches(f"file:{path}", 1, vocab_size=256, seq_len=255)
    assert batch[0].tolist() == list(range(256))
