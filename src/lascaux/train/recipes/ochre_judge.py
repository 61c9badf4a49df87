"""ochre-judge: says which object, background and count a picture of the emoji world shows.

    lascaux train ochre-judge

Cost: 1.5 million pictures, about an hour and a half on two cores. Result (`lascaux evaluate
ochre-judge`, fresh scenes): objects exactly right 99.5 %, background 100 %, count 99.7 %, map
98.7 % of pixels; spoiled pictures accepted at most 1.0 % of a kind. Of the shipped one the first
6,120 steps saw digits in dark ink before dark backgrounds, too; since then they are chalk there.

Three quarters of what it sees are scenes of the train split, slightly blurred, shaded or noisy at
times; one quarter are pictures that show no object properly (blank, blurred, scrambled, blends and
halves of two), for which the right answer is that no object is there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.objects import objects
from lascaux.data.world.sampling import Split, large, sample
from lascaux.data.world.scene import draw, draw_map
from lascaux.data.world.spoiled import SPOILS, spoil
from lascaux.models.judge import Judge, JudgeConfig, Verdict
from lascaux.train.recipe import (
    Loss,
    Moment,
    Part,
    Precision,
    Recipe,
    Share,
    precise,
    restated,
    setting,
)


class Batch(NamedTuple):
    """Pictures and what they show."""

    pictures: Tensor  # uint8 b 3 y x
    present: Tensor  # bool b o
    background: Tensor  # int64 b
    number: Tensor  # int64 b, how many objects
    maps: Tensor  # int64 b y x
    proper: Tensor  # bool b: not spoiled


@dataclass(frozen=True, kw_only=True)
class OchreJudge(Recipe):
    """Settings of a run; every field is a flag of `lascaux train ochre-judge`."""

    name: ClassVar[str] = "ochre-judge"
    best: ClassVar[str | None] = "+validation_objects"
    seed: int = restated("seed", 1)
    steps: int = restated("steps", 12_000)
    batch_size: int = restated("batch_size", 128)
    precision: Precision = restated("precision", "bfloat16")
    warmup_steps: int = restated("warmup_steps", 200)
    cooldown_steps: int = restated("cooldown_steps", 3500)
    learning_rate: float = restated("learning_rate", 2e-3)
    weight_decay: float = restated("weight_decay", 0.02)
    clip_norm: float = restated("clip_norm", 5.0)
    averaging: float = restated("averaging", 0.998)
    spoiled: float = setting(0.22, "share of pictures that show no object properly")
    easy_steps: int = setting(600, "over which large single objects give way to the rest")
    map_pixels: int = setting(96, "of a picture, drawn at random, on which the map is learnt")

    def build(self) -> nn.Module:
        """A judge of the world's objects and backgrounds."""
        config = JudgeConfig(objects=len(objects()), backgrounds=len(BACKGROUNDS))
        judge = Judge(config)
        judge.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        # Of 325 objects nearly all are absent from each of the 64 cells; starting there saves the
        # first thousand steps.
        nn.init.constant_(judge.cells[-1].bias, -9.0)  # pyright: ignore[reportArgumentType]
        return judge

    def feed(self, part: Part) -> Iterator[Batch]:
        """Micro-batches that are drawn."""
        return part.drawn(self, self.batch)

    def batch(self, share: Share) -> Batch:
        """Scenes of the train split and spoiled ones."""
        rng = np.random.Generator(np.random.PCG64([self.seed, share.number]))
        ease = 1 - share.step / self.easy_steps if self.easy_steps else 0.0
        return make_batch(rng, "train", share.size, self.spoiled, ease)

    def loss(self, model: nn.Module, batch: Batch, moment: Moment) -> Loss:
        """Cross entropies of presence, background, count and the map, added."""
        assert isinstance(model, Judge)
        x = (batch.pictures.float() / 255).contiguous(memory_format=torch.channels_last)
        seen = model(x)
        with precise(x.device):
            return self._compared(model, seen, batch)

    def _compared(self, model: Judge, seen: Verdict, batch: Batch) -> Loss:
        presence = F.binary_cross_entropy_with_logits(
            seen.objects.float(), batch.present.float(), reduction="none"
        )
        presence = presence.sum(1).mean()
        background = F.cross_entropy(seen.background.float(), batch.background)
        count = F.cross_entropy(seen.number.float(), batch.number)
        where = torch.randint(
            batch.maps[0].numel(), (len(batch.maps), self.map_pixels), device=batch.maps.device
        )
        features = seen.features.flatten(2).transpose(1, 2)
        features = features.gather(1, where[..., None].expand(-1, -1, features.shape[2]))
        chosen = features[batch.proper].flatten(0, 1).float()
        logits = F.linear(chosen, model.classes.weight.flatten(1), model.classes.bias)
        target = batch.maps.flatten(1).gather(1, where)[batch.proper].flatten()
        pixels = F.cross_entropy(logits, target)
        figures = {
            "presence": presence,
            "background": background,
            "count": count,
            "pixels": pixels,
        }
        return Loss(presence + background + count + pixels, figures)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Shares of right answers on the validation split, and of spoiled pictures passed."""
        assert isinstance(model, Judge)
        rng = np.random.Generator(np.random.PCG64([99]))
        totals = dict.fromkeys(("objects", "background", "count", "pixels", "passed"), 0.0)
        rounds = 8
        for _ in range(rounds):
            batch = make_batch(rng, "validation", 128, 0.0)
            seen = model(batch.pictures.float() / 255)
            found = seen.objects.sigmoid() > model.config.presence
            totals["objects"] += (found == batch.present).all(1).float().mean().item()
            right = seen.background.argmax(1) == batch.background
            totals["background"] += right.float().mean().item()
            totals["count"] += (seen.number.argmax(1) == batch.number).float().mean().item()
            totals["pixels"] += (model.pixels(seen) == batch.maps).float().mean().item()
            batch = make_batch(rng, "validation", 128, 1.0)
            seen = model(batch.pictures.float() / 255)
            passed = (seen.objects.sigmoid() > model.config.presence).any(1)
            totals["passed"] += passed.float().mean().item()
        return {f"validation_{k}": v / rounds for k, v in totals.items()}

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the judge as a folder that `lascaux.load` reads."""
        from lascaux.weights.load import save

        save(model, folder, dtype=torch.float16)


def make_batch(
    rng: np.random.Generator, split: Split, count: int, spoiled: float, ease: float = 0.0
) -> Batch:
    """Pictures of scenes of `split`, a share of them spoiled, with what they show.

    `ease` is the share of scenes with one large object.
    """
    size = 64
    pictures = np.empty((count, size, size, 3), dtype=np.uint8)
    maps = np.empty((count, size, size), dtype=np.int64)
    present = np.zeros((count, len(objects())), dtype=bool)
    background, number = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    proper = np.ones(count, dtype=bool)
    for row in range(count):
        choose = large if rng.random() < ease else sample
        scene = choose(rng, split, digits=True)
        proper[row] = rng.random() >= spoiled
        maps[row] = draw_map(scene, size)
        background[row] = BACKGROUNDS.index(scene.background)
        if proper[row]:
            present[row, [thing.object for thing in scene.things]] = True
            number[row] = len(scene.things)
            drawn = draw(scene, size)
            pictures[row] = _handled(drawn, rng) if rng.random() < 0.4 else np.asarray(drawn)
        else:
            number[row] = 0
            pictures[row] = spoil(scene, SPOILS[rng.integers(len(SPOILS))], rng, size)
    return Batch(
        torch.from_numpy(pictures).permute(0, 3, 1, 2),
        torch.from_numpy(present),
        torch.from_numpy(background),
        torch.from_numpy(number),
        torch.from_numpy(maps),
        torch.from_numpy(proper),
    )


def _handled(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """The picture a little blurred, shaded or noisy, as a good generator gives it."""
    style = rng.integers(3)
    if style == 0:
        return np.asarray(picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.7))))
    pixels = np.asarray(picture, dtype=np.float32)
    if style == 1:
        pixels = pixels * rng.uniform(0.93, 1.07) + rng.uniform(-6, 6)
    else:
        sigma = np.float32(rng.uniform(1, 8))
        pixels = pixels + sigma * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)
