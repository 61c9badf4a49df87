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

import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.prepared import PreparedFeatures
from lascaux.data.records import Source
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.errors import BadInput
from lascaux.images.augment import Augmentation
from lascaux.images.preprocess import Preprocessing
from lascaux.models.vqgan import VARIANTS, VqGan, VqGanConfig
from lascaux.train.aside import trained_on, validated_on
from lascaux.train.autoencoding import (
    Autoencoding,
    Trainee,
    card,
    reconstructed,
)
from lascaux.train.recipe import Part, Sample, restated, setting
from lascaux.train.reconstructions import psnr, side_by_side
from lascaux.weights.load import load, save

log = logging.getLogger(__name__)

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
class VqGanTraining(Autoencoding):
    """Settings of a run; every field is a flag of `lascaux train vqgan`."""

    name: ClassVar[str] = "vqgan"

    data: str = setting("", "pictures: a folder, table, COCO, tars, Parquet")
    validation: str = setting("", "likewise, to validate on; if not given, a part is kept aside")
    aside: float = setting(0.05, "share of the records that is kept aside, at most 1000 records")
    model: str = setting("", "begin with these weights: a name, folder or hub id")
    architecture: str = setting("small", "what to begin from nothing: small, or a published name")
    codes: int = setting(0, "of a codebook from nothing; 0: as many as the architecture has")
    image_size: int = setting(0, "side of the pictures in pixels; 0: what the architecture is for")
    area: float = setting(0.3, "smallest share of a picture that is cut out by chance; 1: none")
    flip: float = setting(0.5, "chance of mirroring")
    steps: int = restated("steps", 50_000)
    batch_size: int = restated("batch_size", 32)
    learning_rate: float = restated("learning_rate", 3e-4)
    warmup_steps: int = restated("warmup_steps", 500)
    cooldown_steps: int = restated("cooldown_steps", 5000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise BadInput("--data is missing: name a folder, table or archive with pictures")
        for name, low, high in (("aside", 0, 0.5), ("area", 1e-3, 1), ("flip", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"--{name} is {getattr(self, name)}; expected {low} to {high}")
        if self.model and (self.codes or self.quantiser):
            raise BadInput("--model brings its codes and quantiser: leave --codes and --quantiser")
        if not self.model and self.architecture not in ARCHITECTURES:
            raise BadInput(
                f"--architecture {self.architecture}: expected one of {', '.join(ARCHITECTURES)}"
            )
        if self.codes < 0 or self.image_size < 0:
            raise BadInput("--codes and --image-size must be at least 0")

    def settings(self) -> dict[str, Any]:
        """The fields, and what tells the records apart from others at the same path."""
        return {**super().settings(), "records": _source(self.data).fingerprint[:16]}

    def build(self) -> nn.Module:
        """A VQGAN with its discriminator.

        Raises:
            BadInput: the model, or the pictures' size, is none that can be trained.
        """
        vqgan = VqGan(self._config())
        if self.model:
            vqgan.load_state_dict(_pretrained(self.model).state_dict())
        return self.trainee(vqgan, self._size(), fresh=not self.model)

    def feed(self, part: Part) -> Loader:
        """Batches of pictures."""
        source = self._trained_on()
        order = Order(records=len(source), batch_size=self.batch_size // self.accumulation)
        loader = Loader(
            source,
            self._samples(),
            order,
            Place(seed=self.seed, world_size=part.ranks),
            rank=part.rank,
            workers=part.workers,
        )
        if part.place is not None:
            loader.load_state_dict(dict(part.place))
        return loader

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR, mean absolute difference and share of codes used on records kept aside."""
        assert isinstance(model, Trainee)
        pictures = _kept(self)
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
        pictures = _kept(self)[:_SHOWN]
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

    def _size(self) -> int:
        config = self._config()
        size = self.image_size or config.image_size
        if size % config.factor:
            raise BadInput(f"--image-size {size}: expected a multiple of {config.factor}")
        return size

    def _samples(self) -> Samples:
        if self.area == 1 and not self.flip:
            return Samples(_plain(self._size()))
        changes = Augmentation(
            size=self._size(), area=(self.area, 1.0), aspect=(1.0, 1.0), flip=self.flip
        )
        return Samples(changes)

    def _trained_on(self) -> Source:
        source = _source(self.data)
        return source if self.validation else trained_on(source, self.aside)


def _plain(size: int) -> Preprocessing:
    return Preprocessing(size=size, resize="crop", filter="lanczos", reading="photo")


@lru_cache(maxsize=4)
def _source(path: str) -> Source:
    source = open_source(path)
    if isinstance(source, PreparedFeatures):
        raise BadInput(f"{source.path} holds prepared features, and no pictures: name their source")
    return source


@lru_cache(maxsize=2)
def _kept(recipe: VqGanTraining) -> Tensor:
    """The pictures kept aside, uint8."""
    other = _source(recipe.validation) if recipe.validation else None
    source = validated_on(_source(recipe.data), recipe.aside, other)
    size = recipe._size()
    how, chance = Samples(_plain(size)), np.random.Generator(np.random.PCG64([0]))
    made = []
    for index in range(len(source)):
        try:
            made.append(how(source[index], chance)["picture"])
        except BadInput as error:
            log.warning("left out of the validation: %s: %s", source.key(index), error)
    return torch.stack(made) if made else torch.empty(0, 3, size, size, dtype=torch.uint8)


@lru_cache(maxsize=1)
def _pretrained(name: str) -> VqGan:
    vqgan = load(name)
    if not isinstance(vqgan, VqGan):
        raise BadInput(f"--model {name} is a {type(vqgan).__name__}; expected a VQGAN")
    if vqgan.config.in_channels != 3 or vqgan.config.used_codes is not None:
        raise BadInput(f"--model {name}: expected a VQGAN of RGB pictures that uses all its codes")
    return vqgan
