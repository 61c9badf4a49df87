"""What all recipes of DALL-E share: the model, its loss, and how it is measured and shown.

Ramesh et al. 2021, arXiv:2102.12092, as DALLE-pytorch has it: a caption's tokens and a picture's
codes are one sequence, in which each is learnt from those before it. Batches have "text" (`b t`,
ids of a caption tokeniser, filled with 0) and "tokens" (`b n`, whole pictures).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.generate.sampling import Sampling
from lascaux.generate.tokens import begin, write
from lascaux.models.dalle import Dalle
from lascaux.tasks.tokenisers import ImageTokeniser
from lascaux.train.cards import card_of
from lascaux.train.codes import estranged, grid_of, pages_of, tokeniser_of
from lascaux.train.optimisers import Optimiser, decayed_and_plain, within_blocks
from lascaux.train.recipe import Loss, Moment, Recipe, Sample, restated, setting

_SHOWN = 8  # pictures of a sheet of samples
_AT_ONCE = 64  # pictures of a validation
_THRESHOLD = 0.9  # of samples, as published: nine tenths of all classes are left out


class Told(NamedTuple):
    """Captions and pictures that belong together."""

    text: Int[Tensor, "b t"]
    tokens: Int[Tensor, "b n"]
    captions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DalleRecipe(Recipe):
    """Settings of all runs that train a DALL-E."""

    best: ClassVar[str | None] = "-validation_image_loss"

    image_weight: float = setting(7.0, "of the picture in the loss, where the caption has 1")
    null_condition: float = setting(
        0.1, "chance that a caption is left away, so that pictures can be guided"
    )
    strange_codes: float = setting(
        0.0, "largest share of the codes read that are another picture's, so that captions count"
    )
    optimiser: Literal["adamw", "muon"] = setting("adamw", "muon: of the matrices of the blocks")
    learning_rate: float = restated("learning_rate", 5e-4)
    weight_decay: float = restated("weight_decay", 0.045)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.image_weight < float("inf"):
            raise BadInput(f"--image-weight is {self.image_weight}; it must be at least 0")
        for name in ("null_condition", "strange_codes"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise BadInput(f"--{flag} is {getattr(self, name)}; expected 0 to 1")

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """AdamW with the paper's betas and decay; or Muon within the blocks."""
        assert isinstance(model, Dalle)
        named = list(model.named_parameters())
        if self.optimiser == "muon":
            functions = (*model.attentions, *model.mlps)
            groups = within_blocks(named, functions, self.weight_decay)
        else:
            groups = decayed_and_plain(named, self.weight_decay)
        return {"model": Optimiser(self.optimiser, groups, (0.9, 0.96))}

    def blocks(self, model: nn.Module) -> list[nn.Module]:
        """The MLPs: of the rest, the model calls parts alone.

        None where it is reversible, since it then asks for their weights by itself.
        """
        assert isinstance(model, Dalle)
        return [] if model.config.reversible else list(model.mlps)

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """Cross entropy of caption and picture, of some pictures without their caption."""
        assert isinstance(model, Dalle)
        text = batch["text"]
        null = None
        if self.null_condition:
            # The CPU's generator, which checkpoints keep.
            null = (torch.rand(len(text)) < self.null_condition).to(text.device)
        tokens = batch["tokens"]
        read = estranged(tokens, self.strange_codes)
        total, of_text, of_image = model.loss(text, tokens, read=read, null=null)
        return Loss(total, {"text_loss": of_text.detach(), "image_loss": of_image.detach()})

    def measured(self, model: Dalle, aside: Told) -> dict[str, float]:
        """The losses of pairs kept aside, in nats a token; no caption is left away."""
        found = [
            torch.stack(model.loss(text.to(model.device), tokens.to(model.device))) * len(text)
            for text, tokens in zip(
                aside.text.split(_AT_ONCE), aside.tokens.split(_AT_ONCE), strict=True
            )
        ]
        means = torch.stack(found).sum(0) / len(aside.text)
        names = ("validation_loss", "validation_text_loss", "validation_image_loss")
        return dict(zip(names, means.tolist(), strict=True))

    def drawn(self, model: Dalle, aside: Told) -> list[Sample]:
        """Pictures kept aside after their codes, each beside one painted from its caption."""
        tokeniser = tokeniser_of(model.config.tokeniser or "")
        text, tokens = aside.text[:_SHOWN], aside.tokens[:_SHOWN]
        beginning = begin(model, model.prefix(text.to(model.device)))
        sampling = Sampling(top_k=model.config.top_k(_THRESHOLD))
        seeds = range(len(text))
        *_, last = write(model, beginning, tokens.shape[1], sampling=sampling, seeds=seeds)
        pages = pages_of(tokeniser, tokens, last.ids)
        return [
            Sample(page, caption)
            for page, caption in zip(pages, aside.captions[:_SHOWN], strict=True)
        ]


def side_of(tokeniser: ImageTokeniser) -> int:
    """Codes along each side of a picture of the tokeniser's own size.

    Raises:
        BadInput: its codes lie in no square.
    """
    grid = grid_of(tokeniser)
    if grid is None or grid[0] != grid[1]:
        told = "tokens without places" if grid is None else f"{grid[0]} x {grid[1]} codes"
        raise BadInput(
            f"--tokeniser {tokeniser.shown} has {told}; a DALL-E lays them in a square: take a "
            "VQGAN or a dVAE"
        )
    return grid[0]


def card(name: str, recipe: DalleRecipe, figures: dict[str, float]) -> str:
    """Markdown of a trained model."""
    title = f"A DALL-E trained by the recipe `{name}` of Lascaux"
    said = (
        f"{recipe.steps} steps of {recipe.batch_size} pictures with their captions. Losses are in "
        "nats a token."
    )
    return card_of("dalle", title, said, figures, more="pipeline_tag: text-to-image\n")
