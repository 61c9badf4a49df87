"""How fast codes are written one by one, beside taming-transformers' own samplers.

    python benchmarks/sampling_speed.py [--peer ~/checkouts/taming-transformers] [--layers 4]
    python benchmarks/sampling_speed.py --window [--grid 32 32] [--layers 1] [--peer ...]
    python benchmarks/sampling_speed.py --window --steps-alone

Full width, random weights, the same in both; few layers, since time grows with their number.
Seconds are of the process, one thread, ways in turn; a ratio is the median of those of the rounds,
and their range. What is kept is drawn, which does not change the time of a step. The peer is an
unmodified checkout; a module that it imports and that is not used here is stood in for. `reading`
is a sum over all weights: each is read once.
"""

import argparse
import statistics
import sys
import time
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lascaux.generate.sampling import Sampling
from lascaux.generate.windows import steps_of, write_windows
from lascaux.models.taming_transformer import TamingTransformer, TamingTransformerConfig
from lascaux.nn.linear import forget_layouts, settled
from lascaux.weights.keymap import translate_back
from lascaux.weights.maps.taming_transformer import TRANSFORMER

CONDITION = 256


def peer_gpt(path: Path, model: TamingTransformer) -> Any:
    """The checkout's minGPT with the same weights."""
    absent = types.ModuleType("transformers")
    absent.top_k_top_p_filtering = None
    sys.modules.setdefault("transformers", absent)
    sys.path.insert(0, str(path.expanduser()))
    from taming.modules.transformer.mingpt import GPT  # pyright: ignore

    config = model.config
    gpt = GPT(config.codes, config.length, config.layers, config.heads, config.width).eval()
    state = translate_back(model.state_dict(), TRANSFORMER)
    state = {key.removeprefix("transformer."): tensor for key, tensor in state.items()}
    state |= {key: x for key, x in gpt.state_dict().items() if key.endswith("attn.mask")}
    gpt.load_state_dict(state)
    return gpt


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def row(what: str, base: list[float], ours: list[float]) -> None:
    ratios = [b / o for b, o in zip(base, ours, strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    print(
        f"| {what} | {1e3 * statistics.median(ours):.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
    )


class Steps:
    """One step at a time behind a past of some length, which stays as long as it is."""

    def __init__(self, model: TamingTransformer, past: int, batch: int = 1) -> None:
        self.model, self.past, self.batch = model, past, batch
        self.ids = torch.randint(model.codes, (batch, past + 1))
        self.cache = model.new_cache(batch, past + 1)
        self.cache.keys.normal_()
        self.cache.values.normal_()

    def presents(self) -> list[Tensor]:
        """What is kept, as the peer has it: of the condition, and of each code behind it."""
        kept = (self.cache.keys, self.cache.values)
        whole = torch.stack([each[:, :, :, : self.past] for each in kept], dim=1)
        parts = whole.split([CONDITION] + (self.past - CONDITION) * [1], dim=-2)
        return [part.contiguous() for part in parts]

    def __call__(self) -> Tensor:
        self.cache.lengths = [self.past] * self.batch
        return self.model.step(self.ids[:, self.past :], self.cache)


def whole(values: list[float], counts: list[int]) -> float:
    """Time of all steps by Simpson's rule from that of the first, middle and last."""
    first, middle, last = values
    return (counts[-1] - counts[0] + 1) * (first + 4 * middle + last) / 6


def compare_steps(model: TamingTransformer, gpt: Any, rounds: int) -> None:
    pasts = [256, 384, 510]
    weights = [p.detach() for p in model.parameters()]
    ours = {(way, past): Steps(model, past) for way in ("torch", "onednn") for past in pasts}
    eight = {way: Steps(model, 384, 8) for way in ("torch", "onednn")}
    found: dict[Any, list[float]] = {}

    def note(key: Any, work: Callable[[], object]) -> None:
        found.setdefault(key, []).append(seconds(work))

    presents = {past: ours["torch", past].presents() for past in pasts}
    if gpt is not None:
        one = ours["torch", pasts[0]]
        theirs, *_ = gpt.forward_with_past(one.ids[:, -1:], past=presents[256], past_length=256)
        print(f"largest difference: {(one() - theirs[:, -1]).abs().max():.1e}", flush=True)
    for turn in range(rounds + 1):
        note("reading", lambda: [w.sum() for w in weights])
        for past in pasts:
            for way in ("torch", "onednn"):
                with settled(way):
                    for _ in range(5 if not turn else 1):
                        ours[way, past]()
                    note((way, past), ours[way, past])
            if gpt is not None:
                ids, new = ours["torch", past].ids, ours["torch", past].ids[:, -1:]
                kept = {"past": presents[past], "past_length": past}
                note(("past", past), partial(gpt.forward_with_past, new, **kept))
                if turn < 3:  # takes as long as everything else together
                    note(("sample", past), partial(gpt, ids))
        for way in ("torch", "onednn"):
            with settled(way):
                for _ in range(5 if not turn else 1):
                    eight[way]()
                note((way, "eight"), eight[way])
    found = {key: times[1:] for key, times in found.items()}
    print("\n| a step, ms | ms | beside |\n|---|---|---|")
    bytes_ = sum(w.nbytes for w in weights)
    speed = bytes_ / statistics.median(found["reading"]) / 1e9
    print(f"| reading all weights once ({bytes_ / 1e6:.0f} MB) | "
          f"{1e3 * statistics.median(found['reading']):.1f} | {speed:.1f} GB/s |")  # fmt: skip
    for way in ("torch", "onednn"):
        for past in pasts:
            mine = found[way, past]
            over = statistics.median(m / r for m, r in zip(mine, found["reading"], strict=True))
            row(f"past {past}, {way}: {over:.2f} of reading; sample_with_past over it",
                found.get(("past", past), mine), mine)  # fmt: skip
        many = [t / 8 for t in found[way, "eight"]]
        row(f"past 384, {way}, a picture of eight: one by one over it", found[way, 384], many)
        if gpt is not None:
            mine = whole([statistics.median(found[way, p]) for p in pasts], pasts)
            for name in ("sample", "past"):
                theirs = whole([statistics.median(found[name, p]) for p in pasts], pasts)
                print(
                    f"| 256 codes, {way}: {name} over it | {1e3 * mine:.0f} | {theirs / mine:.1f} |"
                )


def compare_windows(model: TamingTransformer, gpt: Any, grid: tuple[int, int]) -> None:
    ids = torch.randint(model.codes, (1, *grid))
    sequence = torch.randint(model.codes, (1, 511))
    codes = grid[0] * grid[1]
    for way in ("torch", "onednn"):
        forget_layouts()
        with settled(way):
            started = time.process_time()
            *_, last = write_windows(model, ids, seeds=[0], sampling=Sampling(top_k=100))
            ours = time.process_time() - started
        fewer, kept = 511 * codes / last.read, last.cache_bytes / 1e6
        print(f"{way}: {grid[0]} x {grid[1]} codes in {ours:.1f} s", flush=True)
        print(f"  {last.read} tokens read, {fewer:.2f} times fewer; {kept:.0f} MB kept")
        if gpt is not None:
            some = seconds(lambda: [gpt(sequence) for _ in range(8)]) / 8 * codes
            print(f"  by the published rule {some:.1f} s (8 of {codes} timed): {some / ours:.1f}")


def count_steps() -> None:
    print("| codes | raster | wavefront | fewer | widest |\n|---|---|---|---|---|")
    for grid in ((32, 32), (64, 64), (24, 52)):
        waves = steps_of(grid, 16, "wavefront")
        raster, widest = grid[0] * grid[1], max(map(len, waves))
        fewer = raster / len(waves)
        print(f"| {grid[0]} x {grid[1]} | {raster} | {len(waves)} | {fewer:.2f} | {widest} |")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="an unmodified checkout of taming-transformers")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--window", action="store_true", help="the sliding window")
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 32), help="rows and columns")
    parser.add_argument("--steps-alone", action="store_true", help="only count steps")
    told = parser.parse_args()
    if told.steps_alone:
        count_steps()
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = TamingTransformerConfig(codes=1024, length=512, layers=told.layers)
    model = TamingTransformer(config).eval()
    nn.init.normal_(model.transformer.positions, std=0.02)
    gpt = peer_gpt(told.peer, model) if told.peer else None
    print(f"torch {torch.__version__}, {told.layers} layers of width {config.width}")
    if told.window:
        compare_windows(model, gpt, tuple(told.grid))
    else:
        compare_steps(model, gpt, told.rounds)


if __name__ == "__main__":
    main()
