"""Contact sheets of pictures that were made: one page, each as large as the others, with a line."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from lascaux.errors import BadInput
from lascaux.images.sheet import write_line

_LEAST, _MOST = 192, 512  # pixels of a picture's longer side on the page
_MARGIN, _GAP = 24, 12  # pixels: round the page, between pictures
_TITLE, _TEXT = 18, 13  # pixels, heights of type
_PAPER, _INK, _FAINT = "#f4f1ec", "#2b2723", "#857c71"


def contact_page(
    pictures: Sequence[Image.Image],
    lines: Sequence[str] = (),
    *,
    title: str = "",
    columns: int | None = None,
    font: str | Path | None = None,
) -> Image.Image:
    """Pictures in rows on one RGB page, in the order given.

    Args:
        pictures: at least one; small ones are enlarged without blur, large ones made smaller.
        lines: one under each, or none at all.
        title: above all.
        columns: pictures in a row; by default as many as make the page about square.
        font: a TrueType or OpenType file for all text, as of `contact_sheet`.

    Raises:
        BadInput: no picture, other lines than pictures, a column count below 1, or a font that
            cannot be read.
    """
    if not pictures:
        raise BadInput("a contact sheet needs at least one picture")
    if lines and len(lines) != len(pictures):
        raise BadInput(f"{len(lines)} lines for {len(pictures)} pictures; give one for each")
    if columns is not None and columns < 1:
        raise BadInput(f"columns is {columns}; it must be at least 1")
    columns = min(columns or _columns(len(pictures)), len(pictures))
    shown = [_scaled(picture.convert("RGB")) for picture in pictures]
    width, height = (max(picture.size[side] for picture in shown) for side in (0, 1))
    width = max(width, _LEAST)
    below = _TEXT + 8 if lines else 0
    above = _TITLE + 16 if title else 0
    rows = -(-len(shown) // columns)
    page = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * (width + _GAP) - _GAP,
            2 * _MARGIN + above + rows * (height + below + _GAP) - _GAP,
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    chosen = None if font is None else str(font)
    write_line(draw, (_MARGIN, _MARGIN), title, _TITLE, _INK, page.width - 2 * _MARGIN, chosen)
    for place, picture in enumerate(shown):
        row, column = divmod(place, columns)
        x = _MARGIN + column * (width + _GAP)
        y = _MARGIN + above + row * (height + below + _GAP)
        page.paste(picture, (x + (width - picture.width) // 2, y + (height - picture.height) // 2))
        if lines:
            write_line(draw, (x, y + height + 2), lines[place], _TEXT, _FAINT, width, chosen)
    return page


def _columns(count: int) -> int:
    return next(side for side in range(1, count + 1) if side * side >= count)


def _scaled(picture: Image.Image) -> Image.Image:
    """The picture no smaller and no larger than pictures on the page are."""
    longest = max(picture.size)
    if longest > _MOST:
        scale = _MOST / longest
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        return picture.resize(size, Image.Resampling.LANCZOS)
    whole = max(1, -(-_LEAST // longest))
    size = (picture.width * whole, picture.height * whole)
    return picture.resize(size, Image.Resampling.NEAREST)
