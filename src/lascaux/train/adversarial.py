"""Losses of an autoencoder that is trained against a discriminator, as VQGAN is.

Esser, Rombach, Ommer 2020, arXiv:2012.09841, section 3.1; what taming-transformers computes, of
which the paper leaves some out (the start, the weight's limits, absolute differences).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput

_LARGEST_WEIGHT = 1e4
Discriminator = Callable[..., Tensor]  # pictures, and a condition -> logits of being real
Distance = Callable[[Tensor, Tensor], Tensor]  # two batches of pictures -> one number a pair


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions:
    """How the terms of the losses are weighed."""

    start: int = 0  # step from which the discriminator takes part
    kind: Literal["hinge", "vanilla"] = "hinge"
    perceptual_weight: float = 1.0
    codebook_weight: float = 1.0
    adversarial_weight: float = 1.0  # of the generator's term, after it is balanced by gradients
    factor: float = 1.0  # of all terms with the discriminator
    # False: before the start nothing is computed that then counts nothing; steps take less time.
    early: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("hinge", "vanilla"):
            raise BadInput(f"kind {self.kind!r} is neither 'hinge' nor 'vanilla'")

    def factor_at(self, step: int) -> float:
        """How much the discriminator counts at a step, counted from 0."""
        return self.factor if step >= self.start else 0.0


@dataclass(frozen=True)
class GeneratorTerms:
    """The autoencoder's loss and what it is made of; all are scalars, of means over the batch.

    Attributes:
        total: to be minimised.
        reconstruction: absolute and perceptual differences.
        perceptual: of these, the perceptual ones, before their weight.
        quantisation: as it was given.
        adversarial: minus the discriminator's mean logit of what was reconstructed.
        balance: weight by which the adversarial term's gradient is as large as the other's.
        factor: how much the discriminator counts at this step.
    """

    total: Tensor
    reconstruction: Tensor
    perceptual: Tensor
    quantisation: Tensor
    adversarial: Tensor
    balance: Tensor
    factor: float


@dataclass(frozen=True)
class DiscriminatorTerms:
    """The discriminator's loss, to be minimised, and its mean logits."""

    total: Tensor
    real: Tensor
    fake: Tensor


def hinge(real: Float[Tensor, "*b"], fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """A discriminator's hinge loss: logits beyond 1 and -1 are good enough."""
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def vanilla(real: Float[Tensor, "*b"], fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """A discriminator's cross entropy (Goodfellow et al. 2014, arXiv:1406.2661), halved."""
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def fooling(fake: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """A generator's loss: what it made should have high logits."""
    return -fake.mean()


def balance(
    loss: Float[Tensor, ""], adversarial: Float[Tensor, ""], last_layer: Tensor
) -> Float[Tensor, ""]:
    """The ratio of two losses' gradients in the last layer, 0 to 10,000, without one of its own."""
    own = torch.autograd.grad(loss, last_layer, retain_graph=True)[0]
    other = torch.autograd.grad(adversarial, last_layer, retain_graph=True)[0]
    return (own.norm() / (other.norm() + 1e-4)).clamp(0.0, _LARGEST_WEIGHT).detach()


def generator_terms(
    x: Float[Tensor, "b c y x"],
    back: Float[Tensor, "b c y x"],
    quantisation: Float[Tensor, ""],
    *,
    options: AdversarialOptions,
    step: int,
    discriminator: Discriminator,
    last_layer: nn.Parameter | Tensor,
    perceptual: Distance | None = None,
    condition: Float[Tensor, "b c2 y x"] | None = None,
    pixel_weight: Float[Tensor, "b 1 y x"] | None = None,
) -> GeneratorTerms:
    """The autoencoder's loss for pictures and what became of them.

    Args:
        x: pictures in [-1, 1].
        back: their reconstructions, with gradients; without any the adversarial term is left out
            of the total, as in validation.
        quantisation: loss of the codes.
        options: the weights.
        step: steps of the autoencoder so far.
        discriminator: gives logits.
        last_layer: the weights by whose gradients the adversarial term is balanced.
        perceptual: LPIPS; None is needed where its weight is 0.
        condition: what the discriminator sees beside the picture.
        pixel_weight: what the absolute difference of each pixel counts, 1 in the mean.
    """
    difference = (x - back).abs()
    apart = (difference if pixel_weight is None else difference * pixel_weight).mean()
    seen = apart.new_zeros(())
    if options.perceptual_weight > 0:
        if perceptual is None:
            raise BadInput("a perceptual_weight above 0 needs a perceptual distance (LPIPS)")
        seen = perceptual(x, back).mean()
    reconstruction = apart + options.perceptual_weight * seen
    factor = options.factor_at(step)
    adversarial, weight = apart.new_zeros(()), apart.new_zeros(())
    if factor or options.early:
        adversarial = fooling(_logits(discriminator, back, condition))
        if back.requires_grad:
            weight = balance(reconstruction, adversarial, last_layer) * options.adversarial_weight
    quantisation = quantisation.mean()
    total = reconstruction + options.codebook_weight * quantisation + weight * factor * adversarial
    return GeneratorTerms(
        total=total,
        reconstruction=reconstruction.detach(),
        perceptual=seen.detach(),
        quantisation=quantisation.detach(),
        adversarial=adversarial.detach(),
        balance=weight,
        factor=factor,
    )


def discriminator_terms(
    x: Float[Tensor, "b c y x"],
    back: Float[Tensor, "b c y x"],
    *,
    options: AdversarialOptions,
    step: int,
    discriminator: Discriminator,
    condition: Float[Tensor, "b c2 y x"] | None = None,
) -> DiscriminatorTerms:
    """The discriminator's loss; arguments as `generator_terms` takes them.

    Real and reconstructed pictures pass one after the other, so that a batch norm sees them apart.
    """
    real = _logits(discriminator, x.detach(), condition)
    fake = _logits(discriminator, back.detach(), condition)
    loss = hinge(real, fake) if options.kind == "hinge" else vanilla(real, fake)
    return DiscriminatorTerms(
        total=options.factor_at(step) * loss,
        real=real.mean().detach(),
        fake=fake.mean().detach(),
    )


def _logits(discriminator: Discriminator, x: Tensor, condition: Tensor | None) -> Tensor:
    return discriminator(x) if condition is None else discriminator(x, condition)


def map_terms(
    logits: Float[Tensor, "b l y x"],
    target: Float[Tensor, "b l y x"],
    quantisation: Float[Tensor, ""],
    *,
    codebook_weight: float = 1.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The loss of a VQGAN of maps of classes, and of it the binary cross entropy.

    Args:
        logits: reconstructed map, one channel a class.
        target: ones and zeros.
        quantisation: loss of the codes.
        codebook_weight: of that.
    """
    crossed = F.binary_cross_entropy_with_logits(logits, target)
    return crossed + codebook_weight * quantisation.mean(), crossed
