"""What is read after a block of steps, and what a model's code cannot do unnoticed."""

import json
import math
import sys

import pytest
import torch

from ntp.case import Case
from ntp.errors import ModelError
from ntp.judge.warnings import warnings_of
from ntp.records.endings import Ending, SettingChange
from ntp.worker.driver import Sampling, measure
from ntp.worker.worker import CaseHolder

SIZES = {"vocab_size": 11, "embed_dim": 4, "batch_size": 3, "seq_len": 5}
MODELS = """
import torch
from torch import nn

class Model(nn.Sequential):
    def forward(self, ids):
        logits = super().forward(ids)
        self.does(logits)
        return logits * self.factor

def make(vocab_size, embed_dim, factor=1.0, does=lambda logits: None):
    model = Model(nn.Embedding(vocab_size, embed_dim), nn.Linear(embed_dim, vocab_size))
    model.factor, model.does = factor, does
    return model

def plain(vocab_size, embed_dim):
    return make(vocab_size, embed_dim)

def threads_in_factory(vocab_size, embed_dim):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return make(vocab_size, embed_dim)

def threads_in_forward(vocab_size, embed_dim):
    return make(vocab_size, embed_dim, does=lambda logits: logits.requires_grad and torch.set_num_threads(3))

def dtype(vocab_size, embed_dim):
    torch.set_default_dtype(torch.float64)
    return make(vocab_size, embed_dim)

def late(vocab_size, embed_dim):
    return make(vocab_size, embed_dim, does=lambda logits: torch.use_deterministic_algorithms(True))

def not_a_number(vocab_size, embed_dim):
    return make(vocab_size, embed_dim, factor=float("nan"))

class Keeps(Model):
    kept = []

    def forward(self, ids):
        self.kept.append(super().forward(ids))
        return self.kept[-1]

def keeping(vocab_size, embed_dim):
    model = Keeps(nn.Embedding(vocab_size, embed_dim), nn.Linear(embed_dim, vocab_size))
    model.factor, model.does = 1.0, lambda logits: None
    return model
"""


@pytest.mark.parametrize(
    ("loss", "text"), [(6.5, "6.5"), (math.inf, '"inf"'), (-math.inf, '"-inf"'), (math.nan, '"nan"'), (None, "null")]
)
def test_a_loss_that_is_no_number_is_text_in_json_and_comes_back(loss, text):
    ending = Ending(loss=loss, anonymous_bytes=7, settings=(SettingChange(name="autocast", before="off", after="on"),))
    written = ending.model_dump_json()
    assert f'"loss":{text},' in written
    assert json.dumps(ending.model_dump(mode="json"), allow_nan=False)
    assert repr(Ending.model_validate_json(written)) == repr(ending)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """``load(factory)`` builds a case with that model in this process. Its settings are restored afterwards."""
    monkeypatch.setattr("torch.set_num_interop_threads", lambda threads: None)  # torch takes it once a process
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("sys.path", list(sys.path))
    path = tmp_path / "models.py"
    path.write_text(MODELS)

    def load(factory):
        holder = CaseHolder()
        case = Case.of({**SIZES, "model": f"{path}:{factory}", "threads": 2})
        holder.load(case.model_dump(mode="json"), None)
        return holder

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    yield load
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.use_deterministic_algorithms(False)


def test_a_model_that_leaves_all_as_it_was_has_the_loss_of_the_last_step(load):
    holder = load("plain")
    ending = holder.run(3).ending
    assert ending.settings == ()
    assert 0 < ending.loss < 10
    assert ending.loss == holder._stepper.loss.item()


def test_the_number_of_threads_is_the_cases_or_there_is_no_measurement(load):
    with pytest.raises(
        ModelError, match=r"torch's threads to 3, and the case says 2: remove .* from it, or measure it"
    ):
        load("threads_in_factory")
    holder = load("threads_in_forward")
    with pytest.raises(ModelError, match="torch's threads to 3, and the case says 2"):
        holder.run(1)


def test_other_settings_are_told_of_whenever_they_were_changed(load):
    (change,) = load("dtype").run(1).ending.settings
    assert change == SettingChange(name="default dtype", before="torch.float32", after="torch.float64")
    torch.set_default_dtype(torch.float32)
    (change,) = load("late").run(1).ending.settings
    assert (change.name, change.after) == ("deterministic algorithms", "on")


def test_a_loss_that_is_not_a_number_is_in_the_answer(load):
    assert math.isnan(load("not_a_number").run(2).ending.loss)


@pytest.mark.skipif(sys.platform != "linux", reason="the resident size is read from /proc")
@pytest.mark.parametrize(("factory", "grows"), [("plain", False), ("keeping", True)])
def test_a_process_that_keeps_what_every_step_makes_is_told_from_one_that_does_not(
    tmp_path, start_worker, factory, grows
):
    (tmp_path / "models.py").write_text(MODELS)
    model = f"{tmp_path / 'models.py'}:{factory}"
    case = Case.of({"model": model, "vocab_size": 500, "embed_dim": 8, "batch_size": 16, "seq_len": 32})
    with start_worker(case) as worker:
        measurement = measure(case, worker, Sampling(time_s=0.1, min_samples=64))
    assert len(measurement.endings) == 8
    assert ("growing-memory" in {warning.kind for warning in warnings_of(measurement)}) == grows
