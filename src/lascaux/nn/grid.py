"""Grids of codes: what a picture's sides give, and what ids and features must fit."""

import torch
from einops import rearrange
from jaxtyping import Float, Num
from torch import Tensor

from lascaux.errors import BadInput

Grid = tuple[int, int]  # rows and columns of codes


def grid_of(x: Num[Tensor, "b c y x"], factor: int, channels: int) -> Grid:
    """Rows and columns of codes of pictures that one code stands for `factor` x `factor` pixels of.

    Raises:
        BadInput: other channels, or a side that is not a multiple of the factor.
    """
    _, given, height, width = x.shape
    if given != channels:
        raise BadInput(f"pictures of {given} channels; this model takes {channels}")
    if not height or not width or height % factor or width % factor:
        near = " x ".join(str(max(1, round(side / factor)) * factor) for side in (height, width))
        raise BadInput(
            f"pictures of {height} x {width} pixels; both sides must be multiples of {factor}: "
            f"resize, crop or pad them to {near} first"
        )
    return height // factor, width // factor


def as_map(f: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b d y x"]:
    """Tokens in reading order, laid out on their grid.

    Raises:
        BadInput: there are not as many tokens as the grid has places.
    """
    require_count(f.shape[1], grid)
    return rearrange(f, "b (y x) d -> b d y x", y=grid[0], x=grid[1])


def as_tokens(x: Float[Tensor, "b d y x"]) -> Float[Tensor, "b n d"]:
    """The places of a map in reading order."""
    return rearrange(x, "b d y x -> b (y x) d")


def require_count(tokens: int, grid: Grid) -> None:
    """Check that a grid has as many places as there are tokens.

    Raises:
        BadInput: it has not, or a side of it is not positive.
    """
    rows, columns = grid
    if rows < 1 or columns < 1 or rows * columns != tokens:
        raise BadInput(
            f"{tokens} tokens for a grid of {rows} x {columns}, which has {rows * columns} places: "
            "give the grid (rows, columns) that they came from"
        )


def require_ids(ids: Tensor, codes: int) -> None:
    """Check that ids are of a codebook of so many codes.

    Raises:
        BadInput: one is not, or they are no whole numbers.
    """
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise BadInput(f"ids of dtype {ids.dtype}; whole numbers are expected")
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= codes):
        raise BadInput(
            f"ids from {int(ids.min())} to {int(ids.max())}; this model has codes 0 to "
            f"{codes - 1}: they come from another model, or text ids are among them"
        )
