"""What becomes of a picture in 36 tokens, by each way to learn them, as one table.

    OMP_NUM_THREADS=1 python benchmarks/styled_alternatives.py --out alternatives/

The small Styled VAE-VQ with its author's alternatives, and beside it a TiTok of like size: all
learn scenes of the emoji world's train split with the same steps, batches, seed and optimiser, and
are measured on other scenes. What is finished is kept in the folder, a row a file; the same command
goes on, in the middle of a row too. `--rows` names some of them.

- without codes: stage one, the ceiling of the rows made from it.
- k-means: codes made of its latents afterwards, as published; "and on": then its decoder is trained
  behind them for `--second` more steps.
- average: a codebook learnt at once, straight-through or by the rotation trick, dead codes revived.
- fsq: finite scalar quantisation, no codebook.
- tokens: the decoder names ochre-vq's codes instead of pixels, and ochre-vq draws; with k-means.
- principal: ochre-styled's linear encoder, codes of every attribute's own, and its U-Net; what
  learning encoder and codes takes is among its minutes.
- titok: 32 tokens, trained as its first stage is published, on proxy codes, which are ochre-vq's.
- itself: ochre-vq's own 64 codes. linear: no network, principal components of the scenes' pixels,
  each rounded to as many levels as pay best, in as many bits as 36 codes have.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import lascaux
from lascaux.data.world.boxed import SIZE, BoxedScenes, box_psnr, boxed_scenes
from lascaux.evaluate.ochre_tokeniser import as_image
from lascaux.evaluate.reconstruct import by_thumbnail
from lascaux.images.fidelity import psnr
from lascaux.models.styled_vq import StyledVq
from lascaux.models.titok import TiTok, TiTokConfig
from lascaux.nn.quantise import perplexity, quantisation_loss, straight_through
from lascaux.tasks.aside import written_aside
from lascaux.tasks.codebook import (
    CodebookOptions,
    make_codebook,
    mean_features,
    read_features,
    write_features,
)
from lascaux.tasks.features import encode_pixels
from lascaux.train import scenes
from lascaux.train.codebook import Tending
from lascaux.train.loop import MODEL, train
from lascaux.train.optimisers import Optimiser, within_blocks
from lascaux.train.options import Running
from lascaux.train.recipe import Loss, Moment, Recipe, Share, restated
from lascaux.train.recipes.ochre_styled import OchreStyled
from lascaux.train.styling import SMALL, Trainee, reconstructed

DRAWER = "ochre-vq"
CORPUS_SEED = 0xA17
AT_ONCE = 64


@dataclass(frozen=True)
class Spelt:
    """Scenes after a row's model: pictures in [0, 1], and their ids where it has codes."""

    back: Tensor
    ids: Tensor | None
    codes: int
    own: bool = False  # codes of every attribute's own
    bits: float | None = None  # of a picture, where it has no codes


class Styled(OchreStyled):
    """ochre-styled, which keeps stage one as it is."""

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        assert isinstance(model, Trainee)
        elsewhere = {} if model.styled.reader is None else {"reader": "ochre-clip"}
        lascaux.save(model.styled, folder, elsewhere=elsewhere)


class TiTokTrainee(nn.Module):
    """A TiTok, what names its targets, and what revives its codes."""

    def __init__(self, titok: TiTok, drawer: nn.Module) -> None:
        super().__init__()
        self.titok, self.drawer = titok, drawer.requires_grad_(False)
        self.tending = Tending(titok.codebook, average=False)


@dataclass(frozen=True, kw_only=True)
class TiTokOnScenes(scenes.OfScenes, Recipe):
    """TiTok's first stage: cross entropy of another tokeniser's codes, and its own codes' loss."""

    name: ClassVar[str] = "titok"

    weight_decay: float = restated("weight_decay", 0.02)

    def build(self) -> nn.Module:
        drawer = lascaux.load(DRAWER)
        config = TiTokConfig(
            image_size=SIZE,
            encoder_patch_size=SMALL.patch_size,
            decoder_patch_size=SMALL.patch_size,
            encoder_width=SMALL.width,
            encoder_layers=8,
            encoder_heads=SMALL.heads,
            decoder_width=SMALL.decoder_width,
            decoder_layers=8,
            decoder_heads=SMALL.decoder_heads or 1,
            latents=32,
            token_width=12,
            codes=4096,
            unit_length=True,
            legacy=True,
            pixel_codes=cast(Any, drawer).codes,
        )
        return TiTokTrainee(TiTok(config), drawer)

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        groups = within_blocks(model.named_parameters(), self.blocks(model), self.weight_decay)
        return {"model": Optimiser("muon", groups, (0.9, 0.98))}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        assert isinstance(model, TiTokTrainee)
        return [*model.titok.encoder.blocks, *model.titok.decoder.blocks]

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        assert isinstance(model, TiTokTrainee)
        titok, drawer = model.titok, cast(Any, model.drawer)
        x = batch["picture"].float() / 255
        with torch.no_grad():
            targets = drawer.encode(drawer.normalise(x))
        features = titok.features(titok.normalise(x)).float()
        ids, _ = titok.quantise(features.detach())
        codes = titok.lookup(ids)
        apart = quantisation_loss(
            features, codes, beta=titok.config.commitment_cost, weighs="commitment"
        )
        logits = titok.decoder(straight_through(codes, features)).float().flatten(2)
        named = F.cross_entropy(logits, targets, reduction="none")
        named = (named * F.avg_pool2d(batch["weight"], SMALL.patch_size).flatten(1)).mean()
        model.tending.note(ids, features)
        model.tending.settle(titok.codebook, features)
        told = {"cross_entropy": named.detach(), **model.tending.figures()}
        return Loss(named + apart, told)

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        assert isinstance(model, TiTokTrainee)
        lascaux.save(model.titok, folder)


class Work:
    """The rows of one folder."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.chosen, self.out = chosen, Path(chosen.out)
        self.clip: Any = lascaux.load("ochre-clip")
        self.drawer: Any = lascaux.load(DRAWER)
        seen = boxed_scenes(chosen.split, 0x5CE7E, chosen.scenes)
        self.seen: BoxedScenes = seen
        self.embedded = self.embed(seen.pictures.float() / 255)

    def settings(self, steps: int) -> dict[str, Any]:
        """What all runs have in common."""
        chosen = self.chosen
        return {
            "steps": steps,
            "batch_size": chosen.batch,
            "seed": chosen.seed,
            "learning_rate": chosen.rate,
            "warmup_steps": max(1, steps // 20),
            "cooldown_steps": steps // 3,
            "averaging": 0.99,
        }

    def run(self, recipe: Recipe, name: str) -> tuple[Path, float]:
        """A recipe's model, trained or found, and the processor minutes that it took."""
        folder = self.out / name
        clock, began = folder / "seconds.json", time.process_time()
        before = json.loads(clock.read_text()) if clock.is_file() else 0.0
        running = Running(threads=1, workers=0, validate_every=10**6, save_every=60)
        if not (folder / MODEL).exists():
            done = train(recipe, folder, running)
            clock.write_text(json.dumps(before := before + time.process_time() - began))
            if not done:
                raise SystemExit(f"stopped; the same command goes on with {name}")
        return folder / MODEL, before / 60

    def styled(self, name: str, steps: int, **changes: Any) -> tuple[StyledVq, float]:
        """A Styled VAE-VQ, trained or found."""
        weights = {"perceptual_weight": self.chosen.perceptual, "prefixes": 0.0}
        changes = {"encoder": "transformer", "codes": self.chosen.codes, **changes}
        recipe = Styled(**self.settings(steps), **weights, **changes)
        folder, minutes = self.run(recipe, name)
        return cast(StyledVq, lascaux.load(folder)), minutes

    def coded(self, styled: StyledVq, name: str) -> tuple[StyledVq, Path]:
        """The model with codes by k-means of scenes of the train split."""
        folder, work = self.out / f"{name}-coded", self.out / f"{name}-features"
        if not folder.exists():
            count = self.chosen.corpus

            def batches() -> Iterator[Tensor]:
                for number in range(0, count, AT_ONCE):
                    drawn = scenes.pictures(CORPUS_SEED, Share(0, number, AT_ONCE))
                    yield styled.normalise(drawn.float() / 255)

            work.mkdir(parents=True, exist_ok=True)
            path = write_features(styled.features, batches(), count, work / "features.npy")
            features = read_features(path)
            options = CodebookOptions(codes=self.chosen.codes, rounds=20, seed=self.chosen.seed)
            made = make_codebook(features, work / "codebook", options)
            assert made is not None
            styled.adopt(made.centres, mean=mean_features(features))
            lascaux.save(styled, folder)
        return cast(StyledVq, lascaux.load(folder)), folder

    def embed(self, pictures: Tensor) -> Tensor:
        """Unit vectors of pictures in [0, 1] by ochre-clip."""
        how = self.clip.config.preprocessing
        parts = [encode_pixels(self.clip, part, how) for part in pictures.split(AT_ONCE)]
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def figures(self, spelt: Spelt) -> dict[str, float | None]:
        """All columns of a row."""
        x = self.seen.pictures.float() / 255
        told: dict[str, float | None] = {
            "box": box_psnr(self.seen, spelt.back).mean().item(),
            "whole": psnr(x, spelt.back).clamp(max=100).mean().item(),
            "clip": (self.embed(spelt.back) * self.embedded).sum(-1).mean().item(),
            **dict.fromkeys(("bits", "codes", "used", "perplexity", "thumbnail")),
        }
        bits = spelt.bits
        if spelt.ids is not None:
            bits = spelt.ids.shape[1] * math.log2(spelt.codes)
            count, ids = spelt.codes, spelt.ids
            if spelt.own:
                count, ids = count * ids.shape[1], ids + count * torch.arange(ids.shape[1])
            told["codes"], told["used"] = count, len(ids.unique())
            told["perplexity"] = perplexity(ids, count).item()
        if bits is not None:
            told["bits"] = bits
            told["thumbnail"] = box_psnr(self.seen, thumbnails(x, bits)).mean().item()
        return told

    def of_styled(self, styled: StyledVq) -> Spelt:
        back, ids = reconstructed(styled.eval(), self.seen.pictures)
        return Spelt(back.float(), ids, styled.codes, styled.own_codes)

    # The rows.

    def without(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("pixels", self.chosen.steps)
        return self.of_styled(styled), minutes, self.chosen.steps

    def k_means(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("pixels", self.chosen.steps)
        return self.of_styled(self.coded(styled, "pixels")[0]), minutes, self.chosen.steps

    def and_on(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("pixels", self.chosen.steps)
        begun = str(self.coded(styled, "pixels")[1])
        tuned, more = self.styled("behind", self.chosen.second, model=begun)
        return self.of_styled(tuned), minutes + more, self.chosen.steps + self.chosen.second

    def straight(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("straight", self.chosen.steps, codebook="average")
        return self.of_styled(styled), minutes, self.chosen.steps

    def rotation(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled(
            "rotation", self.chosen.steps, codebook="average", through="rotation"
        )
        return self.of_styled(styled), minutes, self.chosen.steps

    def fsq(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("fsq", self.chosen.steps, codebook="fsq")
        return self.of_styled(styled), minutes, self.chosen.steps

    def tokens(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("tokens", self.chosen.steps, predicts="tokens")
        return self.of_styled(styled), minutes, self.chosen.steps

    def tokens_k_means(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("tokens", self.chosen.steps, predicts="tokens")
        return self.of_styled(self.coded(styled, "tokens")[0]), minutes, self.chosen.steps

    def principal(self) -> tuple[Spelt, float, int]:
        styled, minutes = self.styled("principal", self.chosen.steps, encoder="linear")
        return self.of_styled(styled), minutes, self.chosen.steps

    def titok(self) -> tuple[Spelt, float, int]:
        recipe = TiTokOnScenes(**self.settings(self.chosen.steps))
        folder, minutes = self.run(recipe, "titok")
        return self.of_titok(cast(TiTok, lascaux.load(folder))), minutes, self.chosen.steps

    @torch.no_grad()
    def of_titok(self, titok: TiTok) -> Spelt:
        drawer, found, ids = self.drawer, [], []
        table = drawer.lookup(torch.arange(drawer.codes)[None])[0]
        for part in self.seen.pictures.split(AT_ONCE):
            own = titok.encode(titok.normalise(part.float() / 255))
            logits = titok.decoder(titok.lookup(own))
            shares = logits.flatten(2).mT.softmax(dim=-1)
            back = drawer.decode(shares @ table, (logits.shape[2], logits.shape[3]))
            found.append(drawer.denormalise(back).clamp(0, 1))
            ids.append(own)
        return Spelt(torch.cat(found), torch.cat(ids), titok.codes)

    @torch.no_grad()
    def linear(self) -> tuple[Spelt, float, int]:
        """Principal components in 36 x 12 bits, or as many as the codes have."""
        total = round(SMALL.attributes * math.log2(self.chosen.codes))
        drawn = [
            scenes.pictures(CORPUS_SEED, Share(0, number, AT_ONCE))
            for number in range(0, self.chosen.corpus, AT_ONCE)
        ]
        x = torch.cat(drawn).flatten(1).float() / 255
        mean = x.mean(0)
        _, _, parts = torch.pca_lowrank(x - mean, q=min(256, len(x)), center=False, niter=4)
        table = spend((x - mean) @ parts, total)
        z = (self.seen.pictures.flatten(1).float() / 255 - mean) @ parts
        for column, levels in zip(z.T, table, strict=True):
            column.copy_(levels[torch.bucketize(column.contiguous(), middles(levels))])
        back = (z @ parts.T + mean).view(self.seen.pictures.shape).clamp(0, 1)
        return Spelt(back, None, 0, bits=float(total)), 0.0, 0

    @torch.no_grad()
    def itself(self) -> tuple[Spelt, float, int]:
        back, ids = [], []
        for part in self.seen.pictures.split(AT_ONCE):
            x = self.drawer.normalise(part.float() / 255)
            ids.append(self.drawer.encode(x))
            drawn = self.drawer.decode_ids(ids[-1], self.drawer.grid(x))
            back.append(self.drawer.denormalise(drawn).clamp(0, 1))
        return Spelt(torch.cat(back), torch.cat(ids), self.drawer.codes), 0.0, 0


ROWS: dict[str, tuple[str, Callable[[Work], tuple[Spelt, float, int]]]] = {
    "without": ("Styled, without codes", Work.without),
    "k-means": ("Styled, k-means", Work.k_means),
    "and-on": ("Styled, k-means, decoder on behind the codes", Work.and_on),
    "straight": ("Styled, codebook at once, straight-through", Work.straight),
    "rotation": ("Styled, codebook at once, rotation", Work.rotation),
    "fsq": ("Styled, FSQ", Work.fsq),
    "tokens": ("Styled on tokens, without codes", Work.tokens),
    "tokens-k-means": ("Styled on tokens, k-means", Work.tokens_k_means),
    "principal": ("ochre-styled: linear encoder, codes of each attribute's own", Work.principal),
    "titok": ("TiTok on the same tokens", Work.titok),
    "itself": ("ochre-vq itself", Work.itself),
    "linear": ("no network: rounded principal components", Work.linear),
}


def spend(z: Tensor, total: int) -> list[Tensor]:
    """Levels of each column, 2 ** b of them; the bits b go one by one where they save most."""
    tables = [[column.mean()[None]] for column in z.T]

    def error(column: int, bits: int) -> float:
        while len(tables[column]) <= bits:
            tables[column].append(lloyd(z[:, column].contiguous(), len(tables[column])))
        levels = tables[column][bits]
        found = levels[torch.bucketize(z[:, column].contiguous(), middles(levels))]
        return (z[:, column] - found).square().mean().item()

    bits = [0] * z.shape[1]
    saved = [error(column, 0) - error(column, 1) for column in range(z.shape[1])]
    for _ in range(total):
        best = max(range(len(saved)), key=saved.__getitem__)
        bits[best] += 1
        saved[best] = error(best, bits[best]) - error(best, bits[best] + 1)
    return [table[each] for table, each in zip(tables, bits, strict=True)]


def lloyd(z: Tensor, bits: int, rounds: int = 12) -> Tensor:
    """2 ** bits levels of numbers, each the mean of those that are nearest to it."""
    count = 2**bits
    levels = torch.quantile(z, (torch.arange(count) + 0.5) / count)
    for _ in range(rounds):
        ids = torch.bucketize(z, middles(levels))
        counts = torch.bincount(ids, minlength=count)
        means = torch.zeros(count).index_add_(0, ids, z) / counts.clamp(min=1)
        levels = torch.where(counts > 0, means, levels).sort().values
    return levels


def middles(levels: Tensor) -> Tensor:
    """What lies between neighbouring levels."""
    return (levels[1:] + levels[:-1]) / 2


def thumbnails(x: Tensor, bits: float) -> Tensor:
    """Pictures in [0, 1] by way of thumbnails of so many bits."""
    small: list[Image.Image] = [by_thumbnail(as_image(picture), bits) for picture in x]
    found = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in small]
    return torch.stack(found).float() / 255


def told(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""

    def number(key: str, form: str) -> str:
        return "" if found[key] is None else format(found[key], form)

    used = "" if found["used"] is None else f"{found['used']:,} of {found['codes']:,}"
    cells = (
        ROWS[name][0],
        number("bits", ".0f"),
        used,
        number("perplexity", ",.0f"),
        number("box", ".2f"),
        number("thumbnail", ".2f"),
        number("whole", ".2f"),
        number("clip", ".3f"),
        f"{found['steps']:,}" if found["steps"] else "",
        f"{found['minutes']:.1f}" if found["steps"] else "",
    )
    return "| " + " | ".join(cells) + " |"


HEAD = """\
| | bits | codes used | perplexity | PSNR in the box, dB | thumbnail of as many bits, in the box \
| whole picture, dB | ochre-clip, cosine | steps | processor minutes |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder of runs and rows")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--second", type=int, default=200, help="steps behind the codes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--perceptual", type=float, default=0.4, help="weight, beside pixels")
    parser.add_argument("--codes", type=int, default=4096)
    parser.add_argument("--corpus", type=int, default=4096, help="scenes for k-means")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--scenes", type=int, default=500)
    chosen = parser.parse_args()
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    same = {k: v for k, v in vars(chosen).items() if k not in ("out", "rows")}
    work = None
    for name in chosen.rows:
        path = out / f"{name}.json"
        if path.is_file():
            if json.loads(path.read_text())["settings"] != same:
                raise SystemExit(f"{path} is of other settings: name another --out")
            continue
        work = work or Work(chosen)
        spelt, minutes, steps = ROWS[name][1](work)
        row = {**work.figures(spelt), "minutes": minutes, "steps": steps, "settings": same}
        with written_aside(path) as part:
            part.write_text(json.dumps(row, indent=2) + "\n")
    print(HEAD)
    for name in chosen.rows:
        print(told(name, json.loads((out / f"{name}.json").read_text())))


if __name__ == "__main__":
    main()
