"""Scenes of one object with the box it fills: where it matters what a picture became."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.sampling import Split, sample
from lascaux.data.world.scene import Scene, draw, draw_map
from lascaux.images.fidelity import psnr

SIZE = 64  # pixels
_MOST = 100.0  # dB; means of it bear no infinity


class BoxedScenes(NamedTuple):
    """Scenes, their pictures, and where their objects are: top, bottom, left, right, in pixels."""

    scenes: list[Scene]
    pictures: UInt8[Tensor, "b 3 y x"]
    boxes: list[tuple[int, int, int, int]]


def boxed_scenes(split: Split, seed: int, count: int) -> BoxedScenes:
    """Scenes of one object, digits among them; the same for a seed every time."""
    rng = np.random.Generator(np.random.PCG64([seed]))
    drawn = [sample(rng, split, "single", digits=True) for _ in range(count)]
    boxes = []
    for scene in drawn:
        rows, columns = np.nonzero(draw_map(scene, SIZE) >= len(BACKGROUNDS))
        boxes.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
    return BoxedScenes(drawn, stacked(drawn), boxes)


def stacked(drawn: list[Scene]) -> UInt8[Tensor, "b 3 y x"]:
    """The pictures of scenes."""
    pictures = np.stack([np.asarray(draw(scene, SIZE)) for scene in drawn])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def box_psnr(scenes: BoxedScenes, back: Float[Tensor, "b 3 y x"]) -> Float[Tensor, " b"]:
    """PSNR in dB within the box of each scene's object, at most 100, for RGB in [0, 1]."""
    x = scenes.pictures.to(back.device).float() / 255
    found = [
        psnr(mine[None, :, top:bottom, left:right], theirs[None, :, top:bottom, left:right])
        for mine, theirs, (top, bottom, left, right) in zip(x, back, scenes.boxes, strict=True)
    ]
    return torch.cat(found).clamp(max=_MOST)
