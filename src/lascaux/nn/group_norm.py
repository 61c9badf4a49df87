"""Group norm whose gradients are not slow where torch's are.

Of a bfloat16 map in channels-last order on a CPU torch's own kernel takes two to five times as long
to and fro, where groups have four channels or fewer (`benchmarks/gradients.py`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_NARROW = 4  # channels of a group up to which torch's kernel is slow
_WIDE = 256  # values in a row from which additions with a row are as fast as they become


class GroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm`, of the same weights and with the same answers."""

    def forward(self, input: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The map, of mean 0 and variance 1 in each group of channels; scaled and shifted."""
        slow = (
            torch.is_grad_enabled()
            and input.dtype == torch.bfloat16
            and input.device.type == "cpu"
            and self.num_channels <= _NARROW * self.num_groups
            and input.is_contiguous(memory_format=torch.channels_last)
        )
        if not slow:
            return super().forward(input)
        return _Normed.apply(input, self.weight, self.bias, self.num_groups, self.eps)

    def silu(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The normed map after SiLU; where no gradients are needed, in the memory of the norm.

        New memory costs five times what SiLU does: 20 instead of 4 ms at 128 channels of 256 x 256.
        """
        return F.silu(self(x), inplace=not torch.is_grad_enabled())


class _Normed(torch.autograd.Function):
    """Torch's forward, and a backward in passes over rows of values that lie side by side."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float
    ) -> Tensor:
        b, c, rows, columns = x.shape
        area = rows * columns
        y, mean, scale = torch.native_group_norm(x, weight, bias, b, c, area, groups, epsilon)
        ctx.save_for_backward(x, weight, mean, scale)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """With n = (x - mean) scale: scale (w g - mean of w g - n mean of w g n), by groups."""
        x, weight, mean, scale = ctx.saved_tensors
        (g,) = gradients
        b, c, rows, columns = x.shape
        area, groups = rows * columns, mean.shape[1]
        x, g = (each.permute(0, 2, 3, 1).reshape(b, area, c) for each in (x, g))
        # A product with ones sums in float32; and twice as fast as `sum`.
        ones = torch.ones(1, 1, 1, dtype=x.dtype).expand(b, 1, area)
        sums, products = (torch.bmm(ones, each)[:, 0].float() for each in (g, g * x))
        width = c // groups
        mean, scale = (each.float().repeat_interleave(width, 1) for each in (mean, scale))
        normed = (products - mean * sums) * scale  # sums of g n

        def grouped(of: Tensor) -> Tensor:
            whole = (weight.float() * of).view(b, groups, width).sum(2) / (area * width)
            return whole.repeat_interleave(width, 1)

        steep = grouped(normed) * scale
        of_g, of_x = weight.float() * scale, -steep * scale
        constant = (steep * mean - grouped(sums)) * scale

        # Several positions make one row, as short rows are slow to add to.
        times = 1
        while c * times < _WIDE and area % (2 * times) == 0:
            times *= 2

        def row(of: Tensor) -> Tensor:
            return of.to(x.dtype).repeat(1, times)[:, None]

        x, g = (each.reshape(b, area // times, times * c) for each in (x, g))
        moved = torch.addcmul(row(constant), x, row(of_x)).addcmul_(g, row(of_g))
        moved = moved.view(b, rows, columns, c).permute(0, 3, 1, 2)
        dtype = weight.dtype
        return moved, normed.sum(0).to(dtype), sums.sum(0).to(dtype), None, None
