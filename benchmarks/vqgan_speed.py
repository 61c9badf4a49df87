"""How fast a VQGAN reads and writes, against the same one with attention written out.

    python benchmarks/vqgan_speed.py [--size 256] [--variant imagenet-f16-1024] [--threads 1]

Weights are drawn: times and codes' equality do not depend on what they are. Seconds are of the
process's threads, the least of some rounds, each way in turn.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from lascaux.models.vqgan import VARIANTS, Attention, VqGan


class PlainAttention(Attention):
    """As published: a table of all pairs of positions, by batched products."""

    def forward(self, x: Tensor) -> Tensor:
        flat = rearrange(self.norm(x), "b c y x -> b (y x) c")
        q, k, v = self.qkv(flat).chunk(3, dim=-1)
        pairs = torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5
        mixed = self.out(torch.bmm(pairs.softmax(dim=-1), v))
        return x + rearrange(mixed, "b (y x) c -> b c y x", y=x.shape[2])


def seconds(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.process_time()
    given = work()
    return time.process_time() - started, given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=256, help="pixels, square")
    parser.add_argument("--variant", default="imagenet-f16-1024", choices=VARIANTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(0)
    config = VARIANTS[told.variant]
    ways: dict[str, VqGan] = {}
    for name in ("attention written out", "as it is", "channels last"):
        ways[name] = VqGan(config).eval()
        ways[name].load_state_dict(next(iter(ways.values())).state_dict())
    for module in ways["attention written out"].modules():
        if isinstance(module, Attention):
            module.__class__ = PlainAttention
    ways["channels last"].to(memory_format=torch.channels_last)
    x = torch.rand(1, config.in_channels, told.size, told.size) * 2 - 1
    side = told.size // config.factor
    read: dict[str, list[float]] = {name: [] for name in ways}
    written: dict[str, list[float]] = {name: [] for name in ways}
    ids: dict[str, Tensor] = {}
    codes = x.new_zeros(1, side**2, dtype=torch.int64)
    with torch.inference_mode():
        for _ in range(told.rounds + 1):
            for name, model in ways.items():
                spent, ids[name] = seconds(partial(model.encode, x))
                read[name].append(spent)
                spent, _ = seconds(partial(model.decode_ids, codes, (side, side)))
                written[name].append(spent)
    print(f"{told.variant}, {told.size} x {told.size}, {told.threads} thread(s), seconds")
    print(f"{'way':<24}{'encode':>8}{'decode':>8}  same codes")
    for name in ways:
        same = torch.equal(ids[name], ids["attention written out"])
        row = f"{min(read[name][1:]):>8.2f}{min(written[name][1:]):>8.2f}"
        print(f"{name:<24}{row}  {'yes' if same else 'no'}")


if __name__ == "__main__":
    main()
