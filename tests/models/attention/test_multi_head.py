"""Multi-head attention beside single heads; its equation, and all that scorers share, is in `test_base.py`."""

from __future__ import annotations

import torch

from captioner.models.attention import MultiHeadAttention, ScaledDotAttention
from captioner.types import Memory


@torch.no_grad()
def test_one_head_that_changes_no_values_is_scaled_dot_attention():
    torch.manual_seed(0)
    several = MultiHeadAttention(6, 5, num_heads=1, attention_dim=6).double()
    single = ScaledDotAttention(6, 5, attention_dim=6).double()
    single.load_state_dict({name: several.state_dict()[name] for name in single.state_dict()})
    for layer in (several.value, several.output):
        layer.weight.copy_(torch.eye(6))
    memory = Memory.from_words(torch.randn(2, 4, 6).double(), torch.tensor([[True] * 4, [True] * 2 + [False] * 2]))
    query = torch.randn(2, 3, 5).double()
    seen, expected = (each(query, each.prepare(memory)) for each in (several, single))
    torch.testing.assert_close(seen.alpha, expected.alpha)
    torch.testing.assert_close(seen.context, expected.context)
    torch.testing.assert_close(seen.extras["heads"][:, :, 0], expected.alpha)


def test_heads_lie_apart_in_a_prepared_memory():
    attention = MultiHeadAttention(6, 5, num_heads=2, attention_dim=8)
    memory = attention.prepare(Memory.from_words(torch.randn(2, 4, 6), torch.ones(2, 4, dtype=torch.bool)))
    assert memory.keys.shape == memory.values.shape == (2, 2, 4, 4)  # (B, N, L, A / N)
    assert memory.keys.is_contiguous()
