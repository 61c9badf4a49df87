"""How fast a VQGAN reads and writes pictures, beside the official implementation.

    python benchmarks/vqgan_speed.py --peer ~/checkouts/taming-transformers [--batch 1]

The peer is a checkout of github.com/CompVis/taming-transformers, unmodified; it is imported from
where it lies. Both are f16 with 1,024 codes and have the same drawn weights: ours reads the file
that a peer would write. Rounds take turns; a ratio is the peer's processor time over ours in the
same round: median (lowest to highest).
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from lascaux.models.vqgan import VARIANTS, VqGan
from lascaux.weights.load import load

CONFIG = VARIANTS["imagenet-f16-1024"]
Way = dict[str, Callable[[], Tensor]]


class Official(nn.Module):
    """The official encoder, quantiser and decoder, put together as in its `VQModel`.

    The class itself is part of a trainer, which would have to be installed for it.
    """

    def __init__(self, checkout: Path) -> None:
        super().__init__()
        sys.path.insert(0, str(checkout.expanduser()))
        from taming.modules.diffusionmodules.model import Decoder, Encoder
        from taming.modules.vqvae.quantize import VectorQuantizer2

        sizes = {
            **{"ch": CONFIG.width, "ch_mult": CONFIG.multiples, "num_res_blocks": CONFIG.blocks},
            **{"attn_resolutions": CONFIG.attention_sizes, "resolution": CONFIG.image_size},
            **{"in_channels": 3, "out_ch": 3, "z_channels": CONFIG.latent_width},
            **{"double_z": False, "dropout": 0.0},
        }
        with contextlib.redirect_stdout(io.StringIO()):  # it tells sizes
            self.encoder, self.decoder = Encoder(**sizes), Decoder(**sizes)
        self.quantize = VectorQuantizer2(CONFIG.codes, CONFIG.code_width, beta=CONFIG.beta)
        self.quant_conv = nn.Conv2d(CONFIG.latent_width, CONFIG.code_width, 1)
        self.post_quant_conv = nn.Conv2d(CONFIG.code_width, CONFIG.latent_width, 1)

    def encode(self, x: Tensor) -> Tensor:
        _, _, (_, _, ids) = self.quantize(self.quant_conv(self.encoder(x)))
        return ids

    def decode(self, ids: Tensor, shape: tuple[int, ...]) -> Tensor:
        found = self.quantize.get_codebook_entry(ids, shape)
        return self.decoder(self.post_quant_conv(found))


def loaded(official: Official) -> VqGan:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "last.ckpt"
        torch.save({"state_dict": official.state_dict()}, path)
        model = load(path)
    assert isinstance(model, VqGan)
    return model.eval()


def seconds(ways: dict[str, Way], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Of every way and kind of work, round by round; the first round warms up."""
    spent: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, works in ways.items():
            for kind, work in works.items():
                started = time.process_time()
                work()
                if number:
                    spent.setdefault((name, kind), []).append(time.process_time() - started)
    return spent


def ratio(theirs: list[float], ours: list[float]) -> str:
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer", type=Path, required=True, help="a checkout of taming-transformers"
    )
    parser.add_argument("--size", type=int, default=256, help="pixels, square")
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(0)
    official = Official(told.peer).eval()
    ours = loaded(official)
    x = torch.rand(told.batch, 3, told.size, told.size) * 2 - 1
    side = told.size // CONFIG.factor
    shape = (told.batch, side, side, CONFIG.code_width)
    with torch.inference_mode():
        ids = official.encode(x)
        rows = ids.view(told.batch, -1)
        same = torch.equal(ours.encode(x), rows)
        theirs = official.decode(ids, shape)
        apart = (ours.decode_ids(rows, (side, side)) - theirs).abs().max() / theirs.abs().max()
        spent = seconds(
            {
                "theirs": {
                    "encode": lambda: official.encode(x),
                    "decode": lambda: official.decode(ids, shape),
                },
                "ours": {
                    "encode": lambda: ours.encode(x),
                    "decode": lambda: ours.decode_ids(rows, (side, side)),
                },
            },
            told.rounds,
        )
    print(f"torch {torch.__version__}, {told.batch} x {told.size} x {told.size}, ", end="")
    print(f"{told.threads} thread(s); same codes: {'yes' if same else 'no'}; ", end="")
    print(f"pictures apart by {apart:.0e} of the largest value\n")
    print("| | official, s | ours, s | times less processor time |\n|---|---:|---:|---|")
    for name in ("theirs", "ours"):
        both = zip(spent[name, "encode"], spent[name, "decode"], strict=True)
        spent[name, "encode + decode"] = [a + b for a, b in both]
    for kind in ("encode", "decode", "encode + decode"):
        own, other = spent["ours", kind], spent["theirs", kind]
        medians = f"{statistics.median(other):.2f} | {statistics.median(own):.2f}"
        print(f"| {kind} | {medians} | {ratio(other, own)} |")


if __name__ == "__main__":
    main()
