"""What all recipes of taming transformers share: the loss, and how it is measured and shown.

Esser, Rombach, Ommer 2020, arXiv:2012.09841, after taming-transformers: cross entropy of the codes
of pictures, each after all before it and after a condition, which is not predicted. Of the codes
that are read some may be others at random (`codes_kept`). Batches have "tokens" (`b n`, row by
row) and "condition" (`b m`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.models.taming_transformer import TamingTransformer
from lascaux.models.vqgan import VqGan
from lascaux.nn.grid import Grid
from lascaux.nn.orders import ORDERS
from lascaux.tasks.options import PaintOptions
from lascaux.tasks.paint import Painter
from lascaux.train.cards import card_of
from lascaux.train.codes import tokeniser_of
from lascaux.train.optimisers import Group, Optimiser, within_blocks
from lascaux.train.recipe import Loss, Moment, Recipe, restated, setting
from lascaux.weights.load import build

_AT_ONCE = 64  # pictures of a validation


class Paired(NamedTuple):
    """Codes of pictures, row by row, and what they are written after."""

    tokens: Int[Tensor, "b n"]
    conditions: Int[Tensor, "b m"]


@dataclass(frozen=True, kw_only=True)
class TamingRecipe(Recipe):
    """Settings of all runs that train a taming transformer."""

    best: ClassVar[str | None] = "-validation_loss"

    codes_kept: float = setting(1.0, "share of codes that are read as they are, others by chance")
    dropout: float = setting(0.0, "of embeddings, attention and residuals")
    optimiser: Literal["adamw", "muon"] = setting("adamw", "muon: of the matrices of the blocks")
    learning_rate: float = restated("learning_rate", 5e-4)
    weight_decay: float = restated("weight_decay", 0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.codes_kept <= 1:
            raise BadInput(f"--codes-kept is {self.codes_kept}; expected above 0, and 1 at most")
        if not 0 <= self.dropout < 1:
            raise BadInput(f"--dropout is {self.dropout}; expected from 0, and below 1")

    @property
    def trained_with(self) -> dict[str, float]:
        """What of a transformer's config matters in training alone."""
        kinds = ("embedding_dropout", "residual_dropout", "attention_dropout")
        return {"keep": self.codes_kept, **dict.fromkeys(kinds, self.dropout)}

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """AdamW as published, which decays matrices of layers and no table; or Muon in the blocks.

        Tables are those of tokens and of positions.
        """
        named = list(model.named_parameters())
        groups: list[Group] = []
        if self.optimiser == "muon":
            matrices, *_ = within_blocks(named, self.blocks(model), self.weight_decay)
            groups, taken = [matrices], {id(weight) for _, weight in matrices.parameters}
            named = [each for each in named if id(each[1]) not in taken]
        layers = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
        decayed = [each for each in named if id(each[1]) in layers]
        plain = [each for each in named if id(each[1]) not in layers]
        groups += [Group("decayed", decayed, self.weight_decay), Group("plain", plain)]
        return {"model": Optimiser(self.optimiser, groups, (0.9, 0.95))}

    def loss(self, model: nn.Module, batch: Any, moment: Moment) -> Loss:
        """Cross entropy of the codes, in the order that the model writes them in."""
        assert isinstance(model, TamingTransformer)
        return Loss(model.loss(batch["condition"], model.ordered(batch["tokens"])))

    def measured(self, model: TamingTransformer, aside: Paired) -> dict[str, float]:
        """The loss on what is kept aside, in nats a code."""
        device = model.order.device
        losses = [
            model.loss(conditions.to(device), model.ordered(tokens.to(device))) * len(tokens)
            for tokens, conditions in zip(*(each.split(_AT_ONCE) for each in aside), strict=True)
        ]
        return {"validation_loss": torch.stack(losses).sum().item() / len(aside.tokens)}


def vqgan_of(name: str) -> VqGan:
    """The tokeniser of a name, which is not trained.

    Raises:
        BadInput: it is no VQGAN.
    """
    found = tokeniser_of(name).model
    if not isinstance(found, VqGan):
        raise BadInput(f"--tokeniser {name} is a {type(found).__name__}; expected a VQGAN")
    return found.eval()


def whole(
    model: TamingTransformer, first_stage: VqGan, condition_stage: nn.Module | None = None
) -> TamingTransformer:
    """A trained transformer, itself and no copy, between its stages.

    Args:
        model: that was trained without a first stage.
        first_stage: whose codes it writes.
        condition_stage: unless it has its own.
    """
    stages = {
        "first_stage": first_stage.to(model.order.device),
        "condition_stage": condition_stage or model.condition_stage,
    }
    made = build(lambda: TamingTransformer(model.config, **stages))
    made.transformer = model.transformer
    return made.to(model.order.device).eval()


def painted(painter: Painter, seed: int, **wish: Any) -> Image.Image:
    """One picture; the wish as of `Painter.paint`."""
    (picture,) = painter.paint(**wish, seeds=[seed])
    return picture.image


def painter_of(model: TamingTransformer) -> Painter:
    """A painter with a model as it stands."""
    return Painter(model, PaintOptions(model="", label_shift=0))


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height in a row."""
    row = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height))
    across = 0
    for each in pictures:
        row.paste(each, (across, 0))
        across += each.width
    return row


def in_order(order: str, grid: Grid) -> dict[str, Any]:
    """Fields of a config whose codes are written in an order.

    Raises:
        BadInput: there is no such order.
    """
    if order not in ORDERS:
        raise BadInput(f"--order {order}: expected one of {', '.join(ORDERS)}")
    return {"order": order, "order_grid": None if order == "identity" else grid}


def card(name: str, recipe: TamingRecipe, figures: dict[str, float]) -> str:
    """Markdown of a trained model."""
    title = f"A taming transformer trained by the recipe `{name}` of Lascaux"
    said = f"{recipe.steps} steps of {recipe.batch_size} pictures."
    return card_of("taming_transformer", title, said, figures)
