"""A tokeniser so small that its ids can be told by looking: one for each square's mean."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lascaux.images.preprocess import Preprocessing


class MeanTokens(nn.Module):
    """Grey values of squares, in steps of 1 / codes."""

    def __init__(self, codes: int, *, size: int = 16, factor: int | None = 8) -> None:
        super().__init__()
        how = Preprocessing(size=size, resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
        self.config = SimpleNamespace(preprocessing=how)
        self.codes, self.factor = codes, factor
        self.scale = nn.Parameter(torch.tensor([0.5]))

    def decode_ids(self, ids: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Grey squares; for a tokeniser without a grid they cannot be laid out."""
        assert grid is not None
        grey = (ids / (self.codes - 1) - 0.5) / self.scale
        places = grey.reshape(-1, 1, *grid).repeat_interleave(self.factor or 8, 2)
        return places.repeat_interleave(self.factor or 8, 3).expand(-1, 3, -1, -1)

    def encode(self, x: Tensor) -> Tensor:
        """Ids, row by row."""
        assert not self.training
        assert x.amin() >= -1
        assert x.amax() <= 1
        means = F.avg_pool2d(x.mean(1, keepdim=True), self.factor or 8)
        return ((means * self.scale + 0.5) * (self.codes - 1)).round().long().flatten(1)
