"""The shapes of a map's patches, learnt from maps before anything else is."""

import torch
from jaxtyping import Int
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.models.label_patches import LabelPatches, LabelPatchesConfig
from lascaux.nn.kmeans import one_round, starting_centres

_ROUNDS = 4  # after which shapes hardly move


def learnt_patches(
    numbers: Int[Tensor, "b y x"],
    *,
    labels: int,
    grounds: int = 0,
    factor: int,
    shapes: int,
    seed: int = 0,
) -> LabelPatches:
    """Label patches whose shapes are those of some maps, by k-means.

    Args:
        numbers: maps, whose pixels are the numbers of classes.
        labels: how many classes there are.
        grounds: how many of them, from the first, others stand before.
        factor: pixels of a patch, along one side.
        shapes: how many at most; fewer where the maps have not as many patches with an outline.
        seed: of where k-means begins.

    Raises:
        BadInput: the maps' sides are no multiples of the factor, there is no such class, or no
            patch has an outline.
    """
    sizes = {"labels": labels, "grounds": grounds, "factor": factor}
    found = LabelPatches(LabelPatchesConfig(**sizes, shapes=1)).shapes_in(numbers).float()
    if not len(found):
        raise BadInput(
            f"{len(numbers)} maps in which every patch of {factor} pixels is of one class alone: "
            "there are no outlines to learn"
        )
    stage = LabelPatches(LabelPatchesConfig(**sizes, shapes=min(shapes, len(found))))
    chance = torch.Generator().manual_seed(seed)
    centres = starting_centres(found, stage.config.shapes, generator=chance)
    for _ in range(_ROUNDS):
        centres = one_round(found, centres, generator=chance).centres
    stage.shapes.copy_(centres > 0.5)
    return stage.eval()
