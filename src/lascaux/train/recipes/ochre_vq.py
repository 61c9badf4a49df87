"""ochre-vq: pictures of the emoji world as 64 of 2048 codes, and back.

    lascaux train ochre-vq

Cost: 480,000 pictures at six tenths of a second of a core for 16 of them, five hours. The embedded
model came to be in parts, about three hours of a core together:

    lascaux train ochre-vq --name a --depth 1 --steps 9562 --cooldown-steps 0
    lascaux train ochre-vq --name b --model runs/ochre-vq-a/model --steps 1567 --cooldown-steps 0
    lascaux train ochre-vq --name c --model runs/ochre-vq-b/model --steps 1530 --cooldown-steps 0 \\
        --crowded 0.5 --seed 2
    lascaux train ochre-vq --name d --model runs/ochre-vq-c/model --steps 5200 \\
        --cooldown-steps 1300 --crowded 0.3 --seed 4 --warmup-steps 100 --learning-rate 7e-4 \\
        --freeze vqgan.encoder vqgan.to_code vqgan.codebook --perceptual-weight 1 \\
        --discriminator-start 100 --adversarial-weight 0.3
    python tools/blend.py runs/ochre-vq-c/model runs/ochre-vq-d/model 0.75 --out ochre-vq

In the object's box of validation they stand at 19.0, 19.1, 19.1, 18.2 and 18.8 dB; ochre-clip's
distance is 0.125 after c, 0.121 after d and 0.120 between them, where pictures look best. On the
test split that is 3.6 dB above a thumbnail in the object's box, and the judge names 73.2 % of the
objects: it is trained too short still.

Features left to themselves came to vary in three directions alone, the mean colour of their patch
(--decorrelation 0, 1,024 codes of width 64, all pixels alike): the object's box of validation then
stood at 17.6 dB after 6,800 steps. It stands there after 2,000 with --decorrelation 0.05, 2,048
codes of width 8 and --things-weight 6; the weight alone gained 0.2 dB in 200 steps.

Scenes of the train split, 64 pixels; digits are among them. Validation is on scenes of one object
of the validation split: how good their reconstructions are in the object's box, and how many of
the codes are used. What the judge says of reconstructions is left to the evaluation: it selects
nothing.

As in the recipe `vqgan`, several processes train together, and --shard is not possible.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn

from lascaux.errors import BadInput
from lascaux.models.vqgan import ResidualBlock, VqGan, VqGanConfig
from lascaux.train import scenes
from lascaux.train.autoencoding import Autoencoding, Trainee, card, reconstructed
from lascaux.train.recipe import Sample, restated, setting
from lascaux.train.reconstructions import side_by_side
from lascaux.weights.load import load, save

_SHOWN = 12  # pictures of a sheet of samples

# 3.7 million parameters. At full size, where most of the time goes, it is narrow.
OCHRE = VqGanConfig(
    codes=2048,
    code_width=8,
    image_size=scenes.SIZE,
    width=16,
    multiples=(1, 2, 4, 8),
    blocks=2,
    attention_sizes=(),
    latent_width=64,
    groups=8,
    weighs="commitment",
)


@dataclass(frozen=True, kw_only=True)
class OchreVq(scenes.OfScenes, Autoencoding):
    """Settings of a run; every field is a flag of `lascaux train ochre-vq`."""

    name: ClassVar[str] = "ochre-vq"
    best: ClassVar[str | None] = "+validation_psnr_of_object"
    model: str = setting("", "begin with these weights: a folder or name; it may be shallower")
    depth: int = setting(2, "residual blocks of a level; the decoder has one more")
    steps: int = restated("steps", 30_000)
    warmup_steps: int = restated("warmup_steps", 200)
    cooldown_steps: int = restated("cooldown_steps", 6000)
    codebook: Literal["gradient", "average"] = restated("codebook", "average", Autoencoding)
    dead_after: int = restated("dead_after", 50, Autoencoding)
    decorrelation: float = restated("decorrelation", 0.05, Autoencoding)
    perceptual_weight: float = restated("perceptual_weight", 0.4, Autoencoding)
    discriminator_start: int = restated("discriminator_start", 26_000, Autoencoding)
    discriminator_width: int = restated("discriminator_width", 32, Autoencoding)
    discriminator_layers: int = restated("discriminator_layers", 2, Autoencoding)
    adversarial_weight: float = restated("adversarial_weight", 0.2, Autoencoding)

    def build(self) -> nn.Module:
        """A small VQGAN with its discriminator."""
        config = replace(OCHRE, blocks=self.depth)
        if self.quantiser == "gumbel":
            config = replace(config, quantiser="gumbel", kl_weight=self.divergence_weight)
        vqgan = VqGan(config)
        if self.model:
            _begin_with(vqgan, _pretrained(self.model, config))
        return self.trainee(vqgan, scenes.SIZE, fresh=not self.model)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR of scenes and of the box of their object, and share of codes used."""
        assert isinstance(model, Trainee)
        back, ids = reconstructed(model.vqgan, scenes.validation().pictures)
        used = len(ids.unique()) / model.vqgan.codes
        return {**scenes.figures(back), "validation_codes_used": used}

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Validation scenes, each beside its reconstruction."""
        assert isinstance(model, Trainee)
        pictures = scenes.validation().pictures[:_SHOWN]
        return side_by_side(pictures, reconstructed(model.vqgan, pictures)[0])

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the VQGAN, in half precision, as a folder that `lascaux.load` reads."""
        assert isinstance(model, Trainee)
        about = card(self.name, self.model or "nothing", self, figures)
        save(model.vqgan, folder, dtype=torch.float16, card=about)


@lru_cache(maxsize=1)
def _pretrained(name: str, config: VqGanConfig) -> VqGan:
    found = load(name)
    same = isinstance(found, VqGan) and replace(found.config, blocks=config.blocks) == config
    if not same or found.config.blocks > config.blocks:
        raise BadInput(
            f"--model {name}: expected what this recipe trains, by the same settings, with at most "
            f"{config.blocks} blocks a level"
        )
    return found


def _begin_with(vqgan: VqGan, found: VqGan) -> None:
    """Take over weights; blocks that are not there begin as nothing beside their shortcut.

    Chen, Goodfellow, Shlens 2016, arXiv:1511.05641, section 2.3: a deeper network that computes
    the same.
    """
    missing = set(vqgan.load_state_dict(found.state_dict(), strict=False).missing_keys)
    for name, module in vqgan.named_modules():
        if isinstance(module, ResidualBlock) and f"{name}.conv2.weight" in missing:
            nn.init.zeros_(module.conv2.weight)
            assert module.conv2.bias is not None
            nn.init.zeros_(module.conv2.bias)
