"""A scene of the emoji world: a description from which picture, map, caption and tags all follow.

Everything is a fraction of the picture's side, so the same scene can be drawn at any size.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16
from PIL import Image

from lascaux.data.world.backgrounds import BACKGROUNDS, background
from lascaux.data.world.objects import glyph_count, objects, scaled_digit, scaled_glyph

# What the numbers of a semantic map stand for: backgrounds, then objects.
MAP_NAMES = (*BACKGROUNDS, *(thing.name for thing in objects()))
MAP_CLASSES = len(MAP_NAMES)
_INK = 110  # alpha from which a pixel belongs to the object that covers it
# Digits are chalk where dark ink would not be seen: of these the mean brightness is below 100.
_DARK = frozenset(("red", "blue", "purple", "brown", "black", "night", "forest"))
_CHALK = (245, 243, 230)


@dataclass(frozen=True)
class Thing:
    """One object in a scene."""

    object: int  # index into `objects()`
    x: float  # of its centre, 0 (left) to 1
    y: float  # of its centre, 0 (top) to 1
    size: float  # its longer side, as a fraction of the picture's side
    scan: int = 0  # of a digit: which scan; of a glyph: 0


@dataclass(frozen=True)
class Scene:
    """Objects on a background; later things cover earlier ones."""

    background: str  # one of BACKGROUNDS
    things: tuple[Thing, ...]
    variant: int = 0  # of the background, 0 to 63

    @property
    def names(self) -> tuple[str, ...]:
        """English names of the things, in order."""
        return tuple(objects()[thing.object].name for thing in self.things)


def draw(scene: Scene, size: int = 64) -> Image.Image:
    """The picture of a scene, RGB, `size` x `size` pixels."""
    canvas = background(scene.background, scene.variant, size).copy()
    for thing in scene.things:
        picture, corner = _placed(thing, scene.background, size)
        canvas.paste(picture, corner, picture)
    return canvas


def draw_map(scene: Scene, size: int = 64) -> UInt16[np.ndarray, "y x"]:
    """What each pixel of `draw(scene, size)` shows: a background, or 20 + the object's index."""
    shown = np.full((size, size), BACKGROUNDS.index(scene.background), dtype=np.uint16)
    for thing in scene.things:
        picture, (x, y) = _placed(thing, scene.background, size)
        ink = np.asarray(picture)[..., 3] >= _INK
        top, left = max(0, y), max(0, x)
        bottom, right = min(size, y + ink.shape[0]), min(size, x + ink.shape[1])
        covered = ink[top - y : bottom - y, left - x : right - x]
        shown[top:bottom, left:right][covered] = len(BACKGROUNDS) + thing.object
    return shown


def _placed(thing: Thing, ground: str, size: int) -> tuple[Image.Image, tuple[int, int]]:
    side = max(3, round(thing.size * size))
    if thing.object < glyph_count():
        picture = scaled_glyph(thing.object, side)
    elif ground in _DARK:
        picture = scaled_digit(thing.scan, side, _CHALK)
    else:
        picture = scaled_digit(thing.scan, side)
    x = round(thing.x * size - picture.width / 2)
    y = round(thing.y * size - picture.height / 2)
    return picture, (x, y)
