"""Maps of classes as two tokens a patch: which class it shows, and where in the patch.

For painting after maps, in the place of a VQGAN of maps, and with nothing of it to be learnt by
gradients: a patch of a map is one class before another nearly everywhere, and its outline is like
one of some hundred shapes. A transformer reads both as one (`TamingTransformerConfig.pairs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.configs import config_from_json, config_to_json
from lascaux.nn.grid import Grid, grid_of, require_count, require_ids
from lascaux.nn.quantise import nearest


@dataclass(frozen=True, kw_only=True)
class LabelPatchesConfig:
    """What fixes the tokens of a map."""

    labels: int  # classes of a map
    grounds: int = 0  # the first of them, which others stand before
    factor: int = 8  # pixels of a patch, along one side
    shapes: int = 1024  # outlines that are told apart

    def __post_init__(self) -> None:
        if min(self.labels, self.factor, self.shapes) < 1:
            raise BadInput("labels, factor and shapes must be at least one")
        if not 0 <= self.grounds <= self.labels:
            raise BadInput(f"{self.grounds} grounds of {self.labels} labels")

    @property
    def in_channels(self) -> int:
        """Channels of a map: one for each class."""
        return self.labels

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "LabelPatchesConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "label patches")


class LabelPatches(nn.Module):
    """Classes and outlines of the patches of maps, as tokens.

    Of each patch the first token is the class that covers most of it; where there are grounds, the
    class that covers most of what stands before them. The second is the shape that this class has
    in the patch; or a class, where the patch is of one class alone: the ground that covers most of
    the map, so that this is told even where no patch shows it alone. Without grounds, and of a
    patch of ground, it is the same class again.
    """

    shapes: Tensor  # which pixels of a patch are of the class, row by row

    depth = 2  # tokens of a patch

    def __init__(self, config: LabelPatchesConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.shapes, config.factor**2
        self.register_buffer("shapes", torch.zeros(shape, dtype=torch.bool))

    @property
    def codes(self) -> int:
        """How many tokens there are: classes, then shapes."""
        return self.config.labels + self.config.shapes

    @property
    def factor(self) -> int:
        """Pixels of a patch, along one side."""
        return self.config.factor

    def encode(self, x: Float[Tensor, "b l y x"]) -> Int[Tensor, "b n"]:
        """The tokens of maps with a channel for each class, patch by patch in rows.

        Raises:
            BadInput: the maps' sides are no multiples of the factor, or there are other channels.
        """
        grid_of(x, self.factor, self.config.labels)
        return self.encode_numbers(x.argmax(dim=1))

    def encode_numbers(self, numbers: Int[Tensor, "b y x"]) -> Int[Tensor, "b n"]:
        """The same of maps whose pixels are the numbers of classes.

        Raises:
            BadInput: the maps' sides are no multiples of the factor, or there is no such class.
        """
        rows, columns = grid_of(numbers[:, None], self.factor, 1)
        require_ids(numbers, self.config.labels)
        patches = self._patches(numbers)
        first = self._first(patches)
        inside = patches == first[:, None]
        shape = self.config.labels + nearest(inside.float(), self.shapes.float())
        ground = self._ground(numbers).repeat_interleave(rows * columns)
        behind = torch.where((first < self.config.grounds) | (ground < 0), first, ground)
        second = torch.where(inside.all(dim=1), behind, shape)
        return rearrange(torch.stack((first, second), 1), "(b n) k -> b (n k)", b=len(numbers))

    def numbers(self, ids: Int[Tensor, "b n"], grid: Grid) -> Int[Tensor, "b y x"]:
        """The maps that tokens tell of, as numbers of classes.

        What lies around a shape is taken as the class that most second tokens of the map name.

        Raises:
            BadInput: the grid has not half as many places, or there is no such token.
        """
        require_count(ids.shape[1] // self.depth, grid)
        require_ids(ids, self.codes)
        first, second = rearrange(ids, "b (n k) -> k b n", k=self.depth)
        labels = self.config.labels
        named = torch.zeros(len(ids), labels + 1, device=ids.device)
        named.scatter_add_(1, second.clamp(max=labels), torch.ones_like(second).float())
        around = named[:, :labels].argmax(1)
        shape = self.shapes[(second - labels).clamp(min=0)] | (second < labels)[..., None]
        found = torch.where(shape, first[..., None], around[:, None, None])
        y, f = grid[0], self.factor
        return rearrange(found, "b (y x) (f g) -> b (y f) (x g)", y=y, f=f)

    def shapes_in(self, numbers: Int[Tensor, "b y x"]) -> Bool[Tensor, "p n"]:
        """The shapes in all patches of maps that are not of one class alone.

        Raises:
            BadInput: as `encode_numbers`.
        """
        grid_of(numbers[:, None], self.factor, 1)
        require_ids(numbers, self.config.labels)
        patches = self._patches(numbers)
        inside = patches == self._first(patches)[:, None]
        return inside[~inside.all(dim=1)]

    def _patches(self, numbers: Tensor) -> Int[Tensor, "p n"]:
        f = self.factor
        return rearrange(numbers.long(), "b (y f) (x g) -> (b y x) (f g)", f=f, g=f)

    def _first(self, patches: Int[Tensor, "p n"]) -> Int[Tensor, " p"]:
        counts = _counts(patches, self.config.labels)
        # Whatever stands before grounds counts more than any of them.
        before = counts[:, self.config.grounds :]
        before += patches.shape[1] * (before > 0)
        return counts.argmax(dim=1)

    def _ground(self, numbers: Int[Tensor, "b y x"]) -> Int[Tensor, " b"]:
        """The ground that covers most of each map; -1 where there is none."""
        flat = rearrange(numbers.long(), "b y x -> b (y x)")
        if not self.config.grounds:
            return flat.new_full((len(flat),), -1)
        most, ground = _counts(flat, self.config.labels)[:, : self.config.grounds].max(dim=1)
        return torch.where(most > 0, ground, -1)


def _counts(rows: Int[Tensor, "p n"], labels: int) -> Int[Tensor, "p l"]:
    counts = rows.new_zeros(len(rows), labels)
    return counts.scatter_add_(1, rows, torch.ones_like(rows))
