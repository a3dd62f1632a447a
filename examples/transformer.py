"""A small transformer: one causal layer of torch's own, 64 wide.

    ntp train --model examples/transformer.py:small --steps 20

B: batch size, T: sequence length, C: width, V: vocabulary size.
"""

import torch
from torch import nn

WIDTH, HEADS = 64, 4


class Transformer(nn.Module):
    """Embeds tokens and their positions, attends to earlier positions, and projects back to the vocabulary."""

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, WIDTH)
        self.positions = nn.Embedding(seq_len, WIDTH)
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(WIDTH, vocab_size)
        self.register_buffer("later", nn.Transformer.generate_square_subsequent_mask(seq_len), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:  # (B, T) -> (B, T, V)
        length = ids.shape[1]
        x = self.tokens(ids) + self.positions.weight[:length]  # (B, T, C)
        x = self.layer(x, src_mask=self.later[:length, :length], is_causal=True)  # (B, T, C)
        return self.head(x)


def small(vocab_size: int, seq_len: int) -> Transformer:
    return Transformer(vocab_size, seq_len)
