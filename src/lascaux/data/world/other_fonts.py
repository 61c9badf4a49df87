"""Drawings of the world's objects by other fonts, so that a reader knows more than one hand.

They are not part of the package: `tools/make_other_glyphs.py` makes a folder of them, one folder
for each font with a picture for each object, `<font>/<code point>.png`. Two things are kept from
training: of every font a quarter of the objects, and a few fonts altogether.
"""

from pathlib import Path

from PIL import Image

from lascaux.data.world.objects import objects
from lascaux.errors import BadInput

UNSEEN = "openmoji,fxemoji"  # one of black outlines, one of flat colours


def aside(index: int) -> bool:
    """Whether drawings of object `index` by other fonts are kept for testing."""
    return index % 4 == 0


def listed(fonts: str) -> tuple[str, ...]:
    """The fonts of a list with commas between."""
    return tuple(name for part in fonts.split(",") if (name := part.strip()))


def drawings(folder: Path) -> dict[str, dict[int, Image.Image]]:
    """Every font's drawings, RGBA, cut to their ink, by object; fonts in order of their names.

    Raises:
        BadInput: there is no such folder.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}: make it with tools/make_other_glyphs.py")
    found: dict[str, dict[int, Image.Image]] = {}
    for font in sorted(path for path in folder.iterdir() if path.is_dir()):
        found[font.name] = {}
        for thing in objects():
            file = font / f"{thing.code}.png"
            if file.exists():
                with Image.open(file) as picture:
                    found[font.name][thing.index] = picture.convert("RGBA")
    return found
