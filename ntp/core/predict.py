"""Next tokens from a trained model: the most probable ones, or drawn ones.

Shapes: V vocabulary size.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ntp.case import Workload, check_trusted
from ntp.core import checkpoint as checkpoints
from ntp.core.language_model import LanguageModel, evaluating, model_errors
from ntp.core.model import load_model
from ntp.errors import ModelError, OptionError


def load_trained(directory: Path | str, named: str | None = None) -> tuple[LanguageModel, Workload]:
    """The model of the checkpoint in ``directory``, and the workload that it was trained on.

    Args:
        directory: what ``ntp train --checkpoint`` wrote, here or elsewhere.
        named: the model spec that the user gave. Without it, only the built-in model is run.

    Raises:
        CheckpointError: it is missing, damaged, or does not fit the model's code.
        Untrusted: it is of a model that was not named.
        ModelError: the model cannot be built.
    """
    saved = checkpoints.load(Path(directory))
    spec, source = saved.config.workload.model, f"the checkpoint in {str(directory)!r}"
    if named is not None and named != spec:
        raise OptionError(f"{source} is of model {spec!r}, not {named!r}: name another directory or another --model")
    check_trusted(spec, named, source)
    model = load_model(saved.config.workload)
    try:
        model.module.load_state_dict(saved.model)
    except (RuntimeError, TypeError) as exc:
        raise saved.mismatch(exc) from exc
    return model, saved.config.workload


def parse_prompt(text: str | None, ids: str | None) -> list[int]:
    """The ids of a prompt: the UTF-8 bytes of ``text``, or the comma-separated ``ids``. Exactly one of the two.

    Raises:
        OptionError: none or both are given, the prompt is empty, or the ids are no whole numbers.
    """
    if (text is None) == (ids is None):
        raise OptionError("a prompt is needed, and only one: give --prompt-ids 1,2,3 or --prompt TEXT")
    if text is not None:
        prompt = list(text.encode("utf-8", "surrogateescape"))  # bytes that are not UTF-8 come as surrogates
    else:
        try:
            prompt = [int(part) for part in ids.split(",")] if ids else []
        except ValueError:
            raise OptionError(f"prompt-ids {ids!r} are no whole numbers: write them as 1,2,3") from None
    if not prompt:
        raise OptionError("the prompt is empty: give at least one token")
    return prompt


def generate(
    model: LanguageModel,
    workload: Workload,
    prompt: Sequence[int],
    max_new_tokens: int = 16,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 42,
) -> Iterator[int]:
    """The ids that follow ``prompt``, one at a time; of a long context the model sees the last ``seq_len`` ids.

    Temperature 0 takes the most probable id, the first of equals. Above 0 an id is drawn from
    softmax(logits / temperature), with ``top_k`` from the k most probable alone, by a generator of its own.

    Raises:
        OptionError: an id is not in the vocabulary, or an option makes no sense. At once, not at the first id.
        ModelError: the model failed, or its logits are not finite.
    """
    outside = [i for i in prompt if not 0 <= i < workload.vocab_size]
    if outside:
        raise OptionError(
            f"prompt id {outside[0]} is not in the vocabulary: its ids are 0 to {workload.vocab_size - 1}"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise OptionError(
            f"temperature {temperature} makes no sense: 0 is greedy, 1 draws from the model's own distribution"
        )
    if top_k is not None and top_k < 1:
        raise OptionError(f"top-k {top_k} makes no sense: give 1 or more")
    if top_k is not None and temperature == 0:
        raise OptionError(f"top-k {top_k} has no effect on greedy prediction: add --temperature 1")
    generator = torch.Generator().manual_seed(seed)
    return _generate(model, workload, list(prompt), max_new_tokens, temperature, top_k, generator)


def _generate(
    model: LanguageModel,
    workload: Workload,
    ids: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
) -> Iterator[int]:
    for _ in range(max_new_tokens):
        context = torch.tensor([ids[-workload.seq_len :]])  # (1, up to T)
        with evaluating(model.module), model_errors("predicting failed"):
            logits = model.logits(context)[0, -1, : workload.vocab_size]  # (V,)
        if not logits.isfinite().all():
            raise ModelError("the model's logits are not finite: its training diverged, train it anew")
        ids.append(_choose(logits, temperature, top_k, generator))
        yield ids[-1]


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    # In float64, and from the largest down: a tiny temperature must neither overflow nor divide 0 by 0.
    scaled, ids = torch.sort(logits.double() - logits.max().double(), descending=True)  # (V,), (V,)
    probabilities = torch.softmax(scaled[:top_k] / temperature, dim=0)  # (k,)
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


def as_text(ids: Sequence[int]) -> str:
    """The text of byte-level ids; what is no byte, or no UTF-8, becomes U+FFFD."""
    replacement = "\N{REPLACEMENT CHARACTER}".encode()
    return b"".join(bytes([i]) if i < 256 else replacement for i in ids).decode("utf-8", "replace")
