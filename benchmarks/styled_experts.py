"""Styled VAE-VQ's experts: two batched products beside a loop over 36 MLPs, as one table of ratios.

    OMP_NUM_THREADS=1 python benchmarks/styled_experts.py

A ratio is the loop's processor time over ours, the median of rounds in which the two take turns,
with their range. The loop does what the published code does: an MLP after the other, each result
written to its place. "trained" is forward and backward. The full width takes 3 GB of memory;
--width chooses others.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lascaux.models.styled_vq import Experts

EXPERTS = 36


class Loop(nn.Module):
    """The same MLPs as modules of their own, one after the other."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()
        with torch.device("meta"):
            width, hidden = experts.up_weight.shape[1:]
            for _ in range(EXPERTS):
                self.ups.append(nn.Linear(width, hidden))
                self.downs.append(nn.Linear(hidden, width))
        for number in range(EXPERTS):
            for layer, weight, bias in (
                (self.ups[number], experts.up_weight, experts.up_bias),
                (self.downs[number], experts.down_weight, experts.down_bias),
            ):
                layer.weight = nn.Parameter(weight.detach()[number].t().contiguous())
                layer.bias = nn.Parameter(bias.detach()[number])

    def forward(self, x: Tensor) -> Tensor:
        last = torch.empty_like(x)
        for number, (up, down) in enumerate(zip(self.ups, self.downs, strict=True)):
            last[:, number] = down(F.gelu(up(x[:, number])))
        return last


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def ratios(ours: Callable[[], object], loop: Callable[[], object], rounds: int) -> str:
    ours(), loop()
    pairs = [(seconds(ours), seconds(loop)) for _ in range(rounds)]
    found = [theirs / own for own, theirs in pairs]
    own = statistics.median(own for own, _ in pairs)
    return (
        f"{statistics.median(found):5.2f}  ({min(found):.2f} to {max(found):.2f})"
        f"  {own * 1e3:8.1f} ms"
    )


def encoded(module: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        module(x)


def trained(module: nn.Module, x: Tensor) -> None:
    module.zero_grad(set_to_none=True)
    module(x).square().mean().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, nargs="+", default=[64, 128, 256, 1024])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    print("width batch  what     loop / ours                our time")
    for width in chosen.width:
        experts = Experts(EXPERTS, width, 4 * width)
        experts.initialise()
        loop = Loop(experts)
        for batch in chosen.batch:
            x = torch.randn(batch, EXPERTS, width)
            with torch.no_grad():
                torch.testing.assert_close(experts(x), loop(x), rtol=1e-4, atol=1e-4)
            # Gradients would double what the full width takes.
            for work in (encoded, trained) if width < 1024 else (encoded,):
                ours, theirs = partial(work, experts, x), partial(work, loop, x)
                print(
                    f"{width:5} {batch:5}  {work.__name__}  {ratios(ours, theirs, chosen.rounds)}"
                )


if __name__ == "__main__":
    main()
