"""Frozen tokenisers, as those see them who learn to write their codes."""

from functools import lru_cache
from typing import cast

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor, nn

from lascaux.images.preprocess import Preprocessing, to_square
from lascaux.nn.grid import Grid
from lascaux.tasks.answerers import Answerer, token_ids
from lascaux.tasks.tokenisers import ImageTokeniser, image_tokeniser


@lru_cache(maxsize=2)
def tokeniser_of(name: str) -> ImageTokeniser:
    """The tokeniser of a name, which is not trained."""
    found = image_tokeniser(name)
    found.model.requires_grad_(False)
    return found


@lru_cache(maxsize=2)
def reader_of(name: str) -> Answerer:
    """The same tokeniser as one who answers pictures with the ids of their codes."""
    return token_ids(cast(nn.Module, tokeniser_of(name).model), name)


def grid_of(tokeniser: ImageTokeniser) -> Grid | None:
    """Rows and columns of the codes of a picture of the tokeniser's own size."""
    size = tokeniser.preprocessing.size
    return tokeniser.grid(size, size)


def code_count(tokeniser: ImageTokeniser) -> int:
    """Codes of a picture of the tokeniser's own size."""
    grid = grid_of(tokeniser)
    if grid is not None:
        return grid[0] * grid[1]
    assert tokeniser.length is not None
    return tokeniser.length


def square(image: Image.Image, how: Preprocessing) -> UInt8[Tensor, "1 3 y x"]:
    """A picture as a model takes it."""
    pixels = torch.from_numpy(np.asarray(to_square(image, how)).copy())
    return rearrange(pixels, "y x c -> 1 c y x")


def estranged(ids: Int[Tensor, "b n"], largest: float) -> Int[Tensor, "b n"]:
    """Codes to be read, some of them those of the next picture at their place.

    What is written later comes after codes that may be wrong. Who has only read right ones takes
    their word for what the picture shows, and not the condition's.

    Args:
        ids: codes of pictures, or the first of them.
        largest: share of strange codes, 0 to 1; it is drawn up to this for each picture.
    """
    if not largest:
        return ids
    # The CPU's generator, which checkpoints keep.
    share = largest * torch.rand(len(ids), 1)
    chosen = (torch.rand(ids.shape) < share).to(ids.device)
    return torch.where(chosen, ids.roll(1, dims=0), ids)


def pages_of(tokeniser: ImageTokeniser, *codes: Int[Tensor, "b n"]) -> list[Image.Image]:
    """Pictures of the first codes, each with those of the others to its right."""
    grid = grid_of(tokeniser)
    pages = torch.cat([tokeniser.decode(ids.cpu(), grid) for ids in codes], dim=3)
    pages = (pages * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(page) for page in pages]
