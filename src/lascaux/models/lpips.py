"""LPIPS: how different two pictures look, by the features of a VGG16.

Zhang, Isola, Efros, Shechtman, Wang: "The Unreasonable Effectiveness of Deep Features as a
Perceptual Metric", 2018, arXiv:1801.03924, version 0.1 with VGG16 (Simonyan, Zisserman 2014,
arXiv:1409.1556). For the loss of VQGANs, and as a measure. Weights: torchvision's VGG16 with the
five weightings of LPIPS, or both from inside a VQGAN's checkpoint.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.configs import config_from_json, config_to_json


@dataclass(frozen=True, kw_only=True)
class LpipsConfig:
    """What fixes the numbers LPIPS answers with."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)  # channels of each stage
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)  # convolutions of each stage
    # Unit length of features: x / (|x| + epsilon), or x / max(|x|, epsilon) as clip-gen has it.
    unit: Literal["added", "floor"] = "added"
    epsilon: float = 1e-10
    dropout: float = 0.5  # of features, in train() mode, which official training runs it in

    def __post_init__(self) -> None:
        if self.unit not in ("added", "floor"):
            raise BadInput(f"unit {self.unit!r} is neither 'added' nor 'floor'")
        if len(self.widths) != len(self.depths) or not self.widths:
            raise BadInput(f"{len(self.widths)} widths for {len(self.depths)} depths")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "LpipsConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "LPIPS")


VARIANTS: dict[str, LpipsConfig] = {
    "vgg16": LpipsConfig(),
    # HFAiLab/clip-gen, losses/lpips.py: the same weights, another floor of the unit length.
    "clip-gen": LpipsConfig(unit="floor", epsilon=1e-12),
}


class Lpips(nn.Module):
    """A distance of pictures that agrees with people better than one of pixels."""

    shift: Tensor
    scale: Tensor

    def __init__(self, config: LpipsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LpipsConfig()
        before = (3, *config.widths)
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(before[stage] if first == 0 else width, width, 3, padding=1)
                for first in range(depth)
            )
            for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True))
        )
        self.weights = nn.ParameterList(torch.ones(width) for width in config.widths)
        # From [-1, 1] to ImageNet's mean and deviation, rounded as published.
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(scale).view(3, 1, 1), persistent=False)

    def forward(
        self, x: Float[Tensor, "b 3 y x"], other: Float[Tensor, "b 3 y x"]
    ) -> Float[Tensor, " b"]:
        """The distance of each picture to its counterpart, 0 or more, for RGB in [-1, 1].

        Raises:
            BadInput: the pictures are not of one shape, or not RGB.
        """
        return self.by_stage(x, other).sum(dim=1)

    def by_stage(
        self, x: Float[Tensor, "b 3 y x"], other: Float[Tensor, "b 3 y x"]
    ) -> Float[Tensor, "b n"]:
        """What each stage of the VGG16 adds to the distance.

        Raises:
            BadInput: as `forward`.
        """
        if x.shape != other.shape or x.shape[1] != 3:
            raise BadInput(
                f"pictures of shapes {tuple(x.shape)} and {tuple(other.shape)}; two equal ones "
                "with 3 channels are expected"
            )
        stages: list[Tensor] = []
        both = zip(self.features(x), self.features(other), self.weights, strict=True)
        for mine, theirs, weight in both:
            apart = (self._unit(mine) - self._unit(theirs)).square()
            apart = F.dropout(apart, self.config.dropout, self.training)
            stages.append(torch.einsum("bcyx,c->byx", apart, weight).mean((1, 2)))
        return torch.stack(stages, dim=1)

    def features(self, x: Float[Tensor, "b 3 y x"]) -> Iterator[Float[Tensor, "b c y2 x2"]]:
        """The last map of each stage."""
        x = (x - self.shift) / self.scale
        for number, stage in enumerate(self.stages):
            if number:
                x = F.max_pool2d(x, 2)
            assert isinstance(stage, nn.ModuleList)
            for convolution in stage:
                x = F.relu(convolution(x))
            yield x

    def _unit(self, x: Tensor) -> Tensor:
        if self.config.unit == "floor":
            return F.normalize(x, dim=1, eps=self.config.epsilon)
        # The published root of a sum of squares has no derivative at zero; this one has zero.
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return x / (length + self.config.epsilon)
