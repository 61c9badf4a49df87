"""The judge: says what a picture of the emoji world shows, for scoring what others generate.

A convolutional encoder and decoder after U-Net (Ronneberger, Fischer, Brox 2015,
arXiv:1505.04597). It shares no architecture with any model it judges, is trained apart, and is
never used to guide, rerank or select. Published checkpoint: `ochre-judge`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.nn.configs import config_from_json, config_to_json


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Sizes of the judge, and the thresholds by which it says yes."""

    objects: int
    backgrounds: int
    image_size: int = 64  # pixels, square
    widths: tuple[int, int, int, int, int] = (16, 32, 64, 128, 256)  # of maps, at 1, 1/2, ... 1/16
    max_count: int = 4
    presence: float = 0.5  # probability from which an object counts as there

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types; `from_json` gives the same config back."""
        return config_to_json(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "JudgeConfig":
        """The config that `to_json` wrote.

        Raises:
            BadInput: a field is unknown or missing, or its value is impossible.
        """
        return config_from_json(cls, fields, "judge")


class Verdict(NamedTuple):
    """Logits of a batch of pictures."""

    objects: Float[Tensor, "b o"]  # of each object's presence, independent (sigmoid)
    background: Float[Tensor, "b g"]  # softmax
    number: Float[Tensor, "b k"]  # of 0 to max_count objects, softmax
    features: Float[Tensor, "b c y x"]  # from which `pixels` gives the map


def _conv(in_width: int, width: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_width, width, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class Judge(nn.Module):
    """Object, background, count and a map of classes from a picture."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        a, b, c, d, e = config.widths
        # Four neighbouring pixels are one: full-size convolutions would cost half of everything.
        self.down = nn.ModuleList(
            nn.Sequential(_conv(i, o, 3), _conv(o, o, 3))
            for i, o in ((12, b), (b, c), (c, d), (d, e))
        )
        self.up = nn.ModuleList(
            nn.Sequential(_conv(i + o, o, 1), _conv(o, o, 3)) for i, o in ((e, d), (d, c), (c, b))
        )
        self.fine = nn.Conv2d(b + 12, 4 * a, 1)  # a width for each of the four
        # Every cell of 8 x 8 pixels says which objects it sees: where one is small, the others
        # around it do not drown it.
        self.cells = nn.Sequential(_conv(d, e, 1), nn.Conv2d(e, config.objects, 1))
        self.hidden = nn.Linear(2 * e + d + c, 256)
        self.background = nn.Linear(256, config.backgrounds)
        self.count = nn.Linear(256, config.max_count + 1)
        self.classes = nn.Conv2d(a, config.backgrounds + config.objects, 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classes.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.classes.weight.dtype

    def forward(self, x: Float[Tensor, "b c y x"]) -> Verdict:
        """Logits for RGB pictures in [0, 1] of the config's size.

        Raises:
            BadInput: other channels or another size.
        """
        size = self.config.image_size
        if tuple(x.shape[1:]) != (3, size, size):
            raise BadInput(
                f"pictures of shape {tuple(x.shape[1:])}; the judge takes 3 x {size} x {size}"
            )
        fine = x = F.pixel_unshuffle((x.to(self.dtype) - 0.5) * 4, 2)
        kept = []
        for level, stage in enumerate(self.down):
            x = stage(x if level == 0 else F.max_pool2d(x, 2))
            kept.append(x)
        tops = [feature.amax((2, 3)) for feature in kept[1:]]
        seen = F.relu(self.hidden(torch.cat((*tops, x.mean((2, 3))), dim=1)))
        present = None
        for stage, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            x = stage(torch.cat((F.interpolate(x, scale_factor=2.0), skip), dim=1))
            if present is None:  # one cell that is sure is enough
                present = self.cells(x).float().flatten(2).logsumexp(2)
        assert present is not None
        x = F.pixel_shuffle(F.relu(self.fine(torch.cat((x, fine), dim=1))), 2)
        return Verdict(present, self.background(seen), self.count(seen), x)

    def pixels(self, verdict: Verdict) -> Int[Tensor, "b y x"]:
        """The class of every pixel: a background, or `backgrounds` + the object's index."""
        maps = [self.classes(features[None])[0].argmax(0) for features in verdict.features]
        return torch.stack(maps)
