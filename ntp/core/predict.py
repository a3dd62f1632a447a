"""Generate tokens from a trained model, greedily or by sampling.

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
    """Load the model of the checkpoint in ``directory``, and the workload that it was trained on.

    Args:
        directory: written by ``ntp train --checkpoint``, on any machine.
        named: the model spec that the user gave. Without it, only the built-in model is loaded.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or does not fit the model's code.
        Untrusted: the checkpoint names a model that the user did not name.
        ModelError: the model cannot be built.
    """
    saved = checkpoints.load(Path(directory))
    spec, source = saved.config.workload.model, f"the checkpoint in {str(directory)!r}"
    if named is not None and named != spec:
        raise OptionError(f"{source} names the model {spec!r}, not {named!r}: name another directory or --model")
    check_trusted(spec, named, source)
    model = load_model(saved.config.workload)
    try:
        model.module.load_state_dict(saved.model)
    except (RuntimeError, TypeError) as exc:
        raise saved.mismatch(exc) from exc
    return model, saved.config.workload


def parse_prompt(text: str | None, ids: str | None) -> list[int]:
    """Parse a prompt into ids: the UTF-8 bytes of ``text``, or the comma-separated ``ids``.

    Raises:
        OptionError: none or both are given, the prompt is empty, or the ids are not whole numbers.
    """
    if (text is None) == (ids is None):
        raise OptionError("give exactly one prompt: --prompt-ids 1,2,3 or --prompt TEXT")
    if text is not None:
        prompt = list(text.encode("utf-8", "surrogateescape"))  # surrogates stand for bytes that are not UTF-8
    else:
        try:
            prompt = [int(part) for part in ids.split(",")] if ids else []
        except ValueError:
            raise OptionError(f"prompt-ids {ids!r} are not whole numbers: write them as 1,2,3") from None
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
    """Yield the ids that follow ``prompt``. The model sees the last ``seq_len`` ids of a long context.

    Temperature 0 takes the most probable id, the first one in a tie. Above 0 an id is drawn from
    softmax(logits / temperature), with ``top_k`` from the k most probable only. It has its own random generator.

    Raises:
        OptionError: an id is not in the vocabulary, or an option is invalid. Raised by the call, not by the first id.
        ModelError: the model failed, or its logits are not finite.
    """
    outside = [token for token in prompt if not 0 <= token < workload.vocab_size]
    if outside:
        raise OptionError(
            f"prompt id {outside[0]} is not in the vocabulary: its ids are 0 to {workload.vocab_size - 1}"
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        raise OptionError(
            f"temperature {temperature} is not valid: 0 is greedy, 1 draws from the model's own distribution"
        )
    if top_k is not None and top_k < 1:
        raise OptionError(f"top-k {top_k} is not valid: give 1 or more")
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
            raise ModelError("the model's logits are not finite: its training diverged, so train it again")
        ids.append(_choose(logits, temperature, top_k, generator))
        yield ids[-1]


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    # In float64 and sorted from the largest down: a tiny temperature must neither overflow nor divide 0 by 0.
    scaled, ids = torch.sort(logits.double() - logits.max().double(), descending=True)  # (V,), (V,)
    probabilities = torch.softmax(scaled[:top_k] / temperature, dim=0)  # (k,)
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


def as_text(ids: Sequence[int]) -> str:
    """Decode byte-level ids as UTF-8; what is not a byte, or not UTF-8, becomes U+FFFD."""
    replacement = "\N{REPLACEMENT CHARACTER}".encode()
    return b"".join(bytes([i]) if i < 256 else replacement for i in ids).decode("utf-8", "replace")
