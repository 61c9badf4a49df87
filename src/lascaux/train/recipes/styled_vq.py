"""styled-vq: pictures as 36 attributes and back, on your own data.

    lascaux train styled-vq --data photos/                     from nothing, small
    lascaux train styled-vq --data photos/ --architecture styled-vq-512-64 --precision bfloat16
    lascaux codebook photos/ --model runs/styled-vq-0/model --codes 4096 --out coded
    lascaux train styled-vq --data photos/ --name coded --model coded

DATA is whatever `lascaux data info` reads; captions are not needed. After Styled_vae_vq (De Hu Li
2024): stage one learns encoder and decoder without codes, `lascaux codebook` makes these by
k-means, and of a model that has them the decoder is trained on, behind its codes. With --codebook
average the codes are learnt at once, with --codebook fsq without a codebook; with --predicts tokens
the decoder learns the codes of a VQGAN instead of pixels. Differences are measured by the stages of
the embedded ochre-clip, or by LPIPS (--perceptual lpips-vgg16, downloaded once).

A part of the records is kept aside; on it the reconstructions and the use of codes are measured.
"""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from lascaux.errors import BadInput
from lascaux.models.styled_vq import VARIANTS, StyledVqConfig
from lascaux.train.pictures import Pictured
from lascaux.train.recipe import Sample, restated, setting
from lascaux.train.reconstructions import psnr, side_by_side
from lascaux.train.styling import SMALL, Styling, Trainee, card, pretrained, reconstructed
from lascaux.weights.load import save

_SHOWN = 12  # pictures of a sheet of samples

ARCHITECTURES = {
    "small": SMALL,
    # What is quantised is what the README quantises, so that noise on it is what codes do.
    **{
        name: replace(config, quantised="bottleneck", distance="cosine")
        for name, config in VARIANTS.items()
    },
}


@dataclass(frozen=True, kw_only=True)
class StyledVqTraining(Pictured, Styling):
    """Settings of a run; every field is a flag of `lascaux train styled-vq`."""

    name: ClassVar[str] = "styled-vq"

    model: str = setting("", "begin with these weights: a name, folder or hub id")
    architecture: str = setting("small", "what to begin from nothing: small, or a published name")
    codes: int = setting(0, "of a codebook that is learnt at once (--codebook average)")
    steps: int = restated("steps", 50_000)
    batch_size: int = restated("batch_size", 32)
    learning_rate: float = restated("learning_rate", 3e-4)
    warmup_steps: int = restated("warmup_steps", 1000)
    cooldown_steps: int = restated("cooldown_steps", 10_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model and self.codes:
            raise BadInput("--model brings its codes: leave --codes out")
        if not self.model and self.architecture not in ARCHITECTURES:
            raise BadInput(
                f"--architecture {self.architecture}: expected one of {', '.join(ARCHITECTURES)}"
            )
        if (self.codebook == "average") is not bool(self.codes > 0):
            raise BadInput(
                f"--codes {self.codes} --codebook {self.codebook}: codes are learnt at once by "
                "--codebook average and a number of --codes, or by --codebook fsq as many as "
                "--levels make; or made later by `lascaux codebook`"
            )

    @property
    def side(self) -> int:
        """Side of the pictures, in pixels.

        Raises:
            BadInput: another one is asked for than the model is for.
        """
        size = self._config().image_size
        if self.image_size not in (0, size):
            raise BadInput(f"--image-size {self.image_size}: this model takes {size}")
        return size

    def build(self) -> nn.Module:
        """A Styled VAE-VQ.

        Raises:
            BadInput: the model is none that can be trained.
        """
        side = self.side  # the model's, or none that it takes is refused here
        if self.model:
            return self.trainee(copy.deepcopy(pretrained(self.model)), fresh=False)
        styled = self.drafted(replace(self._config(), image_size=side))
        return self.trainee(styled, fresh=True)

    @torch.no_grad()
    def validate(self, model: nn.Module) -> dict[str, float]:
        """PSNR, mean absolute difference and share of codes used on records kept aside."""
        assert isinstance(model, Trainee)
        pictures = self.kept
        if not len(pictures):
            return {}
        back, ids = reconstructed(model.styled, pictures)
        x = pictures.to(back.device).float() / 255
        told = {
            "validation_psnr": psnr(x, back).mean().item(),
            "validation_l1": (x - back).abs().mean().item(),
        }
        if ids is not None:
            told["validation_codes_used"] = len(ids.unique()) / model.styled.codes
        return told

    @torch.no_grad()
    def samples(self, model: nn.Module) -> list[Sample]:
        """Pictures kept aside, each beside its reconstruction."""
        assert isinstance(model, Trainee)
        pictures = self.kept[:_SHOWN]
        if not len(pictures):
            return []
        return side_by_side(pictures, reconstructed(model.styled, pictures)[0])

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """Write the model as a folder that `lascaux.load` reads."""
        assert isinstance(model, Trainee)
        begun = self.model or f"nothing ({self.architecture})"
        save(model.styled, folder, card=card(self.name, begun, self, figures))

    def _config(self) -> StyledVqConfig:
        if self.model:
            return pretrained(self.model).config
        return replace(ARCHITECTURES[self.architecture], codes=self.codes)
