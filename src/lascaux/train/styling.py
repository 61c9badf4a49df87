"""What all recipes of Styled VAE-VQ share: settings, the loss, and how it is measured.

Stage one learns encoder and decoder without codes, with noise on the latents that makes the decoder
tolerant; a codebook by k-means comes afterwards (`lascaux codebook`). Of a model that has its
codebook the decoder is trained on, behind its codes. A codebook can also be learnt at once, as
averages of what chooses them.

Pixels and perceptual differences make the loss, as in the author's code (`modelv2.py` has squared
differences and LPIPS, both of weight 1).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.models.styled_vq import StyledVq
from lascaux.nn.quantise import rotated_through, straight_through
from lascaux.train.codebook import Tending
from lascaux.train.optimisers import Optimiser, decayed_and_plain
from lascaux.train.perceptual import perceptual_distance
from lascaux.train.recipe import Loss, Moment, Recipe, precise, restated, setting

_AT_ONCE = 32  # pictures reconstructed together in a validation
_MEAN_DECAY = 0.99  # of the mean features in each micro-batch


class Trainee(nn.Module):
    """A Styled VAE-VQ, and what its codebook needs where that is learnt at once."""

    def __init__(self, styled: StyledVq, tending: Tending | None) -> None:
        super().__init__()
        self.styled = styled
        self.tending = tending


@dataclass(frozen=True, kw_only=True)
class Styling(Recipe):
    """Settings of all runs that train a Styled VAE-VQ; batches have "picture", uint8 RGB."""

    best: ClassVar[str | None] = "+validation_psnr"

    noise: float = setting(
        0.1, "on the latents, as a part of their size, so that the decoder bears codes"
    )
    prefixes: float = setting(
        0.0, "share of the pictures that are decoded from their first attributes alone"
    )
    codebook: Literal["later", "average"] = setting(
        "later", "made by `lascaux codebook` afterwards, or learnt at once"
    )
    codebook_decay: float = setting(0.99, "of the averages in each step")
    commitment: float = setting(0.25, "weight of the latents' distance to their learnt codes")
    through: Literal["straight", "rotation"] = setting(
        "straight", "how gradients pass learnt codes"
    )
    dead_after: int = setting(100, "steps without use until a learnt code is revived; 0: never")
    pixels: Literal["squared", "absolute"] = setting("squared", "differences of pixels")
    pixel_weight: float = setting(1.0, "of differences of pixels")
    perceptual: str = setting("ochre-clip", "lpips-vgg16, or a CLIP with a ResNet; or a folder")
    perceptual_weight: float = setting(1.0, "of perceptual differences; 0: none")
    weight_decay: float = restated("weight_decay", 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        least = ("noise", "commitment", "dead_after", "pixel_weight", "perceptual_weight")
        for name in least:
            if not 0 <= getattr(self, name) < float("inf"):
                flag = name.replace("_", "-")
                raise BadInput(f"--{flag} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.prefixes <= 1:
            raise BadInput(f"--prefixes is {self.prefixes}; expected 0 to 1")
        if not 0 < self.codebook_decay < 1:
            raise BadInput(f"--codebook-decay is {self.codebook_decay}; expected between 0 and 1")

    def trainee(self, styled: StyledVq, *, fresh: bool) -> Trainee:
        """A model with what it is trained with; the encoder of one that has its codes is frozen.

        Args:
            styled: to train.
            fresh: nothing of it is learnt yet.

        Raises:
            BadInput: it has no codes although they are to be learnt, or has them already.
        """
        learnt = self.codebook == "average"
        if learnt and fresh and not styled.codes:
            raise BadInput("--codebook average needs --codes")
        if learnt and not fresh:
            raise BadInput("--codebook average begins from nothing: leave --model out")
        tending = None
        if learnt:
            nn.init.normal_(styled.codebook)
            tending = Tending(
                styled.codebook,
                average=True,
                decay=self.codebook_decay,
                dead_after=self.dead_after,
            )
        elif styled.codes:
            # Codes are places of the encoder's latents, so these must stay where they are.
            styled.encoder.requires_grad_(False)
        return Trainee(styled, tending)

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """AdamW, with the betas of the author's code."""
        groups = decayed_and_plain(model.named_parameters(), self.weight_decay)
        return {"model": Optimiser("adamw", groups, (0.9, 0.98))}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of encoder and decoder."""
        assert isinstance(model, Trainee)
        encoder, decoder = model.styled.encoder, model.styled.decoder
        return [
            *encoder.blocks,
            *encoder.expert_blocks,
            *decoder.conditioned_blocks,
            *decoder.blocks,
        ]

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """Differences of pixels and of what is perceived, and of latents to learnt codes."""
        assert isinstance(model, Trainee)
        styled = model.styled
        x = styled.normalise(batch["picture"].float() / 255)
        figures: dict[str, Tensor | float] = {}
        features, apart = self._features(model, x, figures)
        if self.prefixes:
            features = self._shortened(styled, features)
        back = styled.decode(features).float()
        difference = back - x
        pixels = difference.square().mean() if self.pixels == "squared" else difference.abs().mean()
        total = self.pixel_weight * pixels + self.commitment * apart
        figures["pixel_difference"] = pixels.detach()
        if self.perceptual_weight:
            # Apart from the model, whose checkpoints it would only make larger.
            seen = perceptual_distance(self.perceptual).to(x.device)(x, back).mean()
            total = total + self.perceptual_weight * seen
            figures["perceptual_distance"] = seen.detach()
        return Loss(total, figures)

    def _features(
        self, model: Trainee, x: Tensor, figures: dict[str, Tensor | float]
    ) -> tuple[Tensor, Tensor]:
        """What is decoded, and how far latents are from codes that are learnt with them."""
        styled, nothing = model.styled, x.new_zeros(())
        if model.tending is None and not styled.codes:
            return styled.features(x, noise=self.noise), nothing
        if model.tending is None:
            with torch.no_grad():
                return styled.quantise(styled.features(x))[1], nothing
        features = styled.features(x)
        with precise(x.device):
            features = features.float()
            if styled.config.distance == "cosine":
                features = F.normalize(features, dim=-1)
            with torch.no_grad():
                ids, found = styled.quantise(features)
            if styled.config.distance == "cosine":
                found = F.normalize(found, dim=-1)
            apart = (features - found).square().sum(-1).mean()
            through = rotated_through if self.through == "rotation" else straight_through
            decoded = through(found, features)
        model.tending.note(ids, features)
        # What is decoded was copied from the codes, which may move now.
        model.tending.settle(styled.codebook, features)
        figures |= model.tending.figures()
        return decoded, apart

    def _shortened(self, styled: StyledVq, features: Float[Tensor, "b n d"]) -> Tensor:
        """Of a share of the pictures, the mean feature in place of what is behind the first."""
        count, length = features.shape[:2]
        with torch.no_grad():
            styled.mean.lerp_(features.float().mean(0).to(styled.mean), 1 - _MEAN_DECAY)
        # The CPU's generator, which checkpoints keep.
        kept = torch.randint(1, length, (count, 1))
        kept[round(self.prefixes * count) :] = length
        behind = (torch.arange(length) >= kept).to(features.device)
        return torch.where(behind[..., None], styled.standing_in().to(features.dtype), features)


@torch.no_grad()
def reconstructed(
    styled: StyledVq, pictures: UInt8[Tensor, "b 3 y x"]
) -> tuple[Float[Tensor, "b 3 y x"], Int[Tensor, "b n"] | None]:
    """Pictures in [0, 1] after their codes, and these; after their features if it has no codes."""
    found, ids = [], []
    for part in pictures.split(_AT_ONCE):
        features = styled.features(styled.normalise(part.to(styled.device).float() / 255))
        if styled.codes:
            chosen, features = styled.quantise(features)
            ids.append(chosen)
        found.append(styled.denormalise(styled.decode(features)).clamp(0, 1))
    return torch.cat(found), torch.cat(ids) if ids else None


def card(name: str, begun: str, recipe: Styling, figures: dict[str, float]) -> str:
    """Markdown of a trained model."""
    measured = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    return _CARD.format(
        name=name, begun=begun, steps=recipe.steps, size=recipe.batch_size, measured=measured
    )


_CARD = """\
---
library_name: lascaux
tags:
- styled-vq
---

# A Styled VAE-VQ trained by the recipe `{name}` of Lascaux

From {begun}, {steps} steps of {size} pictures.

| on pictures kept aside | |
|---|---|
{measured}
"""
