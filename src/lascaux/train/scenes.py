"""Scenes of the emoji world, as autoencoders are trained and validated on them."""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lascaux.data.world.backgrounds import BACKGROUNDS
from lascaux.data.world.boxed import SIZE, BoxedScenes, box_psnr, boxed_scenes, stacked
from lascaux.data.world.sampling import sample
from lascaux.data.world.scene import Scene, draw_map
from lascaux.train.recipe import Share
from lascaux.train.reconstructions import psnr

_VALIDATED = 256  # scenes
_SEED = 79  # of them


def pictures(seed: int, share: Share) -> UInt8[Tensor, "b 3 y x"]:
    """Scenes of the train split, digits among them, by the seed and the share alone."""
    return stacked(_drawn(seed, share))


def weighed(seed: int, share: Share, of_things: float) -> dict[str, Tensor]:
    """These scenes as "picture", and as "weight" what each pixel counts, 1 in the mean.

    Args:
        seed: of the run.
        share: of a step.
        of_things: what pixels of things count, where those of backgrounds count 1.
    """
    drawn = _drawn(seed, share)
    maps = torch.from_numpy(np.stack([draw_map(scene, SIZE) for scene in drawn]).astype(np.int32))
    weight = torch.where(maps >= len(BACKGROUNDS), of_things, 1.0)[:, None]
    return {"picture": stacked(drawn), "weight": weight / weight.mean()}


def _drawn(seed: int, share: Share) -> list[Scene]:
    rng = np.random.Generator(np.random.PCG64([seed, share.number]))
    return [sample(rng, "train", digits=True) for _ in range(share.size)]


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


__all__ = ["SIZE", "figures", "pictures", "validation", "weighed"]
