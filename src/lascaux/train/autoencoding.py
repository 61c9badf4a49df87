"""What all recipes of VQGANs share: settings, the two turns of a step, and how it is measured.

Esser, Rombach, Ommer 2020, arXiv:2012.09841, after taming-transformers: absolute and perceptual
differences, a loss of the codes, and from some step on a patch discriminator, weighed by its
gradient in the decoder's last layer. A step is one of the autoencoder and then one of the
discriminator, on what the autoencoder made before its step; officially it is made again after it.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.models.patch_discriminator import PatchDiscriminator
from lascaux.models.vqgan import Encoder, VqGan
from lascaux.train.adversarial import AdversarialOptions, generator_terms
from lascaux.train.against import AgainstDiscriminator
from lascaux.train.cards import card_of
from lascaux.train.codebook import Tending, from_white
from lascaux.train.optimisers import Group, Optimiser, decayed_and_plain
from lascaux.train.perceptual import perceptual_distance
from lascaux.train.recipe import Loss, Moment, Recipe, precise, require_least, restated, setting

_BETAS = (0.5, 0.9)  # of both optimisers, as published
_AT_ONCE = 32  # pictures reconstructed together in a validation


class Trainee(nn.Module):
    """A VQGAN, what it is trained against, and what its codebook needs."""

    def __init__(self, vqgan: VqGan, discriminator: PatchDiscriminator, tending: Tending) -> None:
        super().__init__()
        self.vqgan, self.discriminator, self.tending = vqgan, discriminator, tending


class _Kept(NamedTuple):
    """What the autoencoder's turn leaves to the discriminator's."""

    back: Tensor  # b 3 y x, in the model's range
    features: Tensor  # b n d


@dataclass(frozen=True, kw_only=True)
class Autoencoding(AgainstDiscriminator, Recipe):
    """Settings of all runs that train a VQGAN.

    Batches have "picture", uint8 RGB, and may have "weight", what each pixel counts, 1 in the mean.
    """

    best: ClassVar[str | None] = "+validation_psnr"

    quantiser: Literal["nearest", "gumbel"] | None = setting(
        None, "how codes are chosen; if not given, as the architecture has it"
    )
    codebook: Literal["gradient", "average"] = setting(
        "gradient", "what moves nearest codes: a loss, or the average of what chooses them"
    )
    codebook_decay: float = setting(0.99, "of the averages in each step")
    dead_after: int = setting(100, "steps without use until a nearest code is revived; 0: never")
    temperature: float = setting(1.0, "of a Gumbel quantiser in the beginning")
    least_temperature: float = setting(1 / 16, "of a Gumbel quantiser in the end")
    temperature_steps: int = setting(20_000, "over which the temperature falls, by a cosine")
    divergence_weight: float = setting(
        5e-4, "of a Gumbel quantiser's divergence from equal use; published VQGANs have 1e-8"
    )
    divergence_steps: int = setting(5000, "over which that weight rises, by a cosine")
    codebook_weight: float = setting(1.0, "of the codes' loss")
    decorrelation: float = setting(
        0.0, "weight of keeping the features' covariance that of white noise"
    )
    perceptual: str = setting("ochre-clip", "lpips-vgg16, or a CLIP with a ResNet; or a folder")
    perceptual_weight: float = setting(1.0, "of perceptual differences; 0: none")
    weight_decay: float = restated("weight_decay", 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(
            self,
            dead_after=0,
            temperature_steps=1,
            divergence_weight=0,
            divergence_steps=0,
            codebook_weight=0,
            decorrelation=0,
            perceptual_weight=0,
        )
        if not 0 < self.codebook_decay < 1:
            raise BadInput(f"--codebook-decay is {self.codebook_decay}; expected between 0 and 1")
        if not 0 < self.least_temperature <= self.temperature < math.inf:
            raise BadInput(
                f"--temperature {self.temperature} falls to --least-temperature "
                f"{self.least_temperature}; expected 0 < least <= first"
            )

    @property
    def turns(self) -> tuple[str, ...]:
        """The autoencoder, then the discriminator, which is there from the first step on."""
        return ("autoencoder", "discriminator")

    @property
    def adversary(self) -> AdversarialOptions:
        """How the terms of both losses are weighed."""
        return replace(
            super().adversary,
            perceptual_weight=self.perceptual_weight,
            codebook_weight=self.codebook_weight,
        )

    def trainee(self, vqgan: VqGan, size: int, *, fresh: bool) -> Trainee:
        """A VQGAN with what it is trained with.

        Args:
            vqgan: to train.
            size: side of the pictures, in pixels.
            fresh: nothing of it is learnt yet.

        Raises:
            BadInput: it cannot be trained by these settings.
        """
        gumbel = vqgan.config.quantiser == "gumbel"
        if gumbel and self.codebook == "average":
            raise BadInput(
                "--codebook average: a Gumbel quantiser learns its codes by gradient; leave it "
                "out, or take --quantiser nearest"
            )
        discriminator = self.new_discriminator(size)
        still = not vqgan.codebook.weight.requires_grad or any(
            "vqgan.codebook.weight.".startswith(f"{name}.") for name in self.freeze
        )
        tending = Tending(
            vqgan.codebook.weight,
            average=self.codebook == "average" and not still,
            decay=self.codebook_decay,
            dead_after=0 if gumbel or still else self.dead_after,
            fresh=fresh,
        )
        if tending.average:
            vqgan.codebook.weight.requires_grad_(False)
        model = Trainee(vqgan, discriminator, tending)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return model

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """Adam for each turn; weights decay by choice, codes never."""
        assert isinstance(model, Trainee)
        vqgan = model.vqgan
        if self.adversary.factor and not vqgan.last_layer.requires_grad:
            raise BadInput(
                "--freeze: the discriminator is weighed by gradients of vqgan.decoder.last, which "
                "must be trained; freeze less, or take --adversarial-weight 0"
            )
        named = [(f"vqgan.{name}", weight) for name, weight in vqgan.named_parameters()]
        codes = [each for each in named if each[1] is vqgan.codebook.weight]
        rest = [each for each in named if each[1] is not vqgan.codebook.weight]
        groups = (*decayed_and_plain(rest, self.weight_decay), Group("codes", codes))
        theirs = self.discriminators(model.discriminator)
        return {
            "autoencoder": Optimiser("adam", groups, _BETAS),
            "discriminator": Optimiser("adam", theirs, _BETAS),
        }

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The levels of encoder and decoder."""
        assert isinstance(model, Trainee)
        encoder, decoder = model.vqgan.encoder, model.vqgan.decoder
        levels = encoder.levels if isinstance(encoder, Encoder) else ()
        return [*levels, *decoder.levels]

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """What the autoencoder or the discriminator is to descend."""
        assert isinstance(model, Trainee)
        x = model.vqgan.normalise(batch["picture"].float() / 255)
        x = x.contiguous(memory_format=torch.channels_last)
        if moment.turn == "autoencoder":
            return self._of_autoencoder(model, x, batch.get("weight"), moment.step)
        return self._of_discriminator(model, x, moment)

    def temperature_at(self, step: int) -> float:
        """A Gumbel quantiser's temperature at a step, counted from 0."""
        falling = 1 - _risen(step, self.temperature_steps)
        return self.least_temperature + (self.temperature - self.least_temperature) * falling

    def _of_autoencoder(self, model: Trainee, x: Tensor, weight: Tensor | None, step: int) -> Loss:
        vqgan, options = model.vqgan, self.adversary
        features = vqgan.features(x)
        with precise(x.device):
            temperature = self.temperature_at(step)
            quantised = vqgan.train_quantise(features.float(), temperature=temperature)
            weighed = quantised.loss
            if vqgan.config.quantiser == "gumbel":
                weighed = weighed * _risen(step, self.divergence_steps)
            apart = from_white(features.float()) if self.decorrelation else features.new_zeros(())
        model.tending.note(quantised.ids, features)
        back = vqgan.decode(quantised.features, vqgan.grid(x))
        terms = generator_terms(
            x,
            back.float(),
            weighed,
            options=options,
            step=step,
            discriminator=lambda pictures: model.discriminator(pictures).float(),
            last_layer=vqgan.last_layer,
            perceptual=self._perceptual(x.device),
            pixel_weight=weight,
        )
        figures: dict[str, Tensor | float] = {
            "reconstruction": terms.reconstruction,
            "perceptual_distance": terms.perceptual,
            "quantisation": terms.quantisation,
        }
        if vqgan.config.quantiser == "gumbel":
            figures["temperature"] = temperature
        if terms.factor:
            figures["balance"] = terms.balance
        if self.decorrelation:
            figures["correlation"] = apart.detach()
        total = terms.total + self.decorrelation * apart
        return Loss(total, figures, _Kept(back.detach(), features.detach()))

    def _of_discriminator(self, model: Trainee, x: Tensor, moment: Moment) -> Loss:
        kept: _Kept = moment.kept
        # Here, since between the autoencoder's two passes its codes must not move.
        model.tending.settle(model.vqgan.codebook.weight, kept.features)
        figures: dict[str, Tensor | float] = dict(model.tending.figures())
        found = self.of_discriminator(model.discriminator, x, kept.back, moment.step)
        return found._replace(figures={**figures, **found.figures})

    def _perceptual(self, device: torch.device) -> nn.Module | None:
        # Apart from the model, whose checkpoints it would only make larger.
        return perceptual_distance(self.perceptual).to(device) if self.perceptual_weight else None


def reconstructed(
    vqgan: VqGan, pictures: UInt8[Tensor, "b 3 y x"]
) -> tuple[Float[Tensor, "b 3 y x"], Int[Tensor, "b n"]]:
    """Pictures in [0, 1] after their codes, and these."""
    found, ids = [], []
    for part in pictures.split(_AT_ONCE):
        x = vqgan.normalise(part.to(vqgan.last_layer.device).float() / 255)
        chosen, codes = vqgan.quantise(vqgan.features(x))
        ids.append(chosen)
        found.append(vqgan.denormalise(vqgan.decode(codes, vqgan.grid(x))).clamp(0, 1))
    return torch.cat(found), torch.cat(ids)


def _risen(step: int, steps: int) -> float:
    """From 0 to 1 over some steps, by half a cosine."""
    share = min(1.0, step / steps) if steps else 1.0
    return (1 - math.cos(math.pi * share)) / 2


def card(name: str, begun: str, recipe: Autoencoding, figures: dict[str, float]) -> str:
    """Markdown of a trained VQGAN."""
    title = f"A VQGAN trained by the recipe `{name}` of Lascaux"
    said = f"From {begun}, {recipe.steps} steps of {recipe.batch_size} pictures."
    return card_of("vqgan", title, said, figures)
