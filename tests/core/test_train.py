import itertools
import math
import pickle
import signal
from pathlib import Path

import pytest
import torch

from ntp.case import StepConfig, Workload, named_step
from ntp.core import checkpoint as checkpoints
from ntp.core.train import StepRecord, TrainingRun, thread_count
from ntp.errors import CheckpointError, ModelError, StepError
from ntp.interrupts import PATIENCE_S

GOLDEN = "6.9229 6.9222 6.9219 6.9241 6.9204 6.9230 6.9176 6.9225 6.9193 6.9180"
EXAMPLE = Path(__file__).parents[2] / "examples" / "gpt2.py"
SMALL = Workload(vocab_size=11, embed_dim=4, hidden_dim=8, batch_size=3, seq_len=5)
DROPOUT = """
from torch import nn
def make(vocab_size, embed_dim):
    return nn.Sequential(nn.Embedding(vocab_size, embed_dim), nn.Dropout(0.5), nn.Linear(embed_dim, vocab_size))
"""


def small(**options: object) -> Workload:
    return Workload.model_validate(SMALL.model_dump() | options)


def losses(run: TrainingRun, steps: int, **options: int) -> list[float]:
    return [record.loss for record in run.run(steps, **options)]


@pytest.mark.long
@pytest.mark.parametrize(("threads", "steps"), [(1, 100), (2, 10)])
def test_golden_losses(threads: int, steps: int):
    """The loss curve of ``ntp train``. An intended change of it is made here, too, and explained.

    The README shows the whole run on all CPUs, which ``tests/readme_commands.py`` checks.
    """
    with thread_count(threads):
        records = list(TrainingRun(Workload(), StepConfig()).run(steps))
    assert len(records) == steps
    assert [record.step for record in records if record.logged] == list(range(10, steps + 1, 10))
    assert [f"{record.loss:.4f}" for record in records if record.logged] == GOLDEN.split()[: steps // 10]


@pytest.mark.long
def test_the_fastest_exact_step_has_the_golden_losses():
    try:
        run = TrainingRun(Workload(), named_step("onednn+deduplicated+fused"))
    except StepError as error:
        pytest.skip(str(error))
    assert " ".join(f"{record.loss:.4f}" for record in run.run() if record.logged) == GOLDEN


def test_the_thread_count_is_restored():
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), thread_count(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    with thread_count(None):
        assert torch.get_num_threads() == before


def test_records_have_the_steps_own_loss_and_the_mean_time_since_the_last_line():
    ticks = iter([0.0, 1.0, 10.0, 12.0, 20.0, 23.0, 30.0, 34.0, 40.0, 45.0])  # steps of 1, 2, 3, 4 and 5 seconds
    run = TrainingRun(SMALL, StepConfig(), clock=lambda: next(ticks))
    records = list(run.run(5, log_every=2))
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    assert [record.logged for record in records] == [False, True, False, True, True]
    assert [record.step_time_ms for record in records if record.logged] == [1500, 3500, 5000]
    assert [record.tokens_per_s for record in records if record.logged] == [15 / 1.5, 15 / 3.5, 15 / 5]
    summary = run.summary()
    assert (summary.steps, summary.total_time_s, summary.step_time_ms) == (5, 15, 3000)
    assert summary.tokens_per_s == 5


def test_the_summary_shows_the_first_batch_and_changes_nothing():
    run, plain = TrainingRun(SMALL, StepConfig()), TrainingRun(SMALL, StepConfig())
    batch = next(plain.training.batches)
    before = run.summary()
    assert before.tokens_per_s is before.step_time_ms is None
    first = losses(run, 3)
    summary = run.summary()
    assert first + losses(run, 6) == losses(TrainingRun(SMALL, StepConfig()), 6)
    assert (summary.input_shape, summary.input_dtype) == ((3, 5), "int64")
    assert (summary.logits_shape, summary.logits_dtype) == ((3, 5, 11), "float32")
    assert summary.input_ids == batch[0, :-1].tolist()
    assert summary.target_ids == batch[0, 1:].tolist()
    assert summary.parameters == 11 * 4 + (4 * 8 + 8) + (8 * 4 + 4) + 4 * 11


def test_the_summary_predicts_the_most_probable_ids_of_the_vocabulary(tmp_path: Path):
    path = tmp_path / "padded.py"
    path.write_text("""
import torch
from torch import nn
def make(vocab_size):
    model = nn.Embedding(64, 64)  # padded: more logits than ids
    model.weight.data = 2 * torch.eye(64).roll(1, dims=1)
    model.weight.data[:, 40] = 9
    return model
""")
    summary = TrainingRun(small(model=f"{path}:make"), StepConfig()).summary()
    assert summary.logits_shape == (3, 5, 64)
    assert summary.predicted_ids == [i + 1 if i < 10 else 0 for i in summary.input_ids]


@pytest.mark.parametrize("kind", ["simple", "dropout", "file", "zipf", "fused", "gpt2"])
def test_a_resumed_run_is_the_uninterrupted_one(kind: str, tmp_path: Path):
    options: dict[str, object] = {}
    if kind == "dropout":
        (tmp_path / "dropout.py").write_text(DROPOUT)
        options = {"model": f"{tmp_path / 'dropout.py'}:make"}
    elif kind == "file":
        (tmp_path / "text.txt").write_bytes(bytes(i * i % 11 for i in range(100)))
        options = {"data": f"file:{tmp_path / 'text.txt'}"}
    elif kind == "zipf":
        options = {"data": "zipf:1.1"}
    elif kind == "gpt2":
        pytest.importorskip("transformers")
        options = {"model": f"{EXAMPLE}:tiny"}
    workload, config = small(**options), StepConfig(optimizer="fused" if kind == "fused" else "default")
    expected = losses(TrainingRun(workload, config), 7)

    first = TrainingRun(workload, config, tmp_path / "run")
    assert first.resumed_at is None
    start = losses(first, 3)
    torch.rand(3)  # anything in between
    second = TrainingRun(workload, config, tmp_path / "run")
    assert second.resumed_at == 3
    assert start + losses(second, 7) == expected
    finished = TrainingRun(workload, config, tmp_path / "run")
    assert (finished.resumed_at, losses(finished, 7)) == (7, [])
    assert finished.summary().input_ids == first.summary().input_ids


def test_checkpoints_are_written_every_so_many_steps_and_at_the_end(tmp_path: Path):
    run = TrainingRun(SMALL, StepConfig(), tmp_path)
    saved = [
        checkpoints.load(tmp_path).step if checkpoints.exists(tmp_path) else None
        for _ in run.run(5, checkpoint_every=2)
    ]
    assert saved == [None, 2, 2, 4, 4]
    assert checkpoints.load(tmp_path).step == 5
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.FILE_NAME]


def test_ctrl_c_however_often_ends_the_step_saves_and_stops(tmp_path: Path):
    expected = losses(TrainingRun(SMALL, StepConfig()), 6)
    handler = signal.getsignal(signal.SIGINT)
    run = TrainingRun(SMALL, StepConfig(), tmp_path)

    def interrupt(*_: object) -> None:
        for _ in range(3 if run.step == 3 else 0):
            signal.raise_signal(signal.SIGINT)

    hook = run.training.model.register_forward_hook(interrupt)
    records = []
    with pytest.raises(KeyboardInterrupt):
        records += run.run(6)  # all of them, and then the interrupt
    assert (run.step, run.saved_at) == (4, 4)
    hook.remove()
    assert signal.getsignal(signal.SIGINT) is handler
    assert losses(TrainingRun(SMALL, StepConfig(), tmp_path), 6) == expected[4:]


def test_the_last_record_before_an_interrupt_is_logged():
    run = TrainingRun(SMALL, StepConfig())
    records = run.run(6)
    next(records)
    run.training.model.register_forward_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    assert next(records).logged
    with pytest.raises(KeyboardInterrupt):
        next(records)


def test_a_second_ctrl_c_some_seconds_later_does_not_wait(tmp_path: Path):
    now_s = [0.0]
    run = TrainingRun(SMALL, StepConfig(), tmp_path, clock=lambda: now_s[0])
    records = run.run(6, checkpoint_every=1)
    next(records)
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    now_s[0] += PATIENCE_S
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    records.close()
    assert checkpoints.load(tmp_path).step == run.saved_at == 1


def test_nothing_breaks_off_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now_s = [0.0]
    run = TrainingRun(SMALL, StepConfig(), tmp_path, clock=lambda: now_s[0])
    save = torch.save

    def interrupted(content: object, file: object) -> None:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
            now_s[0] += PATIENCE_S
        save(content, file)

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(run.run(2))
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.FILE_NAME]
    assert checkpoints.load(tmp_path).step == 2


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path: Path, monkeypatch):
    run = TrainingRun(SMALL, StepConfig(), tmp_path)
    losses(run, 2)

    def fill_the_disk(content: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        losses(run, 4)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoints.FILE_NAME]
    assert checkpoints.load(tmp_path).step == 2


def test_a_checkpoint_of_another_run_is_refused_and_the_differences_named(tmp_path: Path):
    losses(TrainingRun(SMALL, StepConfig(), tmp_path), 1)
    with pytest.raises(CheckpointError) as caught:
        TrainingRun(small(seed=1, batch_size=4), StepConfig(optimizer="fused"), tmp_path)
    for difference in (
        "seed: 42 there, 1 here",
        "batch_size: 3 there, 4 here",
        "optimizer: 'default' there, 'fused' here",
    ):
        assert difference in str(caught.value)
    assert "seq_len" not in str(caught.value)


class Malice:
    def __reduce__(self):
        return (Path.touch, (Path("malice"),))


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "foreign", "malice", "newer"])
def test_a_damaged_checkpoint_is_refused(damage: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses(TrainingRun(SMALL, StepConfig(), tmp_path), 1)
    path = tmp_path / checkpoints.FILE_NAME
    whole = path.read_bytes()
    match damage:
        case "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        case "garbage":
            path.write_bytes(bytes(range(256)) * 8)
        case "empty":
            path.write_bytes(b"")
        case "foreign":
            torch.save({"weights": torch.zeros(3)}, path)
        case "malice":
            path.write_bytes(pickle.dumps(Malice(), protocol=2))
        case "newer":
            torch.save({"format": checkpoints.FORMAT + 1}, path)
    with pytest.raises(CheckpointError, match="another version" if damage == "newer" else "damaged") as caught:
        TrainingRun(SMALL, StepConfig(), tmp_path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "malice").exists()


def test_a_checkpoint_of_a_model_whose_code_has_changed_is_refused(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(DROPOUT)
    workload = small(model=f"{path}:make")
    losses(TrainingRun(workload, StepConfig(), tmp_path / "run"), 1)
    path.write_text(DROPOUT.replace("nn.Linear(embed_dim, vocab_size)", "nn.Linear(embed_dim, vocab_size, bias=False)"))
    with pytest.raises(CheckpointError, match=r"does not fit model .*2\.bias") as caught:
        TrainingRun(workload, StepConfig(), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_checkpoint_directory_that_cannot_be_is_refused_before_any_step(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        TrainingRun(SMALL, StepConfig(), tmp_path / "file")


def test_a_model_that_fails_in_a_step_is_named_in_one_line(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("""
from torch import nn
class make(nn.Embedding):
    def __init__(self): super().__init__(11, 11)
    def forward(self, ids): return super().forward(ids).detach()
""")
    run = TrainingRun(small(model=f"{path}:make"), StepConfig())
    with pytest.raises(ModelError, match="step 1 failed: RuntimeError: element 0 of tensors does not require grad"):
        losses(run, 1)


def test_a_loss_that_is_no_number_is_null_in_json():
    record = StepRecord(step=1, loss=math.nan, step_time_ms=1, tokens_per_s=1, logged=True)
    assert '"loss":null' in record.model_dump_json()


def test_another_seed_is_another_run():
    runs = [losses(TrainingRun(small(seed=seed), StepConfig()), 2) for seed in (1, 2, 1)]
    assert runs[0] == runs[2]
    assert all(a != b for a, b in itertools.pairwise(runs))
