"""Settings and turn of a patch discriminator, for autoencoders of any kind."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.patch_discriminator import PatchDiscriminator, PatchDiscriminatorConfig
from lascaux.train.adversarial import AdversarialOptions, discriminator_terms
from lascaux.train.mixin import Beside
from lascaux.train.optimisers import Group
from lascaux.train.recipe import Loss, require_least, setting


@dataclass(frozen=True, kw_only=True)
class AgainstDiscriminator(Beside):
    """Settings of runs that may have a discriminator."""

    adversarial: Literal["hinge", "vanilla"] = setting("hinge", "form of the discriminator's loss")
    adversarial_weight: float = setting(0.8, "of fooling the discriminator; 0: there is none")
    discriminator_start: int = setting(10_000, "step from which it takes part")
    discriminator_rate: float = setting(1.0, "its learning rate, as a share of the other")
    discriminator_width: int = setting(64, "its channels after the first convolution")
    discriminator_layers: int = setting(3, "its normalised convolutions")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(
            self,
            adversarial_weight=0,
            discriminator_start=0,
            discriminator_rate=0,
            discriminator_width=1,
            discriminator_layers=1,
        )

    @property
    def adversary(self) -> AdversarialOptions:
        """How the discriminator is weighed, and when it takes part."""
        return AdversarialOptions(
            start=self.discriminator_start,
            kind=self.adversarial,
            adversarial_weight=self.adversarial_weight,
            factor=1.0 if self.adversarial_weight else 0.0,
            early=False,
        )

    def new_discriminator(self, size: int) -> PatchDiscriminator:
        """A discriminator of pictures of so many pixels a side.

        Raises:
            BadInput: nothing of them is left behind its layers.
        """
        width, layers = self.discriminator_width, self.discriminator_layers
        if size // 2**layers - 2 < 1:
            raise BadInput(
                f"--discriminator-layers {layers}: of {size} pixels no patch is left; take fewer, "
                "or larger pictures"
            )
        return PatchDiscriminator(PatchDiscriminatorConfig(width=width, layers=layers))

    def discriminators(self, discriminator: PatchDiscriminator) -> tuple[Group, ...]:
        """The weights of its optimiser."""
        named = list(discriminator.named_parameters(prefix="discriminator"))
        return (Group("discriminator", named, rate=self.discriminator_rate),)

    def of_discriminator(
        self, discriminator: PatchDiscriminator, x: Tensor, back: Tensor, step: int
    ) -> Loss:
        """What the discriminator is to descend, in its turn.

        Args:
            discriminator: gives logits.
            x: pictures.
            back: what became of them.
            step: of the run, counted from 0.
        """
        if not self.adversary.factor_at(step):
            # A gradient of zeros, which moves nothing: a step needs one.
            nothing = sum(weight.sum() for weight in discriminator.parameters()) * 0.0
            assert isinstance(nothing, Tensor)
            return Loss(nothing, {})
        terms = discriminator_terms(
            x,
            back,
            options=self.adversary,
            step=step,
            discriminator=lambda pictures: discriminator(pictures).float(),
        )
        figures: dict[str, Tensor | float] = {
            "discriminator_loss": terms.total.detach(),
            "real_score": terms.real,
            "fake_score": terms.fake,
        }
        return Loss(terms.total, figures)
