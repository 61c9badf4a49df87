"""The parts of DALLE-pytorch's transformer that its painter and its reranking CLIP have in common.

A block has two branches, each of them norm, function, a second norm where the block is a sandwich
(Ding et al. 2021, arXiv:2105.13290), and a learned scale (Touvron et al. 2021, arXiv:2103.17239).
Functions stand apart, since blocks may share them while each keeps its own norms and scales.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.nn.linear import Linear
from lascaux.nn.transformer import LayerNorm


class Branch(nn.Module):
    """What stands before and behind a function that is added to the residual stream."""

    def __init__(self, width: int, depth: int, *, sandwich: bool = False) -> None:
        """Make the branch of the block that is the `depth`-th, counted from 1."""
        super().__init__()
        self.norm = LayerNorm(width)
        self.norm_out = LayerNorm(width) if sandwich else None
        first = 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6  # Touvron et al., section 4
        self.scale = nn.Parameter(torch.full((width,), first))

    def before(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What the function gets."""
        return self.norm(x)

    def after(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What of the function's result is added to the stream."""
        return (x if self.norm_out is None else self.norm_out(x)) * self.scale


class Block(nn.Module):
    """The branches of one block."""

    def __init__(self, width: int, depth: int, *, sandwich: bool = False) -> None:
        super().__init__()
        self.attention = Branch(width, depth, sandwich=sandwich)
        self.mlp = Branch(width, depth, sandwich=sandwich)


class HeadProjections(nn.Module):
    """Queries, keys and values of all heads, and the way back; their width is a number of its own.

    What the positions see of each other is the caller's.
    """

    def __init__(self, width: int, heads: int, head_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * heads * head_width, bias=False)
        self.out = Linear(heads * head_width, width)
        self.dropout = dropout

    def project(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "three b h n k"]:
        """Queries, keys and values."""
        return rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.heads)

    def merge(self, mixed: Float[Tensor, "b h n k"]) -> Float[Tensor, "b n d"]:
        """What the heads found, as one vector for each position."""
        x = self.out(rearrange(mixed, "b h n k -> b n (h k)"))
        return F.dropout(x, self.dropout, self.training)


class GegluMlp(nn.Module):
    """Two layers, four times as wide between them, half of the first gating the other half.

    Shazeer 2020, arXiv:2002.05202, GEGLU.
    """

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = Linear(width, 8 * width)
        self.down = Linear(4 * width, width)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Every position changed by itself."""
        x, gate = self.up(x).chunk(2, dim=-1)
        return self.down(F.dropout(x * F.gelu(gate), self.dropout, self.training))
