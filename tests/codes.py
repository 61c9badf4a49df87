"""A VQGAN so small that a test trains it from beginning to end, on pictures that are drawn."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from lascaux.models.vqgan import VqGan, VqGanConfig
from lascaux.train.autoencoding import Autoencoding, Trainee, reconstructed
from lascaux.train.recipe import Part, Share
from lascaux.train.reconstructions import psnr
from lascaux.weights.load import save

TINY = VqGanConfig(
    codes=64,
    code_width=8,
    image_size=16,
    width=8,
    multiples=(1, 2),
    blocks=1,
    attention_sizes=(),
    latent_width=8,
    groups=4,
    weighs="commitment",
)


@dataclass(frozen=True, kw_only=True)
class Codes(Autoencoding):
    """Coloured blocks as codes."""

    name: ClassVar[str] = "codes"
    steps: int = 12
    batch_size: int = 4
    warmup_steps: int = 2
    cooldown_steps: int = 3
    learning_rate: float = 3e-3
    averaging: float = 0.5
    perceptual_weight: float = 0.0
    discriminator_start: int = 5
    discriminator_width: int = 4
    discriminator_layers: int = 1
    dead_after: int = 2
    temperature_steps: int = 10
    divergence_steps: int = 4

    def build(self) -> nn.Module:
        """The model and its discriminator."""
        config = replace(TINY, quantiser=self.quantiser or "nearest", kl_weight=1e-3)
        return self.trainee(VqGan(config), 16, fresh=True)

    def feed(self, part: Part) -> Iterator[dict[str, Tensor]]:
        return part.drawn(self, self.batch)

    def batch(self, share: Share) -> dict[str, Tensor]:
        """Blocks of four pixels."""
        chance = torch.Generator().manual_seed(1000 * self.seed + share.number)
        drawn = torch.randint(256, (share.size, 3, 4, 4), generator=chance, dtype=torch.uint8)
        return {"picture": drawn.repeat_interleave(4, 2).repeat_interleave(4, 3)}

    def validate(self, model: nn.Module) -> dict[str, float]:
        """On one more batch."""
        assert isinstance(model, Trainee)
        pictures = self.batch(Share(0, 999, 4))["picture"]
        back, _ = reconstructed(model.vqgan, pictures)
        return {"validation_psnr": psnr(pictures.float() / 255, back).mean().item()}

    def export(self, model: nn.Module, folder: Path, figures: dict[str, float]) -> None:
        """The VQGAN alone."""
        assert isinstance(model, Trainee)
        save(model.vqgan, folder)
