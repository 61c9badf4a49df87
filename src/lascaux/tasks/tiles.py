"""Large pictures through an image tokeniser in overlapping tiles, and how much the tiles show.

A VQGAN was trained on small pictures, and its attention costs the square of the number of codes:
tiles of the size it knows keep both memory and answers as they were. A code is taken from the tile
in which it is farthest from a border. Pictures are blended in the middle half of an overlap; what
is nearer to a tile's border, where convolutions see zeros instead of the picture, is not used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lascaux.errors import BadInput


@runtime_checkable
class Tokeniser(Protocol):
    """What is asked of a model here."""

    @property
    def factor(self) -> int:
        """Pixels per code, along one side."""
        ...

    def features(self, x: Tensor) -> Tensor:
        """What is quantised, row by row."""
        ...

    def quantise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Ids, and the codes' vectors."""
        ...

    def lookup(self, ids: Tensor) -> Tensor:
        """The vectors of ids."""
        ...

    def decode(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pictures of vectors."""
        ...


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """How a picture is cut."""

    size: int = 256  # pixels of a tile, square
    overlap: int = 64  # pixels that two neighbours share, at least

    def __post_init__(self) -> None:
        if not 0 < self.overlap <= self.size // 2:
            raise BadInput(
                f"overlap {self.overlap} of tiles of {self.size} pixels; expected 1 to "
                f"{self.size // 2}"
            )


@dataclass(frozen=True)
class Seams:
    """Steps between neighbouring pixels, as mean absolute differences in the picture's units.

    Attributes:
        across: in the middle of overlaps, where one tile gives way to the next.
        inside: everywhere else.
    """

    across: float
    inside: float

    @property
    def ratio(self) -> float:
        """How much larger steps are across borders; 1 where tiles do not show."""
        return self.across / self.inside if self.inside else float(self.across > 0) + 1


@torch.no_grad()
def encode_tiled(
    model: Tokeniser, x: Float[Tensor, "b c y x"], options: TileOptions | None = None
) -> tuple[Int[Tensor, "b n"], tuple[int, int]]:
    """The ids of pictures of any size in the model's range, row by row, and their grid.

    Raises:
        BadInput: sides are no multiples of the model's factor, or tiles and overlap are not.
    """
    rows, columns = _grid(model, x)
    size, overlap = _in_codes(model, options or TileOptions())
    ids = torch.zeros(len(x), rows, columns, dtype=torch.int64, device=x.device)
    best = x.new_full((rows, columns), -1)
    for top, left in _places(rows, columns, size, overlap):
        high, wide = min(size, rows), min(size, columns)
        y, z = _pixels(top, high, model.factor), _pixels(left, wide, model.factor)
        # Ids tile by tile: features may be a logit of every code, too much to keep for all.
        tile = model.quantise(model.features(x[..., y, z]))[0].view(len(x), high, wide)
        down, along = _distances(top, left, (high, wide), (rows, columns))
        weight = torch.minimum(down[:, None], along).to(best)
        here = (slice(top, top + high), slice(left, left + wide))
        better = weight > best[here]
        best[here] = torch.where(better, weight, best[here])
        ids[:, here[0], here[1]] = torch.where(better, tile, ids[:, here[0], here[1]])
    return ids.flatten(1), (rows, columns)


@torch.no_grad()
def decode_tiled(
    model: Tokeniser,
    ids: Int[Tensor, "b n"],
    grid: tuple[int, int],
    options: TileOptions | None = None,
) -> Float[Tensor, "b c y x"]:
    """Pictures in the model's range, not clamped, of a grid of (rows, columns) of any size.

    Raises:
        BadInput: the grid has not as many places as there are ids, or tiles do not fit the factor.
    """
    rows, columns = grid
    if rows * columns != ids.shape[1] or rows < 1:
        raise BadInput(f"{ids.shape[1]} codes; a grid of {rows} x {columns} has {rows * columns}")
    size, overlap = _in_codes(model, options or TileOptions())
    table = ids.view(len(ids), rows, columns)
    total = shares = None
    for top, left in _places(rows, columns, size, overlap):
        high, wide = min(size, rows), min(size, columns)
        here = table[:, top : top + high, left : left + wide]
        tile = model.decode(model.lookup(here.flatten(1)), (high, wide))
        if total is None or shares is None:
            whole = (rows * model.factor, columns * model.factor)
            total, shares = tile.new_zeros(*tile.shape[:2], *whole), tile.new_zeros(whole)
        down, along = _distances(top, left, (high, wide), grid, model.factor)
        wide_overlap = overlap * model.factor
        weight = (_share(down, wide_overlap)[:, None] * _share(along, wide_overlap)).to(tile)
        y, z = _pixels(top, high, model.factor), _pixels(left, wide, model.factor)
        total[..., y, z] += tile * weight
        shares[y, z] += weight
    assert total is not None
    assert shares is not None
    return total / shares


def seams(
    picture: Float[Tensor, "b c y x"], factor: int, options: TileOptions | None = None
) -> Seams:
    """How much the tiles of a picture show that was decoded with these options."""
    options = options or TileOptions()
    size, overlap = options.size // factor, options.overlap // factor
    across: list[Tensor] = []
    inside: list[Tensor] = []
    for axis in (-2, -1):
        length = picture.shape[axis] // factor
        starts = _starts(length, size, overlap)
        borders = [(end + size + start) * factor // 2 for end, start in pairwise(starts)]
        steps = picture.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
        at = torch.zeros(len(steps), dtype=torch.bool, device=steps.device)
        at[torch.tensor(borders, dtype=torch.int64, device=steps.device) - 1] = True
        across.append(steps[at])
        inside.append(steps[~at])
    many = torch.cat(across)
    return Seams(
        across=many.mean().item() if len(many) else 0.0,
        inside=torch.cat(inside).mean().item(),
    )


def _pixels(start: int, codes: int, factor: int) -> slice:
    return slice(start * factor, (start + codes) * factor)


def _grid(model: Tokeniser, x: Tensor) -> tuple[int, int]:
    height, width = x.shape[-2:]
    if height % model.factor or width % model.factor or not height or not width:
        raise BadInput(
            f"a picture of {width} x {height} pixels; sides must be multiples of {model.factor}: "
            "pad it, and cut what was added from the answer"
        )
    return height // model.factor, width // model.factor


def _in_codes(model: Tokeniser, options: TileOptions) -> tuple[int, int]:
    if options.size % model.factor or options.overlap % model.factor:
        raise BadInput(
            f"tiles of {options.size} pixels that share {options.overlap}; both must be multiples "
            f"of the model's factor {model.factor}"
        )
    return options.size // model.factor, options.overlap // model.factor


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles begin along one side, evenly spread, each sharing at least the overlap."""
    if length <= size:
        return [0]
    count = -(-(length - overlap) // (size - overlap))
    return [round(place * (length - size) / (count - 1)) for place in range(count)]


def _places(rows: int, columns: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    for top in _starts(rows, size, overlap):
        for left in _starts(columns, size, overlap):
            yield top, left


def _distances(
    top: int, left: int, tile: tuple[int, int], grid: tuple[int, int], factor: int = 1
) -> tuple[Float[Tensor, " y"], Float[Tensor, " x"]]:
    """How far a tile's rows and columns are from its borders; those of the picture are none."""

    def along(start: int, size: int, length: int) -> Tensor:
        places = torch.arange(size * factor) + 0.5
        before = places if start > 0 else torch.full_like(places, torch.inf)
        after = places.flip(0) if start + size < length else torch.full_like(places, torch.inf)
        return torch.minimum(before, after)

    return along(top, tile[0], grid[0]), along(left, tile[1], grid[1])


def _share(distance: Float[Tensor, " n"], overlap: int) -> Float[Tensor, " n"]:
    """How much a place counts: nothing in the outer quarter of an overlap, all in the inner one."""
    return ((distance - overlap / 4) / (overlap / 2)).clamp(0, 1)
