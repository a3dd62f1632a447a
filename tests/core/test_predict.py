from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ntp.case import StepConfig, Workload
from ntp.core.language_model import LanguageModel
from ntp.core.predict import as_text, generate, load_trained, parse_prompt
from ntp.core.train import TrainingRun
from ntp.errors import CheckpointError, ModelError, OptionError, Untrusted

WORKLOAD = Workload(vocab_size=5, embed_dim=4, hidden_dim=8, batch_size=2, seq_len=3)


class Counting(nn.Module):
    """After id i, i+1 is most probable and i+2 next, in a vocabulary of 5 padded to 8. Records its contexts."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[list[int]] = []
        self.dropout = nn.Dropout(0.9)

    def forward(self, ids: Tensor) -> Tensor:
        self.contexts += ids.tolist()
        logits = torch.zeros(*ids.shape, 8)
        logits.scatter_(-1, ((ids + 1) % 5).unsqueeze(-1), 4.0)
        logits.scatter_(-1, ((ids + 2) % 5).unsqueeze(-1), 3.0)
        logits[..., 7] = 9.0  # no id of the vocabulary
        return self.dropout(logits)


def test_greedy_prediction_takes_the_most_probable_id_of_the_vocabulary():
    model = Counting()
    assert list(generate(LanguageModel(model), WORKLOAD, [2], max_new_tokens=7)) == [3, 4, 0, 1, 2, 3, 4]
    assert model.training


def test_the_model_sees_the_last_seq_len_ids():
    model = Counting()
    list(generate(LanguageModel(model), WORKLOAD, [4, 0, 1, 2], max_new_tokens=3))
    assert model.contexts == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def draws(temperature: float, top_k: int | None = None, seed: int = 0) -> Counter[int]:
    """The id that follows id 0, 2000 times: only the first id is drawn from known logits, so each draw starts again."""

    class After0(Counting):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(torch.zeros_like(ids))

    return Counter(generate(LanguageModel(After0()), WORKLOAD, [0], 1000, temperature, top_k, seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [None, 2, 99])
def test_sampling_follows_the_softmax_of_logits_over_temperature(temperature: float, top_k: int | None):
    logits = torch.tensor([0.0, 4.0, 3.0, 0.0, 0.0])
    if top_k == 2:
        logits[[0, 3, 4]] = -torch.inf
    expected = torch.softmax(logits / temperature, dim=0)
    counts = draws(temperature, top_k)
    frequencies = torch.tensor([counts[i] for i in range(5)]) / 1000
    torch.testing.assert_close(frequencies, expected, atol=0.065, rtol=0)  # over 4 sigma
    assert set(counts) <= set(expected.nonzero().flatten().tolist())


def test_draws_depend_on_the_seed_alone():
    def some(seed: int) -> list[int]:
        torch.rand(1)
        return list(generate(LanguageModel(Counting()), WORKLOAD, [0], 50, temperature=5.0, seed=seed))

    assert some(1) == some(1) != some(2)


@pytest.mark.parametrize("options", [{"temperature": 1e-300}, {"temperature": 1.0, "top_k": 1}])
def test_the_coldest_and_the_narrowest_sampling_are_greedy(options: dict[str, float]):
    assert list(generate(LanguageModel(Counting()), WORKLOAD, [2], 4, **options)) == [3, 4, 0, 1]


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([1, 5], {}, "prompt id 5 is not in the vocabulary: its ids are 0 to 4"),
        ([-1], {}, "prompt id -1"),
        ([1], {"temperature": -0.1}, "temperature -0.1"),
        ([1], {"temperature": float("nan")}, "temperature nan"),
        ([1], {"temperature": float("inf")}, "temperature inf"),
        ([1], {"temperature": 1.0, "top_k": 0}, "top-k 0"),
        ([1], {"top_k": 3}, "top-k 3 has no effect"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(prompt: list[int], options: dict[str, float], message: str):
    with pytest.raises(OptionError, match=message):
        generate(LanguageModel(Counting()), WORKLOAD, prompt, **options)


def test_a_model_that_diverged_is_refused():
    class Diverged(Counting):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) * torch.nan

    with pytest.raises(ModelError, match="not finite"):
        next(generate(LanguageModel(Diverged()), WORKLOAD, [1], temperature=1.0))


def test_prompts():
    assert parse_prompt(None, "1, 2,30") == [1, 2, 30]
    assert parse_prompt("aé", None) == [97, 0xC3, 0xA9]
    assert parse_prompt("\udcff", None) == [255]  # a byte that is not UTF-8, as the command line delivers it
    for text, ids in [(None, None), ("a", "1"), ("", None), (None, ""), (None, "1,x"), (None, "1,,2"), (None, "1.5")]:
        with pytest.raises(OptionError):
            parse_prompt(text, ids)


def test_byte_ids_as_text():
    assert as_text(list("naïve".encode())) == "naïve"
    assert as_text([97, 256, 0xC3, 98]) == "a\ufffd\ufffdb"


def test_a_trained_model_is_the_one_that_was_saved(tmp_path: Path):
    run = TrainingRun(WORKLOAD, StepConfig(), tmp_path)
    list(run.run(3))
    model, workload = load_trained(tmp_path)
    assert workload == WORKLOAD
    saved, now = run.training.model.state_dict(), model.module.state_dict()
    assert list(saved) == list(now)
    assert all(torch.equal(saved[name], now[name]) for name in saved)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*: make one with ntp train --checkpoint"):
        load_trained(tmp_path)


def test_a_model_whose_code_has_changed_is_refused(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\ndef make(vocab_size): return nn.Embedding(vocab_size, vocab_size)")
    list(TrainingRun(WORKLOAD.model_copy(update={"model": f"{path}:make"}), StepConfig(), tmp_path).run(1))
    path.write_text("from torch import nn\ndef make(vocab_size): return nn.Embedding(vocab_size + 1, vocab_size)")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_trained(tmp_path, f"{path}:make")


def test_a_checkpoint_does_not_choose_the_code_that_is_run(tmp_path: Path):
    path, ran = tmp_path / "mine.py", tmp_path / "ran"
    path.write_text(
        f"import pathlib\nfrom torch import nn\npathlib.Path({str(ran)!r}).touch()\n"
        "def make(vocab_size): return nn.Embedding(vocab_size, vocab_size)"
    )
    spec = f"{path}:make"
    list(TrainingRun(WORKLOAD.model_copy(update={"model": spec}), StepConfig(), tmp_path).run(1))
    ran.unlink()
    with pytest.raises(Untrusted, match=rf"names the model '{spec}', whose code would be run: .* name it with --model"):
        load_trained(tmp_path)
    with pytest.raises(OptionError, match=rf"names the model '{spec}', not 'other.py:make'"):
        load_trained(tmp_path, "other.py:make")
    assert not ran.exists()
    assert load_trained(tmp_path, spec)[1].model == spec
    assert ran.exists()


def test_a_model_that_is_not_the_checkpoints_is_refused(tmp_path: Path):
    list(TrainingRun(WORKLOAD, StepConfig(), tmp_path).run(1))
    assert load_trained(tmp_path, "simple")[1] == WORKLOAD
    with pytest.raises(OptionError, match=r"names the model 'simple', not 'none\.py:make'"):
        load_trained(tmp_path, "none.py:make")
