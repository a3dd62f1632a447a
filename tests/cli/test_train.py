"""``ntp train`` and ``ntp predict``, with small models."""

import json
import re
import signal
from pathlib import Path

import torch

from ntp.case import StepConfig, Workload
from ntp.core.train import TrainingRun
from ntp.errors import NtpError

SMALL = ["--vocab-size", "300", "--embed-dim", "4", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "12"]


def test_train_writes_a_line_each_ten_steps_and_a_summary(call):
    result = call("train", *SMALL, "--steps", 25)
    assert result.status == 0
    assert result.err == ""
    lines = result.out.splitlines()
    pattern = r"step +(\d+)  loss \d+\.\d{4} +[\d,]+ tokens/s +[\d.]+ ms/step"
    assert [re.fullmatch(pattern, line)[1] for line in lines[:3]] == ["10", "20", "25"]
    assert re.fullmatch(r"25 steps, [\d.]+ s in all, [\d,]+ tokens/s, [\d.]+ ms/step", lines[3])
    assert lines[4] == "input (2, 12) int64, logits (2, 12, 300) float32, parameters 2,476"
    assert [line.split()[0] for line in lines[6:]] == ["input", "target", "predicted"]
    assert all(len(line.split()) == 9 for line in lines[6:])
    assert lines[6].split()[2:] == lines[7].split()[1:-1]


def test_train_as_json_writes_a_line_a_logged_step_and_a_summary(call):
    result = call("train", *SMALL, "--steps", 20, "--log-every", 5, "--json", "--data", "zipf")
    *steps, last = map(json.loads, result.out.splitlines())
    assert [step["step"] for step in steps] == [5, 10, 15, 20]
    assert all(set(step) == {"step", "loss", "step_time_ms", "tokens_per_s"} for step in steps)
    assert all(0 < step["loss"] < 10 and step["step_time_ms"] > 0 for step in steps)
    assert last["summary"]["steps"] == 20
    assert last["summary"]["logits_shape"] == [2, 12, 300]


def test_train_says_when_nothing_is_learned_any_more(call, tmp_path: Path):
    (tmp_path / "burst.py").write_text(
        "from torch import nn\n"
        "class make(nn.Embedding):\n"
        "    steps = 0\n"
        "    def __init__(self, vocab_size): super().__init__(vocab_size, vocab_size)\n"
        "    def forward(self, ids):\n"
        "        self.steps += self.training\n"
        "        return super().forward(ids) * (float('inf') if self.steps >= 3 else 1)\n"
    )
    result = call("train", *SMALL, "--steps", 5, "--model", f"{tmp_path / 'burst.py'}:make")
    assert result.status == 0
    assert result.err == "ntp: the loss of step 3 is nan: nothing is learned from here on\n"


def test_train_says_what_the_models_code_has_changed_for_everybody(call, tmp_path: Path):
    (tmp_path / "rude.py").write_text(
        "import torch\n"
        "class make(torch.nn.Embedding):\n"
        "    def __init__(self, vocab_size):\n"
        "        super().__init__(vocab_size, vocab_size)\n"
        "        torch.set_num_threads(3)\n"
        "    def forward(self, ids):\n"
        "        torch.use_deterministic_algorithms(self.training)\n"
        "        return super().forward(ids)\n"
    )
    try:
        result = call("train", *SMALL, "--steps", 5, "--threads", 2, "--model", f"{tmp_path / 'rude.py'}:make")
    finally:
        torch.use_deterministic_algorithms(False)
    assert result.status == 0
    changed = "ntp: the model's code has changed {}, for the whole process"
    assert result.err.splitlines() == [
        changed.format("threads from 2 to 3"),
        changed.format("deterministic algorithms from off to on"),
    ]


def test_train_without_options_is_the_default_workload(call, monkeypatch):
    asked = []

    def started(*arguments: object) -> None:
        asked.append(arguments)
        raise NtpError("enough")

    monkeypatch.setattr("ntp.core.train.TrainingRun", started)
    call("train")
    assert asked == [(Workload(), StepConfig(), None)]


def test_train_goes_on_from_its_checkpoint(call, tmp_path: Path):
    plain = ["train", *SMALL, "--log-every", 1]
    saving = [*plain, "--checkpoint", tmp_path / "run"]
    whole = call(*plain, "--json", "--steps", 6).out.splitlines()
    first, second, third = (call(*saving, "--json", "--steps", steps) for steps in (3, 6, 6))
    assert first.err == ""
    assert second.err == "ntp: resuming from step 3\n"
    assert third.err == "ntp: step 6 is already done, nothing is left to train: raise --steps 6\n"

    def losses(lines: list[str]) -> list[float]:
        return [json.loads(line)["loss"] for line in lines[:-1]]

    assert losses(first.out.splitlines()) + losses(second.out.splitlines()) == losses(whole)
    (summary,) = map(json.loads, third.out.splitlines())
    assert summary["summary"]["tokens_per_s"] is None
    assert "input (2, 12)" in call(*saving, "--steps", 6).out.splitlines()[0]


def test_ctrl_c_saves_says_so_and_exits_130(call, tmp_path: Path, monkeypatch):
    timed_step = TrainingRun._timed_step

    def interrupted_step(self: TrainingRun) -> tuple[float, float]:
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
        return timed_step(self)

    monkeypatch.setattr(TrainingRun, "_timed_step", interrupted_step)
    result = call("train", *SMALL, "--checkpoint", tmp_path)
    assert result.status == 130
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert result.err == (
        f"ntp: interrupted after step 4 of 100; saved in {tmp_path}, the same command resumes from there\n"
    )
    assert len(result.out.splitlines()) == 1
    assert "nothing is saved" in call("train", *SMALL).err


def test_predict_writes_ids_for_ids_and_text_for_text(call, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("abcdefgh" * 50)
    trained = call(
        "train", "--data", f"file:{text}", "--vocab-size", 128, "--embed-dim", 64, "--hidden-dim", 64, "--seq-len", 12,
        "--steps", 200, "--checkpoint", tmp_path / "run",
    )  # fmt: skip
    assert trained.status == 0
    predict = ["predict", "--checkpoint", tmp_path / "run", "--max-new-tokens", 4]
    assert call(*predict, "--prompt", "xyzab").out == "cdef\n"
    assert call(*predict, "--prompt-ids", "97,98").out == "99,100,101,102\n"
    assert json.loads(call(*predict, "--prompt", "ab", "--json").out) == {
        "prompt_ids": [97, 98], "new_ids": [99, 100, 101, 102], "text": "cdef"
    }  # fmt: skip
    assert json.loads(call(*predict, "--prompt-ids", "97", "--json").out)["text"] is None
    hot = [*predict, "--prompt-ids", "97", "--temperature", 50]
    one, same, other = (call(*hot, "--seed", seed).out for seed in (1, 1, 2))
    assert one == same != other
    assert call(*hot, "--top-k", 1).out == "98,99,100,101\n"
    assert "prompt id 200 is not in the vocabulary" in call(*predict, "--prompt-ids", "200").err
    assert "prompt id 195" in call(*predict, "--prompt", "é").err


def test_threads_are_set_for_the_run_alone(call, monkeypatch):
    before, during = torch.get_num_threads(), []
    monkeypatch.setattr("ntp.core.train.TrainingRun", lambda *_: during.append(torch.get_num_threads()) or 1 / 0)
    monkeypatch.setattr("ntp.machine.cpus.check_threads", lambda _: None)  # this machine may have one CPU
    call("train", "--threads", before + 1)
    assert during == [before + 1]
    assert torch.get_num_threads() == before
