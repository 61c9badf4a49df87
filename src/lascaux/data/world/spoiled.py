"""Pictures that look like the world's but show no object properly: what a judge must not accept."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from lascaux.data.world.objects import glyph_count
from lascaux.data.world.scene import Scene, Thing, draw

SPOILS = ("blank", "blurred", "scrambled", "blended", "halved")


def spoil(
    scene: Scene, how: str, rng: np.random.Generator, size: int = 64
) -> UInt8[np.ndarray, "y x 3"]:
    """`scene` drawn and spoiled.

    Args:
        scene: its background stays; its objects are what gets spoiled.
        how: "blank" (no object), "blurred" (until only a blob is left), "scrambled" (parts of the
            objects change places), "blended" (half-transparent objects over others), "halved" (the
            left or upper half of one object, the other half of another).
        rng: decides how exactly.
        size: pixels.
    """
    empty = Scene(scene.background, (), scene.variant)
    if how == "blank":
        return np.asarray(draw(empty, size))
    if how == "blurred":
        extent = max(thing.size for thing in scene.things) * size
        radius = extent * rng.uniform(0.1, 0.22)
        return np.asarray(draw(scene, size).filter(ImageFilter.GaussianBlur(radius)))
    ground, full = np.asarray(draw(empty, size)), np.asarray(draw(scene, size))
    if how == "scrambled":
        return _scrambled(scene, full, ground, rng)
    other = np.asarray(draw(_exchanged(scene, rng), size))
    if how == "blended":
        share = rng.uniform(0.4, 0.6)
        return (full * share + other * (1 - share)).astype(np.uint8)
    if how == "halved":
        mixed = full.copy()
        across = rng.random() < 0.5
        for thing in scene.things:
            left, top, right, bottom = _frame(thing, size)
            if across:
                middle = (left + right) // 2
                mixed[top:bottom, middle:right] = other[top:bottom, middle:right]
            else:
                middle = (top + bottom) // 2
                mixed[middle:bottom, left:right] = other[middle:bottom, left:right]
        return mixed
    raise ValueError(f"no spoiling named {how!r}; there are: {', '.join(SPOILS)}")


def _exchanged(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with every object exchanged for another."""
    step = int(rng.integers(1, glyph_count()))
    things = tuple(
        Thing((thing.object + step) % glyph_count(), thing.x, thing.y, thing.size)
        for thing in scene.things
    )
    return Scene(scene.background, things, scene.variant)


def _frame(thing: Thing, size: int) -> tuple[int, int, int, int]:
    half = thing.size / 2
    left, top = max(0, round((thing.x - half) * size)), max(0, round((thing.y - half) * size))
    return left, top, round((thing.x + half) * size), round((thing.y + half) * size)


def _scrambled(
    scene: Scene, full: np.ndarray, ground: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Each object cut into three by three tiles that are dealt anew."""
    mixed = ground.copy()
    for thing in scene.things:
        left, top, right, bottom = _frame(thing, len(full))
        tile = min((right - left) // 3, (bottom - top) // 3)
        order = rng.permutation(9)
        while (order == np.arange(9)).sum() > 2:
            order = rng.permutation(9)
        for target, source in enumerate(order):
            y, x = top + tile * (target // 3), left + tile * (target % 3)
            v, u = top + tile * (source // 3), left + tile * (source % 3)
            part = full[v : v + tile, u : u + tile]
            place = mixed[y : y + part.shape[0], x : x + part.shape[1]]
            place[:] = part[: place.shape[0], : place.shape[1]]
    return mixed


def picture(pixels: UInt8[np.ndarray, "y x 3"]) -> Image.Image:
    """The pixels as a picture."""
    return Image.fromarray(pixels, "RGB")
