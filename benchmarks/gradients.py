"""Gradients in bfloat16 on a CPU: ours beside torch's, processor time of both passes.

    OMP_NUM_THREADS=1 python benchmarks/gradients.py

Group norm of maps in channels-last order, and attention of short sequences; 16 pictures at a time.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.nn.attention import attention
from lascaux.nn.group_norm import GroupNorm

_PICTURES = 16
_ROUNDS = 9


def seconds(forward: Callable[[], Tensor], of: list[Tensor]) -> float:
    """Processor time of one pass to and fro."""
    began = time.process_time()
    y = forward()
    torch.autograd.grad(y, of, torch.ones_like(y))
    return time.process_time() - began


def compared(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], of: list[Tensor]) -> str:
    """Torch's time over ours: median and range of rounds that take turns."""
    for each in (ours, theirs):
        seconds(each, of)
    ratios = sorted(seconds(theirs, of) / seconds(ours, of) for _ in range(_ROUNDS))
    return f"{statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"


def main() -> None:
    """Print a table."""
    print("| what | torch's time over ours |\n|---|---|")
    for channels, groups, size in ((16, 8, 64), (32, 8, 32), (128, 32, 64), (64, 8, 16)):
        x = torch.randn(_PICTURES, channels, size, size).bfloat16()
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        norm = GroupNorm(groups, channels)
        plain = torch.nn.GroupNorm(groups, channels)
        told = compared(lambda: norm(x), lambda: plain(x), [x])  # noqa: B023  # called at once
        print(f"| group norm, {channels} channels in {groups} groups, {size} x {size} | {told} |")
    for heads, width, length in ((3, 32, 100), (4, 64, 65), (8, 64, 257), (12, 64, 577)):
        of = [
            torch.randn(_PICTURES, heads, length, width).bfloat16().requires_grad_()
            for _ in range(3)
        ]
        told = compared(
            lambda: attention(*of),  # noqa: B023
            lambda: F.scaled_dot_product_attention(*of),  # noqa: B023
            of,
        )
        print(f"| attention, {heads} heads of {width}, {length} positions | {told} |")


if __name__ == "__main__":
    main()
