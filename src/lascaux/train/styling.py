"""What all recipes of Styled VAE-VQ share: settings, the loss, and how it is measured.

Stage one learns encoder and decoder without codes, with noise on the latents that makes the decoder
tolerant; a codebook by k-means comes afterwards (`lascaux codebook`). Of a model that has its
codebook the decoder is trained on, behind its codes. Codes can also be learnt at once: as averages
of what chooses them, or by finite scalar quantisation, which has no codebook. In place of pixels
the decoder can be taught the codes of a VQGAN, which then draws.

Pixels and perceptual differences make the loss, as in the author's code (`modelv2.py` has squared
differences and LPIPS, both of weight 1). A discriminator can be added, as VQGANs have it: squared
differences alone make the mean of all that a picture might be.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.models.patch_discriminator import PatchDiscriminator
from lascaux.models.styled_vq import Decoder, Encoder, StyledVq, StyledVqConfig
from lascaux.nn.quantise import rotated_through, straight_through
from lascaux.nn.retoucher import Retoucher
from lascaux.tasks.tokenisers import image_tokeniser
from lascaux.train.adversarial import balance, fooling
from lascaux.train.against import AgainstDiscriminator
from lascaux.train.begun import named
from lascaux.train.cards import card_of
from lascaux.train.codebook import Tending
from lascaux.train.optimisers import Optimiser, decayed_and_plain, within_blocks
from lascaux.train.perceptual import perceptual_distance
from lascaux.train.recipe import Loss, Moment, Recipe, precise, require_least, restated, setting

_AT_ONCE = 32  # pictures reconstructed together in a validation
_SPAN = 100.0  # longest wave of positions over the shortest
_BETAS_OF_DISCRIMINATOR = (0.5, 0.9)  # as VQGAN's
_MEAN_DECAY = 0.99  # of the mean features in each micro-batch

# 3.8 million parameters, a third of them in the MLPs of the attributes.
SMALL = StyledVqConfig(
    image_size=64,
    patch_size=8,
    attributes=36,
    width=96,
    heads=3,
    mlp_width=192,
    plain_layers=4,
    expert_layers=1,
    latent_width=8,
    codes=0,
    decoder_width=96,
    decoder_heads=3,
    decoder_mlp_width=192,
    decoder_layers=1,
    pixel_width=16,
    pixel_kernel=5,
    pixel_groups=4,
)


class Trainee(nn.Module):
    """A Styled VAE-VQ, what its codebook needs where that is learnt at once, and its adversary."""

    def __init__(
        self, styled: StyledVq, tending: Tending | None, discriminator: PatchDiscriminator | None
    ) -> None:
        super().__init__()
        self.styled, self.tending, self.discriminator = styled, tending, discriminator


@dataclass(frozen=True, kw_only=True)
class Styling(AgainstDiscriminator, Recipe):
    """Settings of all runs that train a Styled VAE-VQ.

    Batches have "picture", uint8 RGB, and may have "weight", what each pixel counts, 1 in the mean.
    """

    best: ClassVar[str | None] = "+validation_psnr"

    noise: float = setting(
        0.1, "on the latents, as a part of their size, so that the decoder bears codes"
    )
    prefixes: float = setting(
        0.0, "share of the pictures that are decoded from their first attributes alone"
    )
    decorrelation: float = setting(
        0.0, "weight of keeping pictures apart in all directions of their latents"
    )
    codebook: Literal["later", "average", "fsq"] = setting(
        "later", "made by `lascaux codebook` afterwards, or codes learnt at once; fsq: without one"
    )
    levels: tuple[int, ...] = setting(
        (7, 5, 5, 5, 5), "of each number that fsq rounds; their product is the number of codes"
    )
    codebook_decay: float = setting(0.99, "of the averages in each step")
    commitment: float = setting(0.25, "weight of the latents' distance to their learnt codes")
    through: Literal["straight", "rotation"] = setting(
        "straight", "how gradients pass learnt codes"
    )
    dead_after: int = setting(100, "steps without use until a learnt code is revived; 0: never")
    predicts: Literal["pixels", "tokens"] = setting(
        "pixels", "what the decoder learns to give: pixels, or a VQGAN's codes, which it draws"
    )
    drawer: str = setting("ochre-vq", "that VQGAN; with a code for every patch")
    pixels: Literal["squared", "absolute"] = setting("squared", "differences of pixels")
    pixel_weight: float = setting(1.0, "of differences of pixels")
    perceptual: str = setting("ochre-clip", "lpips-vgg16, or a CLIP with a ResNet; or a folder")
    perceptual_weight: float = setting(1.0, "of perceptual differences; 0: none")
    adversarial_weight: float = restated("adversarial_weight", 0.0, AgainstDiscriminator)
    discriminator_start: int = restated("discriminator_start", 0, AgainstDiscriminator)
    optimiser: Literal["adamw", "muon"] = setting("adamw", "muon: of the matrices of the blocks")
    weight_decay: float = restated("weight_decay", 0.2)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(
            self,
            noise=0,
            decorrelation=0,
            commitment=0,
            dead_after=0,
            pixel_weight=0,
            perceptual_weight=0,
        )
        if not 0 <= self.prefixes <= 1:
            raise BadInput(f"--prefixes is {self.prefixes}; expected 0 to 1")
        if not 0 < self.codebook_decay < 1:
            raise BadInput(f"--codebook-decay is {self.codebook_decay}; expected between 0 and 1")

        if self.adversarial_weight and self.predicts == "tokens":
            raise BadInput(
                "--adversarial-weight: a discriminator sees pictures; with --predicts tokens none "
                "are made in training"
            )

    @property
    def turns(self) -> tuple[str, ...]:
        """The model, and the discriminator where there is one."""
        return ("model", "discriminator") if self.adversarial_weight else ("model",)

    def drafted(self, config: StyledVqConfig) -> StyledVq:
        """A model to begin from nothing: of a config's sizes, its codes and ends as set here.

        Raises:
            BadInput: the drawer has no code for every patch.
        """
        if self.codebook == "fsq":
            config = replace(config, levels=self.levels, codes=math.prod(self.levels))
        if self.predicts == "pixels":
            return StyledVq(config)
        drawer = image_tokeniser(self.drawer)
        if drawer.factor != config.patch_size:
            raise BadInput(
                f"--drawer {self.drawer} has {_codes_of(drawer.factor)}; this model needs one for "
                f"{config.patch_size} x {config.patch_size}"
            )
        return StyledVq(replace(config, drawn_codes=drawer.codes), drawer.model)

    def trainee(self, styled: StyledVq, *, fresh: bool) -> Trainee:
        """A model with what it is trained with; the encoder of one that has its codes is frozen.

        Args:
            styled: to train.
            fresh: nothing of it is learnt yet.

        Raises:
            BadInput: it has no codes although they are to be learnt, or has them already.
        """
        learnt = self.codebook != "later"
        if learnt and fresh and not styled.codes:
            raise BadInput("--codebook average needs --codes")
        if learnt and not fresh:
            raise BadInput(f"--codebook {self.codebook} begins from nothing: leave --model out")
        tending = None
        if self.codebook == "average":
            nn.init.normal_(styled.codebook)
            tending = Tending(
                styled.codebook,
                average=True,
                decay=self.codebook_decay,
                dead_after=self.dead_after,
            )
        elif styled.codes and not learnt:
            # Codes are places of the encoder's latents, so these must stay where they are.
            styled.encoder.requires_grad_(False)
        if fresh:
            _place(styled)
        if isinstance(styled.decoder, Retoucher):
            styled.decoder.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for other in (styled.drawer, styled.reader):
            if other is not None:
                other.requires_grad_(False)
        discriminator = None
        if self.adversarial_weight:
            discriminator = self.new_discriminator(styled.config.image_size)
            discriminator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return Trainee(styled, tending, discriminator)

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """AdamW, with the betas of the author's code; or Muon within the blocks."""
        assert isinstance(model, Trainee)
        named = list(model.styled.named_parameters(prefix="styled"))
        if self.optimiser == "muon":
            groups = within_blocks(named, self.blocks(model), self.weight_decay)
        else:
            groups = decayed_and_plain(named, self.weight_decay)
        found = {"model": Optimiser(self.optimiser, groups, (0.9, 0.98))}
        if model.discriminator is not None:
            if not _last_of(model.styled.decoder).requires_grad:
                raise BadInput(
                    "--freeze: the discriminator is weighed by gradients of the decoder's last "
                    "convolution, which must be trained; freeze less, or leave "
                    "--adversarial-weight out"
                )
            theirs = self.discriminators(model.discriminator)
            found["discriminator"] = Optimiser("adam", theirs, _BETAS_OF_DISCRIMINATOR)
        return found

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The blocks of encoder and decoder."""
        assert isinstance(model, Trainee)
        encoder, decoder = model.styled.encoder, model.styled.decoder
        read = [*encoder.blocks, *encoder.expert_blocks] if isinstance(encoder, Encoder) else []
        if isinstance(decoder, Retoucher):
            return [*read, *decoder.blocks()]
        return [*read, *decoder.conditioned_blocks, *decoder.blocks]

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """Differences of pixels and of what is perceived, and of latents to learnt codes."""
        assert isinstance(model, Trainee)
        styled = model.styled
        x = styled.normalise(batch["picture"].float() / 255)
        figures: dict[str, Tensor | float] = {}
        if moment.turn == "discriminator":
            assert model.discriminator is not None
            return self.of_discriminator(model.discriminator, x, moment.kept, moment.step)
        features, more = self._features(model, x, figures)
        if self.prefixes:
            features = self._shortened(styled, features)
        if styled.config.drawn_codes:
            named = _named_wrongly(styled, features, x, batch.get("weight"), figures)
            return Loss(named + more, figures)
        back = styled.decode(features).float()
        difference = back - x
        each = difference.square() if self.pixels == "squared" else difference.abs()
        if "weight" in batch:
            each = each * batch["weight"]
        pixels = each.mean()
        total = self.pixel_weight * pixels + more
        figures["pixel_difference"] = pixels.detach()
        if self.perceptual_weight:
            # Apart from the model, whose checkpoints it would only make larger.
            seen = perceptual_distance(self.perceptual).to(x.device)(x, back).mean()
            total = total + self.perceptual_weight * seen
            figures["perceptual_distance"] = seen.detach()
        if model.discriminator is not None and self.adversary.factor_at(moment.step):
            total = total + self._fooling(model, total, back, figures)
        return Loss(total, figures, back.detach())

    def _fooling(
        self, model: Trainee, loss: Tensor, back: Tensor, figures: dict[str, Tensor | float]
    ) -> Tensor:
        """The adversarial term, weighed by gradients in the decoder's last convolution."""
        assert model.discriminator is not None
        adversarial = fooling(model.discriminator(back).float())
        if not back.requires_grad:
            return adversarial.new_zeros(())
        figures["balance"] = weight = balance(loss, adversarial, _last_of(model.styled.decoder))
        return self.adversarial_weight * weight * adversarial

    def _features(
        self, model: Trainee, x: Tensor, figures: dict[str, Tensor | float]
    ) -> tuple[Tensor, Tensor]:
        """What is decoded, and what the loss has of the latents themselves."""
        styled, nothing = model.styled, x.new_zeros(())
        if self.codebook == "fsq":
            return styled.quantise(styled.features(x))[1], nothing
        if model.tending is None and not styled.codes:
            return self._noisy(styled, x, figures)
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
        return decoded, self.commitment * apart

    def _noisy(
        self, styled: StyledVq, x: Tensor, figures: dict[str, Tensor | float]
    ) -> tuple[Tensor, Tensor]:
        """Latents with noise, and nothing or how alike those of different pictures are."""
        if not self.decorrelation:
            return styled.features(x, noise=self.noise), x.new_zeros(())
        features = styled.features(x)
        with precise(x.device):
            alike = likeness(features.float())
        figures["likeness_of_latents"] = alike.detach()
        return styled.with_noise(features, self.noise), self.decorrelation * alike

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


def _named_wrongly(
    styled: StyledVq,
    features: Tensor,
    x: Tensor,
    weight: Tensor | None,
    figures: dict[str, Tensor | float],
) -> Tensor:
    """Cross entropy of the drawer's codes of a picture, as TiTok's first stage has it.

    A code counts as much as its pixels do in the mean.
    """
    drawer: Any = styled.drawer
    with torch.no_grad():
        ids = drawer.encode(drawer.normalise(styled.denormalise(x)))
    logits = styled.named(features).float().flatten(2)
    figures["codes_named"] = (logits.detach().argmax(1) == ids).float().mean()
    wrong = F.cross_entropy(logits, ids, reduction="none")
    if weight is not None:
        wrong = wrong * F.avg_pool2d(weight, styled.config.patch_size).flatten(1)
    return wrong.mean()


def _last_of(decoder: Decoder | Retoucher) -> Tensor:
    last = decoder.last if isinstance(decoder, Retoucher) else decoder.pixels.last
    return last.weight


def _codes_of(factor: int | None) -> str:
    return "tokens without places" if factor is None else f"one code for {factor} x {factor} pixels"


@lru_cache(maxsize=1)
def pretrained(name: str) -> StyledVq:
    """The model of a name, to begin with.

    Raises:
        BadInput: it is something else.
    """
    return named("--model", name, StyledVq, "Styled VAE-VQ")


def likeness(features: Float[Tensor, "b n d"]) -> Float[Tensor, ""]:
    """How alike the latents of different pictures are: mean squared cosine, about the batch's mean.

    It is the smaller the more directions the latents vary in. Those left to themselves vary in
    colours alone for long, since these are what pixels differ most by.
    """
    flat = F.normalize(features, dim=-1).flatten(1)
    unit = F.normalize(flat - flat.mean(0), dim=1)
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (unit @ unit.T)[others].square().mean()


@torch.no_grad()
def _place(styled: StyledVq) -> None:
    """Begin with positions that tell near from far, which drawn ones must first learn.

    Sines and cosines of rows and columns, of the size of those that the author's code draws.
    """
    read = [styled.encoder.positions[1:]] if isinstance(styled.encoder, Encoder) else []
    drawn = [styled.decoder.positions] if isinstance(styled.decoder, Decoder) else []
    for positions in (*read, *drawn):
        count, width = positions.shape
        side, waves = math.isqrt(count), width // 4
        angles = torch.arange(side)[:, None] * _SPAN ** -(torch.arange(waves) / max(1, waves))
        one = torch.cat((angles.sin(), angles.cos()), dim=1)
        both = torch.cat((one.repeat_interleave(side, 0), one.repeat(side, 1)), dim=1)
        positions.zero_()
        positions[:, : both.shape[1]] = both * (2 / width) ** 0.5


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


def share_used(styled: StyledVq, ids: Int[Tensor, "b n"]) -> float:
    """Share of all codes that are among those of pictures; of every attribute's own, if it has."""
    if not styled.own_codes:
        return len(ids.unique()) / styled.codes
    return sum(len(column.unique()) for column in ids.T) / (styled.codes * ids.shape[1])


def card(name: str, begun: str, recipe: Styling, figures: dict[str, float]) -> str:
    """Markdown of a trained model."""
    title = f"A Styled VAE-VQ trained by the recipe `{name}` of Lascaux"
    said = f"From {begun}, {recipe.steps} steps of {recipe.batch_size} pictures."
    return card_of("styled-vq", title, said, figures)
