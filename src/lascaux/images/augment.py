"""Changes by chance that a picture bears in training: cut-outs, mirroring, colours.

All chance comes from the generator that is given, so that its seed repeats what was done.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from lascaux.errors import BadInput

Range = tuple[float, float]

_TRIES = 10
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A cut-out of a picture, mirrored and coloured by chance; called with both.

    Attributes:
        size: of the result, in pixels, square.
        area: the cut-out's share of the picture, from and to.
        aspect: its width over its height, from and to.
        flip: the chance of being mirrored, 0 to 1.
        brightness: factors from 1 - this to 1 + this.
        contrast: likewise.
        saturation: likewise.
        hue: turns of the colour wheel from - this to + this, at most 0.5.
        filter: bicubic or bilinear, antialiased.

    Raises:
        BadInput: a value out of its range.
    """

    size: int
    area: Range = (0.9, 1.0)
    aspect: Range = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    filter: str = "bicubic"

    def __post_init__(self) -> None:
        if self.size < 1 or self.filter not in _FILTERS:
            raise BadInput(
                f"size={self.size}, filter={self.filter!r}; expected at least 1 pixel, and one of "
                f"{', '.join(_FILTERS)}"
            )
        for name, top in (("area", 1.0), ("aspect", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= top:
                raise BadInput(f"{name}=({low}, {high}); expected 0 < from <= to <= {top}")
        for name in ("flip", "brightness", "contrast", "saturation", "hue"):
            top = 0.5 if name == "hue" else 1
            if not 0 <= getattr(self, name) <= top:
                raise BadInput(f"{name}={getattr(self, name)}; expected 0 to {top}")

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The changed picture: RGB, `size` x `size`."""
        image = cut_out(
            image.convert("RGB"),
            self.size,
            rng,
            area=self.area,
            aspect=self.aspect,
            filter=self.filter,
        )
        image = flipped(image, rng, self.flip)
        return recoloured(
            image,
            rng,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            hue=self.hue,
        )


def cut_out(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    *,
    area: Range = (0.08, 1.0),
    aspect: Range = (3 / 4, 4 / 3),
    filter: str = "bicubic",
) -> Image.Image:
    """A random part of the picture, resized to a square (Szegedy et al. 2014, arXiv 1409.4842).

    Areas are drawn evenly, aspects evenly in their logarithm. Where ten draws do not fit into the
    picture, its middle is taken, as large as the aspect allows.
    """
    box = _box(image.size, rng, area, aspect)
    return image.resize((size, size), _FILTERS[filter], box=box)


def flipped(image: Image.Image, rng: np.random.Generator, chance: float = 0.5) -> Image.Image:
    """The picture or, by chance, its mirror image."""
    if rng.random() < chance:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def recoloured(
    image: Image.Image,
    rng: np.random.Generator,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Image.Image:
    """The picture in other colours; the changes come in a random order.

    Args:
        image: RGB.
        rng: of the draws.
        brightness: factors from 1 - this to 1 + this; 0 darkens to black.
        contrast: likewise; 0 leaves the mean grey.
        saturation: likewise; 0 leaves grey values.
        hue: turns of the colour wheel from - this to + this.
    """
    spreads = np.array([brightness, contrast, saturation])
    factors = 1 + spreads * rng.uniform(-1, 1, 3)
    turn = hue * rng.uniform(-1, 1)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for number in rng.permutation(4):
        if number < 3 and spreads[number]:
            image = enhancers[number](image).enhance(float(factors[number]))
        elif number == 3 and hue:
            image = _turned(image, turn)
    return image


def _box(
    size: tuple[int, int], rng: np.random.Generator, area: Range, aspect: Range
) -> tuple[float, float, float, float]:
    width, height = size
    low, high = map(math.log, aspect)
    for _ in range(_TRIES):
        wanted = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 1 <= w <= width and 1 <= h <= height:
            left = float(rng.integers(width - w + 1))
            top = float(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, aspect[0]), aspect[1])
    w, h = min(width, height * ratio), min(height, width / ratio)
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _turned(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = (np.asarray(hue).astype(np.int32) + round(turn * 256)) % 256
    hue = Image.fromarray(moved.astype(np.uint8))
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
