"""Scenes of the emoji world, as autoencoders are trained and validated on them."""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.sampling import Split, sample
from lascaux.data.world.scene import draw, draw_map
from lascaux.train.recipe import Share
from lascaux.train.reconstructions import psnr

SIZE = 64  # pixels
_VALIDATED = 256  # scenes


class Scenes(NamedTuple):
    """Pictures, and where their objects are: top, bottom, left and right, in pixels."""

    pictures: UInt8[Tensor, "b 3 y x"]
    boxes: list[tuple[int, int, int, int]]


def pictures(seed: int, share: Share) -> UInt8[Tensor, "b 3 y x"]:
    """Scenes of the train split, digits among them, by the seed and the share alone."""
    rng = np.random.Generator(np.random.PCG64([seed, share.number]))
    return _stacked([draw(sample(rng, "train", digits=True), SIZE) for _ in range(share.size)])


def single_scenes(split: Split, seed: int, count: int) -> Scenes:
    """Scenes of one object, and its box."""
    rng = np.random.Generator(np.random.PCG64([seed]))
    made, boxes = [], []
    for _ in range(count):
        scene = sample(rng, split, "single", digits=True)
        made.append(draw(scene, SIZE))
        rows, columns = np.nonzero(draw_map(scene, SIZE) >= len(BACKGROUNDS))
        boxes.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    return Scenes(_stacked(made), boxes)


@cache
def validation() -> Scenes:
    """Scenes of the validation split, always the same."""
    return single_scenes("validation", 79, _VALIDATED)


def box_psnr(scenes: Scenes, back: Float[Tensor, "b 3 y x"]) -> Float[Tensor, " b"]:
    """PSNR in dB within the box of each scene's object, at most 100, for RGB in [0, 1]."""
    x = scenes.pictures.to(back.device).float() / 255
    boxes = [
        psnr(mine[None, :, top:bottom, left:right], theirs[None, :, top:bottom, left:right])
        for mine, theirs, (top, bottom, left, right) in zip(x, back, scenes.boxes, strict=True)
    ]
    return torch.cat(boxes)


def figures(back: Float[Tensor, "b 3 y x"]) -> dict[str, float]:
    """PSNR of what became of the validation scenes, and within their boxes."""
    scenes = validation()
    x = scenes.pictures.to(back.device).float() / 255
    return {
        "validation_psnr": psnr(x, back).mean().item(),
        "validation_psnr_of_object": box_psnr(scenes, back).mean().item(),
    }


def _stacked(drawn: list) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(each) for each in drawn])).permute(0, 3, 1, 2)
