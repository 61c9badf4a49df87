"""The patch discriminator: tells real from generated, patch by patch, to train a VQGAN against.

Isola, Zhu, Zhou, Efros: "Image-to-Image Translation with Conditional Adversarial Networks", 2016,
arXiv:1611.07004, as taming-transformers and clip-gen publish it inside their VQGANs' checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.configs import config_from_json, config_to_json

_SLOPE = 0.2  # of the rectifiers, below zero


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """Everything that fixes the parameters of a patch discriminator."""

    channels: int = 3  # of pictures, with those of a condition
    width: int = 64  # channels after the first convolution
    layers: int = 3  # normalised convolutions; all but the last of them halve the size
    norm: Literal["batch", "act"] = "batch"

    def __post_init__(self) -> None:
        if self.norm not in ("batch", "act"):
            raise BadInput(f"norm {self.norm!r} is neither 'batch' nor 'act'")
        if min(self.channels, self.width, self.layers) < 1:
            raise BadInput("channels, width and layers must be at least one")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels after every convolution but the last."""
        return tuple(self.width * min(2**layer, 8) for layer in range(self.layers + 1))

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "PatchDiscriminatorConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "patch discriminator")


class ActNorm(nn.Module):
    """Shift and scale of every channel, set by the first batch it is trained on.

    Kingma, Dhariwal: "Glow", 2018, arXiv:1807.03039, section 3.1.
    """

    initialised: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(width))
        self.register_buffer("initialised", torch.tensor(0, dtype=torch.uint8))

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c y x"]:
        """The map, shifted, then scaled."""
        if self.training and not self.initialised:
            with torch.no_grad():
                flat = x.transpose(0, 1).flatten(1)
                self.shift.copy_(-flat.mean(dim=1))
                self.scale.copy_(1 / (flat.std(dim=1) + 1e-6))
                self.initialised.fill_(1)
        return self.scale[:, None, None] * (x + self.shift[:, None, None])


class Layer(nn.Module):
    """A convolution, normalised."""

    def __init__(self, width: int, out_width: int, stride: int, norm: str) -> None:
        super().__init__()
        batch = norm == "batch"
        # A batch norm would take the bias away again.
        self.conv = nn.Conv2d(width, out_width, 4, stride, padding=1, bias=not batch)
        self.norm = nn.BatchNorm2d(out_width) if batch else ActNorm(out_width)

    def forward(self, x: Float[Tensor, "b c y x"]) -> Float[Tensor, "b c2 y2 x2"]:
        """The map, a little or much smaller."""
        return F.leaky_relu(self.norm(self.conv(x)), _SLOPE)


class PatchDiscriminator(nn.Module):
    """Logits of being real for overlapping patches of a picture."""

    def __init__(self, config: PatchDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.first = nn.Conv2d(config.channels, widths[0], 4, 2, padding=1)
        self.layers = nn.ModuleList(
            Layer(width, out_width, 1 if layer == config.layers else 2, config.norm)
            for layer, (width, out_width) in enumerate(pairwise(widths), start=1)
        )
        self.last = nn.Conv2d(widths[-1], 1, 4, 1, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(
        self,
        x: Float[Tensor, "b c y x"],
        condition: Float[Tensor, "b c3 y x"] | None = None,
    ) -> Float[Tensor, "b 1 y2 x2"]:
        """A logit for every patch; the condition's channels are put behind the picture's."""
        if condition is not None:
            x = torch.cat([x, condition], dim=1)
        x = F.leaky_relu(self.first(x), _SLOPE)
        for layer in self.layers:
            x = layer(x)
        return self.last(x)
