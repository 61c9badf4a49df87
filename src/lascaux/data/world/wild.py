"""Pictures as people really have them: one object, and everything a camera or a screen adds.

The object is drawn at a quarter of the picture's short side or more, and may then be squeezed or
bent a little. Eight kinds, one main distortion each, mild ones of the others mixed in: screenshot,
rotated, recoloured, blurred, jpeg, noise, clutter, perspective. The same generator state gives the
same picture.
"""

import colorsys
from collections.abc import Callable, Iterator
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from lascaux.data.world.backgrounds import BACKGROUNDS, VARIANTS, background
from lascaux.data.world.objects import (
    digit_scans,
    glyph,
    glyph_count,
    objects,
    scaled_digit,
    scaled_glyph,
    scans_of,
)

KINDS = (
    "screenshot",
    "rotated",
    "recoloured",
    "blurred",
    "jpeg",
    "noise",
    "clutter",
    "perspective",
)
Draw = Callable[[int], Image.Image]  # object index -> RGBA glyph, cut to its ink


def wild(
    rng: np.random.Generator,
    index: int,
    kind: str,
    side: int = 256,
    *,
    held_out: bool = False,
    artist: Draw = glyph,
) -> Image.Image:
    """An RGB picture of object `index`, distorted in the way `kind` says.

    Args:
        rng: decides everything else.
        index: of `objects()`; a digit is drawn from a scan (`held_out` says from which third).
        kind: one of `KINDS`.
        side: pixels of the short side; the long side is up to 1.6 times that.
        held_out: use held-out scans of digits.
        artist: draws glyphs; another font's glyphs may stand in for the atlas's.
    """
    if kind not in KINDS:
        raise ValueError(f"no distortion named {kind!r}; there are: {', '.join(KINDS)}")
    stretch = rng.uniform(1, 1.6) if kind == "screenshot" or rng.random() < 0.3 else 1.0
    size = (round(side * stretch), side)
    if rng.random() < 0.3:
        size = (size[1], size[0])
    canvas = _screen(rng, size) if kind == "screenshot" else _ground(rng, size)
    if kind == "clutter":
        _clutter(rng, canvas, before=True)
    extent = rng.uniform(0.25, 0.85) if rng.random() < 0.75 else rng.uniform(0.5, 0.95)
    thing = _thing(rng, index, max(8, round(extent * side)), held_out, artist)
    if kind == "recoloured":
        thing = _recolour(rng, thing)
    if rng.random() < 0.25 and index < glyph_count():
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    limit = 50.0 if kind == "rotated" else 6.0
    if kind == "rotated" or rng.random() < 0.3:
        thing = thing.rotate(rng.uniform(-limit, limit), Image.Resampling.BICUBIC, expand=True)
    if kind == "perspective" or rng.random() < 0.15:
        thing = _perspective(rng, thing, 0.24 if kind == "perspective" else 0.08)
    # Rotation enlarges the frame; the ink itself keeps its extent and stays inside the picture.
    x = int(rng.integers(min(0, size[0] - thing.width), max(1, size[0] - thing.width + 1)))
    y = int(rng.integers(min(0, size[1] - thing.height), max(1, size[1] - thing.height + 1)))
    canvas.paste(thing, (x, y), thing)
    if kind == "clutter":
        _clutter(rng, canvas, before=False)
    return _camera(rng, canvas, kind)


def digit_picture(rng: np.random.Generator, scan: int, side: int = 96) -> Image.Image:
    """Scan `scan` filling a picture as a scanner gives it: dark on light or light on dark."""
    levels = digit_scans()[0][scan].astype(np.float64) / 16
    how = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    grey = Image.fromarray((levels * 255).round().astype(np.uint8), "L")
    border = int(rng.integers(0, side // 5 + 1))
    inner = side - 2 * border
    ink = Image.new("L", (side, side))
    ink.paste(grey.resize((inner, inner), how[rng.integers(3)]), (border, border))
    dark, light = rng.integers(0, 70, 3), rng.integers(185, 256, 3)
    if rng.random() < 0.6:  # greys, as scans mostly are
        dark, light = np.full(3, dark[0]), np.full(3, light[0])
    paper, pen = (dark, light) if rng.random() < 0.5 else (light, dark)
    return Image.composite(
        Image.new("RGB", ink.size, tuple(int(v) for v in pen)),
        Image.new("RGB", ink.size, tuple(int(v) for v in paper)),
        ink,
    )


def _thing(
    rng: np.random.Generator, index: int, side: int, held_out: bool, artist: Draw
) -> Image.Image:
    digit = objects()[index].digit
    if digit is not None:
        scans = scans_of(digit, held_out)
        ink = ((20, 20, 60), (10, 10, 10), (120, 20, 20))[rng.integers(3)]
        return scaled_digit(scans[rng.integers(len(scans))], side, ink)
    if artist is glyph:
        picture = scaled_glyph(index, side)
    else:
        picture = artist(index)
        picture = picture.resize(_within(picture.size, side), Image.Resampling.BICUBIC)
    if rng.random() < 0.3:
        squeeze = rng.uniform(0.8, 1.0)
        width, height = picture.size
        size = (
            (round(width * squeeze), height)
            if rng.random() < 0.5
            else (width, round(height * squeeze))
        )
        picture = picture.resize((max(2, size[0]), max(2, size[1])), Image.Resampling.BILINEAR)
    return picture


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    level, saturation = rng.uniform(0.1, 1.0), rng.uniform(0, 1) ** 1.5
    red, green, blue = colorsys.hsv_to_rgb(rng.uniform(0, 1), saturation, level)
    return int(red * 255), int(green * 255), int(blue * 255)


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Something to stand on: flat, shaded, mottled, or a place of the world."""
    kind = rng.integers(5)
    if kind == 0:
        return Image.new("RGB", size, _colour(rng))
    if kind == 1:
        name = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
        return background(name, int(rng.integers(VARIANTS)), 96).resize(
            size, Image.Resampling.BILINEAR
        )
    if kind == 2:
        corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        if rng.random() < 0.6:
            corners = np.clip(corners[:1, :1] + rng.integers(-40, 41, (2, 2, 1)), 0, 255).astype(
                np.uint8
            )
        return Image.fromarray(corners, "RGB").resize(size, Image.Resampling.BILINEAR)
    if kind == 3:
        cells = int(rng.integers(4, 17))
        spread = rng.integers(15, 70)
        patch = np.array(_colour(rng)) + rng.integers(-spread, spread + 1, (cells, cells, 3))
        patch = np.clip(patch, 0, 255).astype(np.uint8)
        return Image.fromarray(patch, "RGB").resize(size, Image.Resampling.BICUBIC)
    shade = int(rng.integers(225, 256)) if rng.random() < 0.8 else int(rng.integers(0, 50))
    return Image.new("RGB", size, (shade, shade, shade))


def _screen(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A page on a screen: bars, lines of text, buttons, bubbles."""
    dark = rng.random() < 0.3
    paper, ink = ((30, 31, 36), (190, 192, 200)) if dark else ((250, 250, 252), (70, 72, 80))
    canvas = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(canvas)
    width, height = size
    unit = min(size)
    bar = round(unit * rng.uniform(0.05, 0.12))
    draw.rectangle((0, 0, width, bar), fill=_colour(rng))
    for spot in range(3):
        x, r = bar * (0.6 + 0.6 * spot), bar * 0.18
        draw.ellipse((x - r, bar / 2 - r, x + r, bar / 2 + r), fill=(255, 255, 255))
    step = unit * rng.uniform(0.05, 0.09)
    y = bar + step
    words = (
        "the quick",
        "12:45",
        "Messages",
        "Settings",
        "hello!",
        "see you",
        "photo",
        "Send",
        "OK",
    )
    font = ImageFont.load_default(max(6, round(step * 0.7)))
    while y < height - step:
        style = rng.random()
        if style < 0.5:
            x = unit * 0.05
            while x < width * rng.uniform(0.3, 1.0):
                run = unit * rng.uniform(0.03, 0.15)
                draw.rectangle((x, y, x + run, y + step * 0.3), fill=ink)
                x += run + unit * 0.02
        elif style < 0.75:
            draw.text(
                (unit * rng.uniform(0.03, 0.5), y), words[rng.integers(len(words))], ink, font
            )
        elif style < 0.85:
            x = rng.uniform(0, width * 0.6)
            box = (x, y, x + unit * rng.uniform(0.2, 0.5), y + step * rng.uniform(1, 2.5))
            draw.rounded_rectangle(box, step * 0.4, fill=_colour(rng))
        y += step
    return canvas


def _clutter(rng: np.random.Generator, canvas: Image.Image, *, before: bool) -> None:
    """Shapes behind the object, and a few thin or small ones before it."""
    draw, unit = ImageDraw.Draw(canvas), min(canvas.size)
    for _ in range(int(rng.integers(6, 16)) if before else int(rng.integers(1, 5))):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
        r = unit * (rng.uniform(0.03, 0.2) if before else rng.uniform(0.01, 0.05))
        shape, fill = rng.integers(4), _colour(rng)
        if shape == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
        elif shape == 1:
            draw.rectangle((x - r, y - r * 0.7, x + r, y + r * 0.7), fill=fill)
        elif shape == 2:
            corners = [(x + r * rng.uniform(-1, 1), y + r * rng.uniform(-1, 1)) for _ in range(3)]
            draw.polygon(corners, fill=fill)
        else:
            end = (rng.uniform(0, canvas.width), rng.uniform(0, canvas.height))
            draw.line((x, y, *end), fill=fill, width=max(1, round(unit * 0.012)))


def _recolour(rng: np.random.Generator, thing: Image.Image) -> Image.Image:
    alpha = thing.getchannel("A")
    style = rng.random()
    if style < 0.25:
        grey = thing.convert("RGB").convert("L")
        rgb = Image.merge("RGB", (grey, grey, grey))
    elif style < 0.4:
        grey, dark, light = thing.convert("RGB").convert("L"), _colour(rng), _colour(rng)
        mix = np.asarray(grey, dtype=np.float32)[..., None] / 255
        tinted = np.array(dark) * 0.4 * (1 - mix) + (155 + np.array(light) * 0.4) * mix
        rgb = Image.fromarray(np.clip(tinted, 0, 255).astype(np.uint8), "RGB")
    else:
        hue, saturation, level = thing.convert("RGB").convert("HSV").split()
        turn = int(rng.integers(-128, 128)) if style < 0.75 else int(rng.integers(-25, 26))
        scale, gain = rng.uniform(0.4, 1.4), rng.uniform(0.7, 1.15)
        hue = hue.point([(v + turn) % 256 for v in range(256)])
        saturation = saturation.point([min(255, round(v * scale)) for v in range(256)])
        level = level.point([min(255, round(v * gain)) for v in range(256)])
        rgb = Image.merge("HSV", (hue, saturation, level)).convert("RGB")
    rgb.putalpha(alpha)
    return rgb


def _perspective(rng: np.random.Generator, thing: Image.Image, amount: float) -> Image.Image:
    width, height = thing.size
    bend = rng.uniform(0, amount, (4, 2))
    target = [
        (bend[0, 0] * width, bend[0, 1] * height),
        (width - bend[1, 0] * width, bend[1, 1] * height),
        (width - bend[2, 0] * width, height - bend[2, 1] * height),
        (bend[3, 0] * width, height - bend[3, 1] * height),
    ]
    source = [(0, 0), (width, 0), (width, height), (0, height)]
    rows, right = [], []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    data = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(right, dtype=np.float64))
    how = Image.Transform.PERSPECTIVE
    return thing.transform(thing.size, how, tuple(data), Image.Resampling.BICUBIC)


def _camera(rng: np.random.Generator, canvas: Image.Image, kind: str) -> Image.Image:
    """What lens, sensor and file format do to the whole picture."""
    unit = min(canvas.size)
    if kind == "blurred" or rng.random() < 0.12:
        radius = unit * (rng.uniform(0.006, 0.02) if kind == "blurred" else rng.uniform(0, 0.008))
        canvas = canvas.filter(ImageFilter.GaussianBlur(radius))
    if rng.random() < 0.4:
        gain = rng.uniform(0.7, 1.25, 3) if rng.random() < 0.3 else rng.uniform(0.7, 1.25)
        lift = rng.uniform(-25, 25)
        gains = np.broadcast_to(gain, 3)
        table = [int(np.clip(v * g + lift, 0, 255)) for g in gains for v in range(256)]
        canvas = canvas.point(table)
    if kind == "noise" or rng.random() < 0.1:
        sigma = rng.uniform(10, 32) if kind == "noise" else rng.uniform(2, 10)
        pixels = np.asarray(canvas, dtype=np.float32)
        pixels = pixels + sigma * rng.standard_normal(pixels.shape, dtype=np.float32)
        canvas = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB")
    if kind == "jpeg" or rng.random() < 0.15:
        quality = int(rng.integers(12, 40)) if kind == "jpeg" else int(rng.integers(40, 90))
        coded = BytesIO()
        canvas.save(coded, "JPEG", quality=quality)
        canvas = Image.open(coded).convert("RGB")
    return canvas


def fixed_set() -> Iterator[tuple[Image.Image, int, str]]:
    """The 300 distorted pictures on which readers are tested: picture, object, kind.

    The same 300 on every machine with the same Pillow; no training draws from these seeds.
    """
    for number in range(300):
        rng = np.random.Generator(np.random.PCG64([0xE7, number]))
        index = int(rng.integers(glyph_count()))
        kind = KINDS[number % len(KINDS)]
        yield wild(rng, index, kind, held_out=True), index, kind
