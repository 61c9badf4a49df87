"""vqgan: pictures as a grid of codes and back, on your own data.

    lascaux train vqgan --data photos/                         from nothing, small
    lascaux train vqgan --data photos/ --architecture imagenet-f16-1024 --precision bfloat16
    lascaux train vqgan --data photos/ --model my-vqgan/ --learning-rate 5e-5

DATA is whatever `lascaux data info` reads; captions are not needed. Esser et al. 2020,
arXiv:2012.09841. Differences are measured by the stages of the embedded ochre-clip, or by LPIPS
(--perceptual lpips-vgg16, downloaded once). A patch discriminator takes part from
--discriminator-start on. Codes are nearest ones, moved by their loss or as averages
(--codebook average), or drawn in training (--quantiser gumbel).

Several processes train together (--processes): codes are counted, averaged and revived over the
pictures of all; the discriminator is weighed, and its batch norms look, by the pictures of each.
--shard is not possible, since two optimisers take turns.

A part of the records is kept aside; on it the reconstructions and the use of codes are measured.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from lascaux.errors import BadInput
from lascaux.models.vqgan import VARIANTS, VqGan, VqGanConfig
from lascaux.train.autoencoding import Autoencoding, Trainee, card, reconstructed
from lascaux.train.begun import named
from lascaux.train.pictures import Pictured
from lascaux.train.recipe import Sample, restated, setting
from lascaux.train.reconstructions import psnr, side_by_side
from lascaux.weights.load import save

_SHOWN = 12  # pictures of a sheet of samples

# 3 million parameters; 64 codes for a picture of 64 pixels.
SMALL = VqGanConfig(
    codes=1024,
    code_width=64,
    image_size=64,
    width=32,
    multiples=(1, 1, 2, 4),
    blocks=1,
    attention_sizes=(),
    latent_width=64,
    groups=8,
    weighs="commitment",
)
ARCHITECTURES = {
    "small": SMALL,
    **{name: config for name, config in VARIANTS.items() if config.in_channels == 3},
}


@dataclass(frozen=True, kw_only=True)
class VqGanTraining(Pictured, Autoencoding):
    """Settings of a run; every field is a flag of `lascaux train vqgan`."""

    name: ClassVar[str] = "vqgan"

    model: str = setting("", "begin with these weights: a name, folder or hub id")
    architecture: str = setting("small", "what to begin from nothing: small, or a published name")
    codes: int = setting(0, "of a codebook from nothing; 0: as many as the architecture has")
    steps: int = restated("steps", 50_000)
    batch_size: int = restated("batch_size", 32)
    learning_rate: float = restated("learning_rate", 3e-4)
    warmup_steps: int = restated("warmup_steps", 500)
    cooldown_steps: int = restated("cooldown_steps", 5000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model and (self.codes or self.quantiser):
            raise BadInput("--model brings its codes and quantiser: leave --codes and --quantiser")
        if not self.model and self.architecture not in ARCHITECTURES:
            raise BadInput(
                f"--architecture {self.architecture}: expected one of {', '.join(ARCHITECTURES)}"
            )
        if self.codes < 0:
            raise BadInput(f"--codes is {self.codes}; it must be at least 0")

    @property
    def side(self) -> int:
        """Side of the pictures, in pixels.

        Raises:
            BadInput: it is no multiple of the model's factor.
        """
        config = self._config()
        size = self.image_size or config.image_size
        if size % config.factor:
            raise BadInput(f"--image-size {size}: expected a multiple of {config.factor}")
        return size

    def build(self) -> nn.Module:
        """A VQGAN with its discriminator.

        Raises:
            BadInput: the model, or the pictures' size, is none that can be trained.
        """
        vqgan = VqGan(self._config())
        if self.model:
            vqgan.load_state_dict(_pretrained(self.model).state_dict())
        return self.trainee(vqgan, self.side, fresh=not self.model)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR, mean absolute difference and share of codes used on records kept aside."""
        assert isinstance(model, Trainee)
        pictures = self.kept
        if not len(pictures):
            return {}
        back, ids = reconstructed(model.vqgan, pictures)
        x = pictures.to(back.device).float() / 255
        told = {
            "psnr": psnr(x, back).mean().item(),
            "l1": (x - back).abs().mean().item(),
            "codes_used": len(ids.unique()) / model.vqgan.codes,
        }
        return {f"validation_{name}": value for name, value in told.items()}

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures kept aside, each beside its reconstruction."""
        assert isinstance(model, Trainee)
        pictures = self.kept[:_SHOWN]
        if not len(pictures):
            return []
        return side_by_side(pictures, reconstructed(model.vqgan, pictures)[0])

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the VQGAN as a folder that `lascaux.load` reads."""
        assert isinstance(model, Trainee)
        begun = self.model or f"nothing ({self.architecture})"
        save(model.vqgan, folder, card=card(self.name, begun, self, figures))

    def _config(self) -> VqGanConfig:
        if self.model:
            return _pretrained(self.model).config
        config = ARCHITECTURES[self.architecture]
        quantiser = self.quantiser or config.quantiser
        kl_weight = self.divergence_weight
        codes = self.codes or config.codes
        return replace(config, quantiser=quantiser, codes=codes, kl_weight=kl_weight)


@lru_cache(maxsize=1)
def _pretrained(name: str) -> VqGan:
    vqgan = named("--model", name, VqGan, "VQGAN")
    if vqgan.config.in_channels != 3 or vqgan.config.used_codes is not None:
        raise BadInput(f"--model {name}: expected a VQGAN of RGB pictures that uses all its codes")
    return vqgan
