"""The objects of the emoji world: their names, their glyphs, and the scans of digits.

Glyphs come from an atlas that ships with the package (Noto Color Emoji, SIL OFL 1.1), written by
`tools/make_world.py` together with the list of objects. Handwritten digits are the scans that
come with scikit-learn (Alpaydin and Kaynak 1998); a third of them is held out.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lascaux.errors import BrokenFile, MissingExtra

_FOLDER = Path(__file__).parent
_KEPT = 128  # pixels up to which a scaled glyph is kept


@dataclass(frozen=True)
class Object:
    """One thing the world can show."""

    index: int  # position in `objects()`
    code: str  # code point in hexadecimal, or "digit 7"
    name: str  # English, lower case
    zh: str  # Chinese
    synonyms: tuple[str, ...]  # further English names, none of them shared with another object
    kind: str  # "animals", "vehicles", ..., "digits"

    @property
    def digit(self) -> int | None:
        """The value of a handwritten digit, None for a glyph."""
        return int(self.code.split()[1]) if self.kind == "digits" else None


@cache
def _listing() -> dict:
    return json.loads((_FOLDER / "objects.json").read_text(encoding="utf-8"))


@cache
def objects() -> tuple[Object, ...]:
    """All objects, the ten digits last."""
    return tuple(
        Object(i, o["code"], o["name"], o["zh"], tuple(o["synonyms"]), o["kind"])
        for i, o in enumerate(_listing()["objects"])
    )


@cache
def glyph_count() -> int:
    """How many of the objects are glyphs; the digits follow them."""
    return sum(o.kind != "digits" for o in objects())


@cache
def atlas() -> Image.Image:
    """The sheet of glyphs, RGBA, checked against its recorded hash.

    Raises:
        BrokenFile: the file's pixels are not those that were shipped.
    """
    listing = _listing()
    sheet = Image.open(_FOLDER / "atlas.webp").convert("RGBA")
    found = hashlib.sha256(sheet.tobytes()).hexdigest()
    if found != listing["sha256_of_pixels"]:
        raise BrokenFile(
            f"{_FOLDER / 'atlas.webp'}: pixels hash to {found[:16]}, expected "
            f"{listing['sha256_of_pixels'][:16]}; reinstall the package"
        )
    return sheet


@lru_cache(maxsize=1024)
def glyph(index: int) -> Image.Image:
    """The glyph of object `index`, RGBA, cut to its ink; the longer side is 96 pixels."""
    side, columns = _listing()["side"], _listing()["columns"]
    x, y = index % columns * side, index // columns * side
    cell = atlas().crop((x, y, x + side, y + side))
    return cell.crop(cell.getbbox())


def scaled_glyph(index: int, side: int) -> Image.Image:
    """The glyph of object `index` with its longer side `side` pixels; do not write into it."""
    # Large ones, kept for every side, would fill the memory.
    return _kept(index, side) if side <= _KEPT else _fit(glyph(index), side)


@lru_cache(maxsize=16384)
def _kept(index: int, side: int) -> Image.Image:
    return _fit(glyph(index), side)


@cache
def digit_scans() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The scans of handwritten digits that come with scikit-learn.

    Returns:
        scans, uint8 `n 8 8` with levels 0 (paper) to 16 (ink); values 0 to 9; and whether a scan
        is held out (each scan whose number divides by three: never trained on).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise MissingExtra(
            "handwritten digits come with scikit-learn, which is not installed; "
            "install it with: pip install 'lascaux[train]'"
        ) from missing
    data: Any = load_digits()
    held_out = np.arange(len(data.target)) % 3 == 0
    return data.images.astype(np.uint8), data.target.astype(np.int64), held_out


@cache
def scans_of(digit: int, held_out: bool) -> tuple[int, ...]:
    """Numbers of the scans that show `digit`, held out or not."""
    _, values, held = digit_scans()
    return tuple(int(i) for i in np.flatnonzero((values == digit) & (held == held_out)))


@lru_cache(maxsize=4096)
def scaled_digit(scan: int, side: int, ink: tuple[int, int, int] = (20, 20, 60)) -> Image.Image:
    """Scan number `scan` as ink on nothing, RGBA, its longer side `side` pixels."""
    levels = digit_scans()[0][scan]
    alpha = Image.fromarray(np.minimum(255, levels.astype(np.int32) * 16).astype(np.uint8), "L")
    smooth = alpha.resize((96, 96), Image.Resampling.BICUBIC)
    picture = Image.new("RGBA", smooth.size, (*ink, 0))
    picture.putalpha(smooth)
    visible = smooth.point([255 * (level > 40) for level in range(256)])
    return _fit(picture.crop(visible.getbbox()), side)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return picture.resize(size, how)
