"""Attention in which nothing sees what comes after it, whole sequences at once or step by step."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.attention import attention
from lascaux.nn.cache import Places
from lascaux.nn.linear import Linear


class CausalSelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself and what came before."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadInput(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], mask: Bool[Tensor, "n n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """What the positions of whole sequences tell each other.

        Args:
            x: the sequences.
            mask: what each position may see, instead of itself and all before it.
        """
        dropout = self.dropout if self.training else 0.0
        mixed = attention(*self._heads(x), mask=mask, causal=mask is None, dropout=dropout)
        return self.out(rearrange(mixed, "b h n k -> b n (h k)"))

    def step(self, x: Float[Tensor, "b m d"], layer: int, places: Places) -> Float[Tensor, "b m d"]:
        """What new positions take from each other and those that are kept.

        Args:
            x: the new positions.
            layer: which layer of the cache is this one's.
            places: where they are kept.
        """
        mixed = places.attend(layer, *self._heads(x))
        return self.out(rearrange(mixed, "b h m k -> b m (h k)"))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.heads)
        return q, k, v


def last_of(x: Float[Tensor, "b m d"], places: Places) -> Float[Tensor, "b d"]:
    """Of each row the last position that is no padding."""
    if min(places.counts) == places.count:
        return x[:, -1]
    last = torch.tensor(places.counts, device=x.device) - 1
    return x[torch.arange(len(x), device=x.device), last]
