"""Scenes of the emoji world, as autoencoders are trained and validated on them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.boxed import SIZE, BoxedScenes, box_psnr, boxed_scenes, stacked
from lascaux.data.world.sampling import crowd, sample
from lascaux.data.world.scene import Scene, draw_map
from lascaux.errors import BadInput
from lascaux.train.mixin import Beside
from lascaux.train.recipe import Part, Precision, Share, restated, setting
from lascaux.train.reconstructions import psnr

_VALIDATED = 256  # scenes
_SEED = 79  # of them


@dataclass(frozen=True, kw_only=True)
class OfScenes(Beside):
    """Settings of runs on scenes of the train split, which are drawn and weighed."""

    things_weight: float = setting(6.0, "of pixels of things, beside 1 of backgrounds")
    crowded: float = setting(0.0, "share of scenes that are full of things")
    seed: int = restated("seed", 1)
    batch_size: int = restated("batch_size", 16)
    precision: Precision = restated("precision", "bfloat16")
    learning_rate: float = restated("learning_rate", 1e-3)
    averaging: float = restated("averaging", 0.998)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.things_weight < math.inf:
            raise BadInput(f"--things-weight is {self.things_weight}; it must be above 0")
        if not 0 <= self.crowded <= 1:
            raise BadInput(f"--crowded is {self.crowded}; expected a share from 0 to 1")

    def feed(self, part: Part) -> Iterator[dict[str, Tensor]]:
        """Micro-batches that are drawn."""
        return part.drawn(self, self.batch)

    def batch(self, share: Share) -> dict[str, Tensor]:
        """Scenes of the train split, and what each pixel counts."""
        return weighed(self.seed, share, self.things_weight, self.crowded)


def pictures(seed: int, share: Share) -> UInt8[Tensor, "b 3 y x"]:
    """Scenes of the train split, digits among them, by the seed and the share alone."""
    return stacked(_drawn(seed, share))


def maps_of(drawn: list[Scene]) -> Int[Tensor, "b y x"]:
    """The semantic maps of scenes."""
    return torch.from_numpy(np.stack([draw_map(scene, SIZE) for scene in drawn]).astype(np.int32))


def weighed(seed: int, share: Share, of_things: float, crowded: float = 0.0) -> dict[str, Tensor]:
    """These scenes as "picture", and as "weight" what each pixel counts, 1 in the mean.

    Args:
        seed: of the run.
        share: of a step.
        of_things: what pixels of things count, where those of backgrounds count 1.
        crowded: share of the scenes that are full of things.
    """
    drawn = _drawn(seed, share, crowded)
    weight = weights_of(drawn, of_things)
    return {"picture": stacked(drawn), "weight": weight / weight.mean()}


def weights_of(drawn: list[Scene], of_things: float) -> Float[Tensor, "b 1 y x"]:
    """What each pixel of scenes counts: 1 of backgrounds, so much of things."""
    return torch.where(maps_of(drawn) >= len(BACKGROUNDS), of_things, 1.0)[:, None]


def _drawn(seed: int, share: Share, crowded: float = 0.0) -> list[Scene]:
    rng = np.random.Generator(np.random.PCG64([seed, share.number]))
    full = round(crowded * share.size)
    return [crowd(rng, digits=True) for _ in range(full)] + [
        sample(rng, "train", digits=True) for _ in range(share.size - full)
    ]


@cache
def validation() -> BoxedScenes:
    """Scenes of one object of the validation split, always the same."""
    return boxed_scenes("validation", _SEED, _VALIDATED)


def figures(back: Float[Tensor, "b 3 y x"]) -> dict[str, float]:
    """PSNR of what became of the validation scenes, and within their boxes."""
    scenes = validation()
    x = scenes.pictures.to(back.device).float() / 255
    return {
        "validation_psnr": psnr(x, back).mean().item(),
        "validation_psnr_of_object": box_psnr(scenes, back).mean().item(),
    }


__all__ = [
    "SIZE",
    "OfScenes",
    "figures",
    "maps_of",
    "pictures",
    "validation",
    "weighed",
    "weights_of",
]
