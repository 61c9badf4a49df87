"""A sketch of a picture bettered by convolutions that know what is to be seen.

A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with the residual blocks and conditioned group
norms of Dhariwal and Nichol 2021 (arXiv:2105.05233, section 4.1). Convolutions do alike wherever a
thing stands, so that what is learnt of it in one place serves in all.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.group_norm import GroupNorm
from lascaux.nn.linear import Linear
from lascaux.nn.transformer import SelfAttention

_PIXELS = 2  # along a side; their colours are the channels of the largest map
_GROUP = 8  # channels that are normed together
_HEAD = 32  # channels of a head of attention


class ConditionedResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the condition scales and shifts between them."""

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(width // _GROUP, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = GroupNorm(width // _GROUP, width)
        self.change = Linear(condition_width, 2 * width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "b c y x"], condition: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c y x"]:
        """The map, changed as the condition says."""
        scale, shift = self.change(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return x + self.conv2(F.silu(h))


class MapAttention(nn.Module):
    """Attention of all positions of a map to each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = GroupNorm(width // _GROUP, width)
        self.attention = SelfAttention(width, width // _HEAD)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The map with what its positions told each other."""
        flat = rearrange(self.norm(x), "b c y x -> b (y x) c")
        return x + rearrange(self.attention(flat), "b (y x) c -> b c y x", y=x.shape[2])


class Retoucher(nn.Module):
    """From a sketch and what is known of a picture to the picture.

    Args:
        told: numbers that are known of a picture.
        condition_width: of what the blocks are told of them.
        widths: channels at a half of the picture's side, at a quarter and so on.
    """

    def __init__(self, told: int, condition_width: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widen = Linear(told, condition_width)
        self.deepen = Linear(condition_width, condition_width)
        self.first = nn.Conv2d(3 * _PIXELS**2, widths[0], 3, padding=1)
        self.falling = nn.ModuleList(
            ConditionedResidualBlock(width, condition_width) for width in widths[:-1]
        )
        self.smaller = nn.ModuleList(
            nn.Conv2d(width, wider, 3, stride=2, padding=1) for width, wider in pairwise(widths)
        )
        self.middle = nn.ModuleList(
            ConditionedResidualBlock(widths[-1], condition_width) for _ in range(2)
        )
        self.attention = MapAttention(widths[-1])
        self.larger = nn.ModuleList(nn.Conv2d(wider, width, 1) for width, wider in pairwise(widths))
        # Two of each width.
        self.rising = nn.ModuleList(
            ConditionedResidualBlock(width, condition_width)
            for width in widths[:-1]
            for _ in range(2)
        )
        self.last_norm = GroupNorm(widths[0] // _GROUP, widths[0])
        self.last = nn.Conv2d(widths[0], 3 * _PIXELS**2, 3, padding=1)

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights anew, so that the sketch comes back as it is."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
            elif isinstance(module, SelfAttention):
                module.initialise()
        for module in self.modules():
            if isinstance(module, ConditionedResidualBlock):
                for each in module.change.parameters():
                    each.zero_()
        for each in self.last.parameters():
            each.zero_()

    def blocks(self) -> list[nn.Module]:
        """All that lies between the first and the last convolution, in parts."""
        inner = (self.falling, self.smaller, self.middle, self.larger, self.rising)
        return [self.attention, *(block for part in inner for block in part)]

    def forward(
        self, told: Float[Tensor, "b n"], sketch: Float[Tensor, "b c y x"]
    ) -> Float[Tensor, "b c y x"]:
        """Normalised pictures, unclamped, of normalised sketches."""
        c = self.widen(told.to(self.widen.weight.dtype))
        c = F.silu(self.deepen(F.silu(c)))
        x = F.pixel_unshuffle(sketch.to(c.dtype), _PIXELS)
        x = self.first(x.contiguous(memory_format=torch.channels_last))
        passed = []
        for block, smaller in zip(self.falling, self.smaller, strict=True):
            x = block(x, c)
            passed.append(x)
            x = smaller(x)
        x = self.middle[1](self.attention(self.middle[0](x, c)), c)
        for level in reversed(range(len(passed))):
            x = F.interpolate(self.larger[level](x), scale_factor=2.0, mode="nearest")
            x = x + passed[level]
            for block in self.rising[2 * level : 2 * level + 2]:
                x = block(x, c)
        x = self.last(F.silu(self.last_norm(x)))
        return sketch + F.pixel_shuffle(x, _PIXELS)


def require_widths(widths: tuple[int, ...], image_size: int) -> None:
    """Refuse widths that do not divide into groups and heads, or that are more than sides halve.

    Raises:
        BadInput: they are such.
    """
    if not widths or any(width < _GROUP or width % _GROUP for width in widths):
        raise BadInput(f"retouching_widths {widths}; expected multiples of {_GROUP}")
    if widths[-1] % _HEAD:
        raise BadInput(f"retouching_widths {widths}: the last is no multiple of {_HEAD}")
    if image_size % (factor := _PIXELS * 2 ** (len(widths) - 1)):
        raise BadInput(
            f"retouching_widths {widths}: image_size {image_size} must be divisible by {factor}"
        )
