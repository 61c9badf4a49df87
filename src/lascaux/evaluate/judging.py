"""What the judge says of pictures of the emoji world, in words and numbers."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Integer, UInt16
from PIL import Image
from torch import Tensor

from lascaux.data.world import BACKGROUNDS, Scene, objects
from lascaux.images import pixels
from lascaux.images.preprocess import Preprocessing
from lascaux.models.judge import Judge


@dataclass(frozen=True)
class Judgement:
    """One picture as the judge sees it."""

    objects: tuple[int, ...]  # indices into `objects()`, the surest first; empty: nothing proper
    names: tuple[str, ...]  # their English names
    background: str
    count: int
    map: UInt16[np.ndarray, "y x"]  # class of each pixel: a background, or 20 + object

    def accepts(self, scene: Scene) -> bool:
        """Whether the picture shows this scene's objects and background, and no other object."""
        wanted = {thing.object for thing in scene.things}
        return set(self.objects) == wanted and self.background == scene.background


@torch.no_grad()
def judged(
    judge: Judge, pictures: Iterable[Image.Image], batch_size: int = 64
) -> Iterator[Judgement]:
    """Judgements in the order of the pictures, which are resized to the judge's size.

    Raises:
        BadPicture: one of the pictures cannot be read.
    """
    size = judge.config.image_size
    how = Preprocessing(size=size, resize="squash", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    batch: list[Image.Image] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == batch_size:
            yield from _batch(judge, batch, how)
            batch = []
    if batch:
        yield from _batch(judge, batch, how)


def overlap(truth: Integer[np.ndarray, "y x"], found: Integer[np.ndarray, "y x"]) -> float:
    """Mean over a scene's objects of intersection by union, in maps of what each pixel shows."""
    classes = [c for c in np.unique(truth) if c >= len(BACKGROUNDS)]
    joint = [
        ((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in classes
    ]
    return float(np.mean(joint)) if joint else 1.0


def _batch(
    judge: Judge, pictures: Sequence[Image.Image], how: Preprocessing
) -> Iterator[Judgement]:
    x, failures = pixels(pictures, how)
    if failures:
        raise failures[0][1]
    seen = judge(x.to(judge.device))
    maps = judge.pixels(seen).to(torch.int32).cpu().numpy().astype(np.uint16)
    counts = seen.number.argmax(1).tolist()
    grounds = seen.background.argmax(1).tolist()
    for row, probability in enumerate(seen.objects.float().sigmoid().cpu()):
        shown = _present(probability, judge.config.presence)
        names = tuple(objects()[index].name for index in shown)
        yield Judgement(shown, names, BACKGROUNDS[grounds[row]], counts[row], maps[row])


def _present(probability: Tensor, least: float) -> tuple[int, ...]:
    order = probability.argsort(descending=True)[:4].tolist()
    return tuple(index for index in order if probability[index] >= least)
