"""A model from another library: a small GPT-2, built from its config with random weights.

    ntp train --model examples/gpt2.py:tiny --steps 20

Needs transformers (``pip install 'ntp[transformers]'``); downloads nothing.
"""

from transformers import GPT2Config, GPT2LMHeadModel


def tiny(vocab_size: int, seq_len: int) -> GPT2LMHeadModel:
    """Two layers with four heads, 128 wide. Returns an object with ``.logits``, which is all that ntp needs."""
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=seq_len,
        n_layer=2,
        n_head=4,
        n_embd=128,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config)
