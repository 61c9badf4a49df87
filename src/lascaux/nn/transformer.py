"""The plain transformer block of image tokenisers: norm, attention, norm, MLP with exact GELU.

Dosovitskiy et al.: "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929, equations 2 and 3.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.attention import attention
from lascaux.nn.linear import Linear


class LayerNorm(nn.LayerNorm):
    """Layer norm that is computed in float32 whatever the weights are kept in."""

    def forward(self, input: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The normalised sequence, in the dtype it came in."""
        wide = torch.promote_types(input.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return F.layer_norm(input.to(wide), self.normalized_shape, weight, bias, self.eps).to(
            input.dtype
        )


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence to itself; every position sees every other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise BadInput(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)

    def initialise(self) -> None:
        """Draw the weights anew, as `torch.nn.MultiheadAttention` does."""
        nn.init.xavier_uniform_(self.qkv.weight)
        self.out.reset_parameters()
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """What the positions tell each other."""
        q, k, v = rearrange(self.qkv(x), "b n (three h k) -> three b h n k", three=3, h=self.heads)
        mixed = attention(q, k, v)
        return self.out(rearrange(mixed, "b h n k -> b n (h k)"))


class Mlp(nn.Module):
    """Two layers with exact GELU between them."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden_width)
        self.down = Linear(hidden_width, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Every position changed by itself."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.attention_norm = LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = LayerNorm(width)
        self.mlp = Mlp(width, mlp_width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """The residual stream after attention and MLP."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))
