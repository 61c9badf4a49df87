"""ochre-vq: pictures of the emoji world as 64 of 1024 codes, and back.

    lascaux train ochre-vq

Cost: 640,000 pictures; by the time of its steps (1.2 seconds on one core, 1.45 from the
discriminator's start on) about seven hours of a core. It has not been trained to its end yet.

Scenes of the train split, 64 pixels; digits are among them. Validation is on scenes of one object
of the validation split: how good their reconstructions are in the object's box, and how many of
the codes are used. What the judge says of reconstructions is left to the evaluation: it selects
nothing.

As in the recipe `vqgan`, several processes train together, and --shard is not possible.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import draw, draw_map
from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.train.autoencoding import (
    Autoencoding,
    Trainee,
    card,
    psnr,
    reconstructed,
    side_by_side,
)
from lascaux.train.recipe import Part, Precision, Sample, Share, restated

_SIZE = 64
_VALIDATED = 256  # scenes
_SHOWN = 12  # pictures of a sheet of samples

# 2.9 million parameters. At full size, where most of the time goes, it is narrow.
OCHRE = VqGanConfig(
    codes=1024,
    code_width=64,
    image_size=_SIZE,
    width=16,
    multiples=(1, 2, 4, 8),
    blocks=1,
    attention_sizes=(),
    latent_width=64,
    groups=8,
    weighs="commitment",
)


@dataclass(frozen=True, kw_only=True)
class OchreVq(Autoencoding):
    """Settings of a run; every field is a flag of `lascaux train ochre-vq`."""

    name: ClassVar[str] = "ochre-vq"
    best: ClassVar[str | None] = "+validation_psnr_of_object"
    seed: int = restated("seed", 1)
    steps: int = restated("steps", 20_000)
    batch_size: int = restated("batch_size", 32)
    precision: Precision = restated("precision", "bfloat16")
    learning_rate: float = restated("learning_rate", 1e-3)
    warmup_steps: int = restated("warmup_steps", 300)
    cooldown_steps: int = restated("cooldown_steps", 4000)
    averaging: float = restated("averaging", 0.998)
    codebook: Literal["gradient", "average"] = restated("codebook", "average", Autoencoding)
    dead_after: int = restated("dead_after", 50, Autoencoding)
    discriminator_start: int = restated("discriminator_start", 12_000, Autoencoding)
    discriminator_width: int = restated("discriminator_width", 32, Autoencoding)
    discriminator_layers: int = restated("discriminator_layers", 2, Autoencoding)
    adversarial_weight: float = restated("adversarial_weight", 0.3, Autoencoding)

    def build(self) -> nn.Module:
        """A small VQGAN with its discriminator."""
        config = OCHRE
        if self.quantiser == "gumbel":
            config = replace(OCHRE, quantiser="gumbel", kl_weight=self.divergence_weight)
        return self.trainee(VqGan(config), _SIZE, fresh=True)

    def feed(self, part: Part) -> Iterator[dict[str, Tensor]]:
        """Micro-batches that are drawn."""
        return part.drawn(self, self.batch)

    def batch(self, share: Share) -> dict[str, Tensor]:
        """Scenes of the train split."""
        rng = np.random.Generator(np.random.PCG64([self.seed, share.number]))
        scenes = (sample(rng, "train", digits=True) for _ in range(share.size))
        return {"picture": _stacked([np.asarray(draw(scene, _SIZE)) for scene in scenes])}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of scenes and of the box of their object, and share of codes used."""
        assert isinstance(model, Trainee)
        scenes = _validation()
        back, ids = reconstructed(model.vqgan, scenes.pictures)
        x = scenes.pictures.to(back.device).float() / 255
        boxes = [
            psnr(mine[None, :, top:bottom, left:right], theirs[None, :, top:bottom, left:right])
            for mine, theirs, (top, bottom, left, right) in zip(x, back, scenes.boxes, strict=True)
        ]
        return {
            "validation_psnr": psnr(x, back).mean().item(),
            "validation_psnr_of_object": torch.cat(boxes).mean().item(),
            "validation_codes_used": len(ids.unique()) / model.vqgan.codes,
        }

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Validation scenes, each beside its reconstruction."""
        assert isinstance(model, Trainee)
        return side_by_side(model.vqgan, _validation().pictures[:_SHOWN])

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the VQGAN, in half precision, as a folder that `lascaux.load` reads."""
        from lascaux.weights.load import save

        assert isinstance(model, Trainee)
        about = card(self.name, "nothing", self, figures)
        save(model.vqgan, folder, dtype=torch.float16, card=about)


class _Scenes(NamedTuple):
    """Pictures, and where their objects are: top, bottom, left and right, in pixels."""

    pictures: Tensor  # uint8 b 3 y x
    boxes: list[tuple[int, int, int, int]]


@cache
def _validation() -> _Scenes:
    rng = np.random.Generator(np.random.PCG64([79]))
    pictures, boxes = [], []
    for _ in range(_VALIDATED):
        scene = sample(rng, "validation", "single", digits=True)
        pictures.append(np.asarray(draw(scene, _SIZE)))
        rows, columns = np.nonzero(draw_map(scene, _SIZE) >= len(BACKGROUNDS))
        boxes.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    return _Scenes(_stacked(pictures), boxes)


def _stacked(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
