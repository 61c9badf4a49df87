"""How fast a DALL-E writes a picture, beside DALLE-pytorch's own two ways.

    python benchmarks/dalle_speed.py --peer ~/checkouts/DALLE-pytorch [--layers 4]

DALLE-pytorch's `generate_images` reads the whole sequence again for each code; with `use_cache`,
which is off by default and is dropped where there is no guidance, it keeps keys and values. Both
are timed, the latter by handing the cache to the model itself. Width 1024, 64 text tokens, 32 x 32
codes of 8192, all layers full attention with shifted tokens and rotary positions; few layers, since
time grows with their number. Random weights, written by the peer and read as a checkpoint.

Seconds are of the process, one thread, ways in turn; a ratio is the median of those of the rounds,
and their range. Time of a whole picture is summed over its steps by Simpson's rule from that of
the first, the middle and the last. The peer is an unmodified checkout; it wants
`rotary-embedding-torch==0.1.5` and `axial-positional-embedding==0.2.1`; tokenisers that it imports
and that are not used here are stood in for. `reading` is a sum over all weights that a step needs.
"""

import argparse
import copy
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lascaux
from lascaux.models.dalle import Dalle
from lascaux.nn.linear import settled

TEXT, GRID, CODES = 64, 32, 8192
ABSENT = ("requests", "taming", "taming.models", "taming.models.vqgan", "omegaconf",
          "pkg_resources", "deepspeed", "horovod")  # fmt: skip


def import_peer(path: Path) -> Any:
    """The checkout's package; what it imports for other tokenisers is stood in for."""
    for name in ABSENT:
        module = types.ModuleType(name)
        for used in ("VQModel", "GumbelVQ", "OmegaConf", "get_distribution"):
            setattr(module, used, None)
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(path.expanduser()))
    import dalle_pytorch  # pyright: ignore

    return dalle_pytorch


def pair(peer: Any, layers: int) -> tuple[Any, Dalle]:
    """The peer's model and ours, of the same weights."""
    vae_params: dict[str, Any] = {
        "image_size": 256, "num_layers": 3, "num_tokens": CODES, "codebook_dim": 16,
        "hidden_dim": 8, "num_resnet_blocks": 0,
    }  # fmt: skip
    hparams: dict[str, Any] = {
        "num_text_tokens": 10000, "text_seq_len": TEXT, "dim": 1024, "depth": layers, "heads": 16,
        "dim_head": 64, "reversible": False, "attn_types": ("full",), "shift_tokens": True,
        "rotary_emb": True, "loss_img_weight": 7,
    }  # fmt: skip
    vae = peer.DiscreteVAE(**vae_params)
    theirs = peer.DALLE(vae=vae, **hparams).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dalle.pt"
        torch.save(
            {
                "hparams": hparams,
                "vae_params": vae_params,
                "vae_class_name": "DiscreteVAE",
                "version": "1.6.6",
                "weights": theirs.state_dict(),
            },
            path,
        )
        ours = lascaux.load(path)
    assert isinstance(ours, Dalle)
    return theirs, ours.eval()


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


class Step:
    """Of both, the step behind so many codes, ever again."""

    def __init__(self, theirs: Any, ours: Dalle, past: int, batch: int = 1) -> None:
        self.theirs, self.ours = theirs, ours
        self.text = torch.randint(1, 10000, (batch, TEXT))
        self.codes = torch.randint(CODES, (batch, past))
        whole = torch.cat([ours.prefix(self.text), self.codes], dim=1)
        self.cache = ours.new_cache(batch, whole.shape[1])
        ours.step(whole[:, :-1], self.cache)
        self.last = whole[:, -1:]
        self.kept, self.recent = self.cache.length, _cloned(self.cache.recent)
        self.their_cache: dict[Any, Any] = {}

    def our_step(self) -> Tensor:
        self.cache.kept.lengths = [self.kept] * self.cache.batch
        if self.recent is not None and self.cache.recent is not None:
            self.cache.recent.copy_(self.recent)
        return self.ours.step(self.last, self.cache)

    def default(self) -> Tensor:
        return self.theirs(self.text, self.codes)[:, -1]

    def fill(self) -> None:
        """The peer's cache, before the step."""
        self.their_cache = {}
        self.theirs(self.text, self.codes[:, :-1], cache=self.their_cache)

    def cached(self, kept: dict[Any, Any]) -> Tensor:
        return self.theirs(self.text, self.codes, cache=kept)[:, -1]


def _cloned(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clone()


def row(what: str, base: list[float], ours: list[float]) -> None:
    ratios = [b / o for b, o in zip(base, ours, strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    took = 1e3 * statistics.median(ours)
    print(f"| {what} | {took:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


def whole(values: list[float], count: int) -> float:
    first, middle, last = values
    return count * (first + 4 * middle + last) / 6


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True, help="a checkout of DALLE-pytorch")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    told = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs, ours = pair(import_peer(told.peer), told.layers)
    print(f"torch {torch.__version__}, {told.layers} layers of width {ours.config.width}")
    count = GRID**2
    pasts = [1, count // 2, count - 1]
    steps = {past: Step(theirs, ours, past) for past in pasts}
    eight = Step(theirs, ours, pasts[1], 8)
    classes = ours.config.text_classes
    apart = (steps[pasts[1]].our_step() - steps[pasts[1]].default()[:, classes:]).abs().max()
    print(f"largest difference: {apart:.1e}", flush=True)
    for step in steps.values():
        step.fill()
    used = [p for n, p in ours.named_parameters() if n.startswith(("blocks", "norm", "attention",
            "mlp"))]  # fmt: skip
    used += [ours.head.weight[classes:], ours.head.bias[classes:]]
    found: dict[Any, list[float]] = {}
    for turn in range(told.rounds + 1):
        times: dict[Any, float] = {"reading": seconds(lambda: [w.sum() for w in used])}
        for past, step in steps.items():
            kept = copy.copy(step.their_cache)
            kept = {k: copy.deepcopy(v) for k, v in kept.items()}
            times["cached", past] = seconds(lambda s=step, k=kept: s.cached(k))
            if turn < 3:  # takes as long as everything else together
                times["default", past] = seconds(step.default)
            for way in ("torch", "onednn"):
                with settled(way):
                    for _ in range(3 if not turn else 1):
                        step.our_step()
                    times[way, past] = seconds(step.our_step)
        for way in ("torch", "onednn"):
            with settled(way):
                for _ in range(3 if not turn else 1):
                    eight.our_step()
                times[way, "eight"] = seconds(eight.our_step)
        if turn:
            for key, value in times.items():
                found.setdefault(key, []).append(value)
    print("\n| a step | ms | beside |\n|---|---|---|")
    size = sum(w.nbytes for w in used)
    reading = statistics.median(found["reading"])
    speed = size / reading / 1e9
    print(f"| reading its weights once ({size / 1e6:.0f} MB) | {1e3 * reading:.1f} | "
          f"{speed:.1f} GB/s |")  # fmt: skip
    for way in ("torch", "onednn"):
        for past in pasts:
            mine = found[way, past]
            over = statistics.median(m / r for m, r in zip(mine, found["reading"], strict=True))
            row(f"code {past}, {way}: {over:.2f} of reading; cached step over it",
                found["cached", past], mine)  # fmt: skip
        many = [t / 8 for t in found[way, "eight"]]
        row(f"code {pasts[1]}, {way}, one of eight candidates: one by one over it",
            found[way, pasts[1]], many)  # fmt: skip
        mine = whole([statistics.median(found[way, p]) for p in pasts], count)
        for name in ("default", "cached"):
            other = whole([statistics.median(found[name, p]) for p in pasts], count)
            print(f"| {count} codes, {way}: {name} over it | {1e3 * mine:.0f} | "
                  f"{other / mine:.1f} |")  # fmt: skip


if __name__ == "__main__":
    main()
