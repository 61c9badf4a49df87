"""What stands behind the objects of the emoji world: twelve named colours and eight places.

A background is drawn from its name, a variant number and a size in pixels; the same three give
the same picture on every machine, since only integers and fixed tables decide it.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 218, 50),
    "green": (56, 158, 70),
    "turquoise": (60, 198, 190),
    "blue": (40, 96, 205),
    "purple": (126, 62, 178),
    "pink": (248, 152, 190),
    "brown": (122, 78, 46),
    "black": (26, 26, 28),
    "grey": (136, 138, 142),
    "white": (244, 244, 242),
}
PLACES = ("meadow", "sea", "night", "desert", "snow", "street", "room", "forest")
BACKGROUNDS = (*COLOURS, *PLACES)
VARIANTS = 64  # of every background; a colour varies in shade, a place in what stands where
_KEPT = 128  # pixels up to which a picture is drawn once and kept
_SHADE = 12  # largest deviation of a shade from its named colour, of 255


def background(name: str, variant: int, size: int) -> Image.Image:
    """The background `name` as an RGB picture of `size` x `size` pixels; do not write into it.

    Raises:
        ValueError: `name` is none of `BACKGROUNDS`, or `variant` is not in 0..63.
    """
    if not 0 <= variant < VARIANTS:
        raise ValueError(f"variant {variant}: expected 0 to {VARIANTS - 1}")
    # All the large ones together would not fit into memory.
    return (_kept if size <= _KEPT else _painted)(name, variant, size)


def _painted(name: str, variant: int, size: int) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64([BACKGROUNDS.index(_known(name)), variant]))
    if name in COLOURS:
        shade = np.clip(np.array(COLOURS[name]) + rng.integers(-_SHADE, _SHADE + 1, 3), 0, 255)
        return Image.new("RGB", (size, size), tuple(int(level) for level in shade))
    # Drawn at twice the size and averaged down, for smooth edges.
    canvas = Image.new("RGB", (2 * size, 2 * size))
    _PAINTERS[name](canvas, rng)
    return canvas.reduce(2)


_kept = lru_cache(maxsize=4096)(_painted)


def _known(name: str) -> str:
    if name not in BACKGROUNDS:
        raise ValueError(f"no background named {name!r}; there are: {', '.join(BACKGROUNDS)}")
    return name


def _fade(canvas: Image.Image, top: float, bottom: float, first: tuple, last: tuple) -> None:
    """Fill the rows from `top` to `bottom` (fractions of the height) from one colour to another."""
    side = canvas.width
    low, high = round(top * side), round(bottom * side)
    if high <= low:
        return
    mix = np.linspace(0, 1, high - low)[:, None]
    column = (np.array(first) * (1 - mix) + np.array(last) * mix).round().astype(np.uint8)
    strip = Image.fromarray(column[:, None, :]).resize((side, high - low), Image.Resampling.NEAREST)
    canvas.paste(strip, (0, low))


def _hills(canvas: Image.Image, rng: np.random.Generator, base: float, lift: float, fill) -> None:
    """A wavy ground whose upper edge runs about `base` (fraction of the height from the top)."""
    side = canvas.width
    x = np.linspace(0, 1, 33)
    waves = np.zeros(len(x))
    for k in (1, 2, 3):
        waves += rng.uniform(-1, 1) * np.sin(2 * np.pi * (k * x + rng.uniform(0, 1))) / k
    edge = [
        (float(a * side), float((base + lift * w) * side)) for a, w in zip(x, waves, strict=True)
    ]
    ImageDraw.Draw(canvas).polygon([*edge, (side, side), (0, side)], fill=fill)


def _dots(
    canvas: Image.Image, rng: np.random.Generator, count: int, top: float, radius: float, fills
) -> None:
    side, draw = canvas.width, ImageDraw.Draw(canvas)
    for _ in range(count):
        x, y = rng.uniform(0, side), rng.uniform(top * side, side)
        r = radius * side * rng.uniform(0.6, 1.4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fills[rng.integers(len(fills))])


def _meadow(canvas: Image.Image, rng: np.random.Generator) -> None:
    _fade(canvas, 0.0, 0.6, (132, 200, 250), (206, 236, 252))
    _hills(canvas, rng, rng.uniform(0.42, 0.55), 0.04, (126, 200, 80))
    _hills(canvas, rng, rng.uniform(0.62, 0.72), 0.03, (96, 178, 62))
    _dots(canvas, rng, 14, 0.66, 0.012, ((255, 240, 120), (255, 255, 255), (240, 130, 170)))


def _sea(canvas: Image.Image, rng: np.random.Generator) -> None:
    horizon = rng.uniform(0.3, 0.42)
    _fade(canvas, 0.0, horizon, (150, 214, 250), (226, 244, 252))
    _fade(canvas, horizon, 1.0, (38, 128, 190), (14, 74, 138))
    side, draw = canvas.width, ImageDraw.Draw(canvas)
    for _ in range(16):
        y = rng.uniform(horizon + 0.03, 1.0)
        w, x = rng.uniform(0.05, 0.16) * (0.4 + y), rng.uniform(0, 1)
        box = ((x - w) * side, (y - w / 4) * side, (x + w) * side, (y + w / 4) * side)
        draw.arc(box, 200, 340, fill=(150, 206, 236), width=max(1, side // 64))


def _night(canvas: Image.Image, rng: np.random.Generator) -> None:
    _fade(canvas, 0.0, 1.0, (8, 10, 40), (38, 36, 92))
    _dots(canvas, rng, 36, 0.0, 0.007, ((255, 255, 255), (255, 240, 190), (190, 210, 255)))
    side, draw = canvas.width, ImageDraw.Draw(canvas)
    x, y, r = rng.uniform(0.1, 0.9) * side, rng.uniform(0.08, 0.25) * side, 0.075 * side
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(250, 240, 200))
    x += 0.55 * r
    draw.ellipse((x - r, y - 1.25 * r, x + r, y + 0.75 * r), fill=(12, 14, 46))


def _desert(canvas: Image.Image, rng: np.random.Generator) -> None:
    _fade(canvas, 0.0, 0.6, (250, 196, 120), (255, 232, 180))
    _hills(canvas, rng, rng.uniform(0.45, 0.55), 0.06, (226, 176, 100))
    _hills(canvas, rng, rng.uniform(0.62, 0.74), 0.06, (208, 150, 76))


def _snow(canvas: Image.Image, rng: np.random.Generator) -> None:
    _fade(canvas, 0.0, 0.65, (150, 176, 206), (214, 226, 238))
    _hills(canvas, rng, rng.uniform(0.5, 0.62), 0.05, (236, 242, 248))
    _dots(canvas, rng, 46, 0.0, 0.011, ((255, 255, 255),))


def _street(canvas: Image.Image, rng: np.random.Generator) -> None:
    side, draw = canvas.width, ImageDraw.Draw(canvas)
    _fade(canvas, 0.0, 0.6, (190, 204, 216), (222, 226, 230))
    x = -0.05
    walls = ((168, 92, 76), (196, 170, 130), (130, 134, 150), (178, 140, 110))
    while x < 1:
        width, top = rng.uniform(0.16, 0.3), rng.uniform(0.08, 0.3)
        wall = walls[rng.integers(len(walls))]
        draw.rectangle((x * side, top * side, (x + width) * side, 0.66 * side), fill=wall)
        for row in np.arange(top + 0.05, 0.56, 0.11):
            for column in np.arange(x + 0.04, x + width - 0.05, 0.085):
                pane = (column * side, row * side, (column + 0.04) * side, (row + 0.055) * side)
                draw.rectangle(pane, fill=(246, 224, 150) if rng.random() < 0.4 else (70, 84, 104))
        x += width + 0.015
    draw.rectangle((0, 0.64 * side, side, side), fill=(84, 86, 92))
    for start in np.arange(rng.uniform(-0.2, 0), 1, 0.26):
        mark = (start * side, 0.81 * side, (start + 0.14) * side, 0.84 * side)
        draw.rectangle(mark, fill=(232, 228, 210))


def _room(canvas: Image.Image, rng: np.random.Generator) -> None:
    side, draw = canvas.width, ImageDraw.Draw(canvas)
    walls = ((236, 214, 186), (206, 222, 214), (226, 206, 220))
    draw.rectangle((0, 0, side, side), fill=walls[rng.integers(len(walls))])
    draw.rectangle((0, 0.7 * side, side, side), fill=(166, 112, 70))
    for y in (0.78, 0.87, 0.96):
        draw.line((0, y * side, side, y * side), fill=(140, 92, 56), width=max(1, side // 90))
    draw.rectangle((0, 0.68 * side, side, 0.71 * side), fill=(250, 246, 238))
    x, w = rng.uniform(0.06, 0.6), 0.32
    draw.rectangle((x * side, 0.1 * side, (x + w) * side, 0.46 * side), fill=(250, 246, 238))
    for column in (x + 0.02, x + w / 2 + 0.01):
        pane = (column * side, 0.12 * side, (column + w / 2 - 0.03) * side, 0.44 * side)
        draw.rectangle(pane, fill=(146, 204, 240))


def _forest(canvas: Image.Image, rng: np.random.Generator) -> None:
    side, draw = canvas.width, ImageDraw.Draw(canvas)
    _fade(canvas, 0.0, 1.0, (60, 110, 74), (34, 62, 40))
    for layer, (green, count) in enumerate((((44, 92, 58), 9), ((30, 70, 44), 7))):
        base = 0.72 + 0.14 * layer
        for x in np.linspace(0, 1, count) + rng.uniform(-0.05, 0.05, count):
            height, width = rng.uniform(0.45, 0.7), rng.uniform(0.09, 0.13)
            trunk = ((x - 0.012) * side, (base - 0.06) * side, (x + 0.012) * side, base * side)
            draw.rectangle(trunk, fill=(78, 54, 36))
            for part in range(3):
                top = base - 0.05 - height * (1 - 0.28 * part)
                reach, foot = width * (0.55 + 0.22 * part), top + height * 0.46
                corners = ((x, top), (x - reach, foot), (x + reach, foot))
                draw.polygon([(a * side, b * side) for a, b in corners], fill=green)
    draw.rectangle((0, 0.87 * side, side, side), fill=(64, 50, 34))


_PAINTERS = {
    "meadow": _meadow,
    "sea": _sea,
    "night": _night,
    "desert": _desert,
    "snow": _snow,
    "street": _street,
    "room": _room,
    "forest": _forest,
}
