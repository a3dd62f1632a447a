"""Each kind of model is called as it needs to be, in training and elsewhere."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ntp.case import StepConfig, Workload, named_step
from ntp.core.language_model import LanguageModel, logits_of, loss_of, understood
from ntp.core.losses import OwnLoss
from ntp.core.predict import generate, load_trained
from ntp.core.step import Training
from ntp.core.train import TrainingRun
from ntp.errors import ModelError, StepError

VOCAB, WIDTH, LENGTH = 13, 8, 6
PLAIN = StepConfig()
MODELS = '''
import torch
import torch.nn.functional as F
from torch import nn

class Base(nn.Module):
    """Embedding and head, with a layer between them that looks at earlier tokens."""

    def __init__(self, vocab_size, embed_dim, seq_len):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab_size, embed_dim), nn.Embedding(seq_len, embed_dim)
        self.attention = nn.Linear(embed_dim, 3 * embed_dim)
        self.drop = nn.Dropout(0.1)
        self.lm_head = nn.Linear(embed_dim, vocab_size, bias=False)
        self.wte.weight = self.lm_head.weight

    def hidden(self, ids):
        x = self.drop(self.wte(ids) + self.wpe(torch.arange(ids.shape[1])))
        q, k, v = self.attention(x).chunk(3, dim=-1)
        return x + F.scaled_dot_product_attention(q, k, v, is_causal=True)

class Plain(Base):
    def forward(self, ids):
        return self.lm_head(self.hidden(ids))

class Nano(Base):
    """Like nanoGPT, returns only the last position's logits without targets."""

    def forward(self, idx, targets=None):
        assert idx.shape[1] <= self.wpe.num_embeddings
        x = self.hidden(idx)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)

class Demands(Nano):
    def forward(self, idx, targets):
        return super().forward(idx, targets)

class Summed(Nano):
    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        return logits, None if loss is None else loss * idx.numel()

class Smoothed(Nano):
    """Has another loss in training mode only."""

    def forward(self, idx, targets=None):
        logits, loss = super().forward(idx, targets)
        if loss is not None and self.training:
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1)
        return logits, loss

class Cheats(Nano):
    def forward(self, idx, targets):
        logits, loss = super().forward(idx, targets)
        return logits + F.one_hot(targets, logits.shape[-1]), loss

class NoLoss(Base):
    def forward(self, idx, labels=None):
        x = self.hidden(idx)
        return self.lm_head(x if labels is not None else x[:, -1:])

class WithTuple(Plain):
    def forward(self, ids):
        return super().forward(ids), None

class WithDict(Plain):
    def forward(self, ids):
        return {"loss": None, "logits": super().forward(ids)}

class Masked(Plain):
    def forward(self, input_ids, attention_mask):
        assert attention_mask.shape == input_ids.shape
        return super().forward(input_ids) * attention_mask[..., None]

class MaybeMasked(Plain):
    """The model fails without a mask, although its signature has a default."""

    def forward(self, input_ids, attention_mask=None):
        return {"logits": super().forward(input_ids) * attention_mask[..., None]}

class Optional(Plain):
    def forward(self, input_ids, attention_mask=None, labels=None):
        assert attention_mask is None and labels is None
        return super().forward(input_ids)

class Nothing(Plain):
    def forward(self, ids, targets=None):
        return None, None

class OneToken(Nano):
    """Looks at a single token."""

    def hidden(self, ids):
        return self.wte(ids)
'''
NAMES = {
    "Plain": ("", False, False),
    "WithTuple": ("", False, False),
    "WithDict": ("", False, False),
    "Optional": ("", False, False),
    "Masked": ("", True, False),
    "MaybeMasked": ("", True, False),
    "Nano": ("targets", False, True),
    "Demands": ("targets", False, True),
    "NoLoss": ("labels", False, False),
}
needs_chunked = pytest.mark.skipif(
    not hasattr(nn.functional, "linear_cross_entropy"), reason="this torch has no linear_cross_entropy"
)


@pytest.fixture
def workload(tmp_path):
    """``workload(name)`` returns a workload of the model with that name."""
    (tmp_path / "models.py").write_text(MODELS)
    return lambda name: Workload(
        model=f"{tmp_path / 'models.py'}:{name}", vocab_size=VOCAB, embed_dim=WIDTH, batch_size=3, seq_len=LENGTH
    )


def losses(workload: Workload, step: StepConfig = PLAIN) -> list[float]:
    training = Training.start(workload, step)
    return [training.step().item() for _ in range(4)]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_asked_as_it_wants_to_be_and_trains_as_the_plain_one(workload, name: str):
    model = Training.start(workload(name), StepConfig()).language_model
    assert (model.targets, model.masked, model.own_loss) == NAMES[name]
    assert losses(workload(name)) == pytest.approx(losses(workload("Plain")), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_summed_up_saved_and_predicts_as_the_plain_one(workload, name: str, tmp_path):
    predicted = []
    for folder, factory in (("plain", "Plain"), ("other", name)):
        run = TrainingRun(workload(factory), StepConfig(), tmp_path / folder)
        assert len(list(run.run(3))) == 3
        summary = run.summary()
        assert summary.logits_shape == (3, LENGTH, VOCAB)
        model, trained = load_trained(tmp_path / folder, workload(factory).model)
        predicted.append((summary.predicted_ids, list(generate(model, trained, [1, 2], 9))))
    assert predicted[0] == predicted[1]


@needs_chunked
@pytest.mark.parametrize("name", [name for name, (_, _, own_loss) in NAMES.items() if not own_loss])
def test_its_loss_can_be_chunked(workload, name: str):
    assert losses(workload(name), named_step("chunked")) == pytest.approx(losses(workload("Plain")), abs=1e-5)


@pytest.mark.parametrize("name", ["Nano", "Demands"])
def test_one_that_computes_its_own_loss_is_not_chunked(workload, name: str):
    with pytest.raises(StepError, match=r"loss chunked"):
        Training.start(workload(name), named_step("chunked"))


@pytest.mark.parametrize("name", NAMES)
def test_attention_is_not_deduplicated_however_it_is_asked(workload, name: str):
    with pytest.raises(StepError, match="not context-free"):
        Training.start(workload(name), named_step("deduplicated"))


def test_what_looks_at_one_token_alone_is_deduplicated_though_it_wants_targets(workload):
    assert isinstance(Training.start(workload("OneToken"), StepConfig()).method.path, OwnLoss)
    actual, expected = losses(workload("OneToken"), named_step("deduplicated")), losses(workload("OneToken"))
    assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["Summed", "Smoothed"])
def test_a_loss_of_its_own_that_is_another_is_refused(workload, name: str):
    with pytest.raises(StepError, match=r"^the model's own loss: .* its loss is .* instead of .*; use the mean cross"):
        Training.start(workload(name), StepConfig())


def test_a_model_that_is_told_what_to_predict_is_refused(workload):
    with pytest.raises(ModelError, match="its logits depend on the targets"):
        Training.start(workload("Cheats"), StepConfig())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Nothing", "returned tuple: its forward must return a tensor, a tuple that begins with one, or an object"),
        ("Base", "its forward failed on \\(2, 6\\) ids: NotImplementedError"),
    ],
)
def test_what_is_not_understood_is_refused_as_it_was_first(workload, name: str, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        Training.start(workload(name), StepConfig())
    assert "\n" not in str(caught.value)


LOGITS, LOSS = torch.zeros(2, 3, 5), torch.tensor(1.5)
Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    ("output", "has_loss"),
    [
        (LOGITS, False),
        ((LOGITS,), False),
        ([LOGITS, None], False),
        ((LOGITS, LOSS), True),
        ((LOGITS, LOSS.view(1)), True),
        ((LOGITS, LOGITS), False),
        (Pair(LOGITS, LOSS), True),
        ({"logits": LOGITS}, False),
        (OrderedDict(loss=LOSS, logits=LOGITS), True),
        (SimpleNamespace(logits=LOGITS, loss=LOSS), True),
        (SimpleNamespace(logits=LOGITS, loss=None), False),
    ],
)
def test_logits_and_loss_are_found_in_what_models_return(output: object, has_loss: bool):
    assert logits_of(output) is LOGITS
    loss = loss_of(output)
    assert (loss is not None) == has_loss
    assert loss is None or (loss.shape == () and loss.item() == 1.5)


@pytest.mark.parametrize("output", [None, (), (None, LOGITS), {"hidden": LOGITS}, {"logits": None}, "logits"])
def test_where_there_are_no_logits_none_are_made_up(output: object):
    with pytest.raises(ModelError, match=f"returned {type(output).__name__}: "):
        logits_of(output)


def test_looking_for_a_way_leaves_no_trace(workload):
    class Draws(nn.Embedding):
        def forward(self, ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            logits = super().forward(ids) + 0 * torch.rand(1)
            if targets is None:
                return logits[:, -1:], None
            return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    model = Draws(VOCAB, VOCAB).train()
    state = torch.get_rng_state()
    assert understood(model, workload("Plain")) == LanguageModel(model, targets="targets", own_loss=True)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
