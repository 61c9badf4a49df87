"""Pictures on cards: contact sheets with titles and bars of scores, and two side by side."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lascaux.errors import BadInput

_CARD = 280  # pixels, width; twice what is legible, so that the sheet may be shrunk
_PICTURE = 248  # pixels, both sides of the picture's place
_MARGIN, _GAP, _PAD = 36, 24, 16  # pixels: round the sheet, between cards, inside cards
_TITLE, _TEXT = 16, 14  # pixels, heights of type
_ROW, _BAR = 36, 6  # pixels: from bar to bar, and a bar's height
_LEAST_PLACE, _GROWS_FROM = 256, 640  # pixels, of one of two pictures' places

_PAPER, _CARD_FILL, _EDGE, _PLACE = "#f4f1ec", "#ffffff", "#e2dcd2", "#f7f5f1"
_INK, _FAINT, _TRACK, _BEST, _OTHER = "#2b2723", "#857c71", "#ece7df", "#b5542b", "#d8a37f"

# Where systems keep fonts with Chinese; Pillow's own font has none.
_WIDE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class SheetEntry:
    """One card: a picture, or None where it could not be read, with what is said of it."""

    picture: Image.Image | None
    title: str
    bars: Sequence[tuple[str, float]]  # label and score, 0 to 1; the first is the answer
    note: str = ""  # a line under the title, such as why there is no picture


def contact_sheet(
    entries: Sequence[SheetEntry], columns: int | None = None, font: str | Path | None = None
) -> Image.Image:
    """The cards in rows on one RGB page, in the order given.

    Args:
        entries: at least one.
        columns: cards in a row; by default as many as make the page a little wider than high.
        font: a TrueType or OpenType file for all text; by default Pillow's own, and for Chinese
            one of the system's.

    Raises:
        BadInput: no entry, a column count below 1, or a font that cannot be read.
    """
    if not entries:
        raise BadInput("a contact sheet needs at least one picture")
    if columns is not None and columns < 1:
        raise BadInput(f"columns is {columns}; it must be at least 1")
    rows_of_bars = max(len(entry.bars) for entry in entries)
    note_room = 20 if any(entry.note for entry in entries) else 6
    height = _PAD + _PICTURE + 12 + 22 + note_room + rows_of_bars * _ROW + _PAD - 4
    columns = min(columns or _columns(len(entries), height), len(entries))
    rows = -(-len(entries) // columns)
    page = Image.new(
        "RGB",
        (
            2 * _MARGIN + columns * (_CARD + _GAP) - _GAP,
            2 * _MARGIN + rows * (height + _GAP) - _GAP,
        ),
        _PAPER,
    )
    for place, entry in enumerate(entries):
        row, column = divmod(place, columns)
        corner = (_MARGIN + column * (_CARD + _GAP), _MARGIN + row * (height + _GAP))
        _draw_card(page, entry, (*corner, height, note_room), None if font is None else str(font))
    return page


def side_by_side(
    left: Image.Image,
    right: Image.Image,
    *,
    labels: tuple[str, str],
    title: str,
    lines: Sequence[str] = (),
    font: str | Path | None = None,
) -> Image.Image:
    """Two pictures of one size on one card, pixel by pixel, with what is said of them.

    Small ones are enlarged without blur; type grows with large ones.

    Args:
        left: of any mode.
        right: likewise, of the same size.
        labels: under each picture.
        title: under both.
        lines: under the title.
        font: a TrueType or OpenType file for all text, as of `contact_sheet`.

    Raises:
        BadInput: the sizes differ, or the font cannot be read.
    """
    if left.size != right.size:
        raise BadInput(f"pictures of {left.size} and {right.size} pixels; one size is expected")
    chosen = None if font is None else str(font)
    pictures = [_enlarged(picture.convert("RGB")) for picture in (left, right)]
    width, height = pictures[0].size
    place = max(width, _LEAST_PLACE)
    grown = max(1.0, place / _GROWS_FROM)
    margin, pad, gap, text, head = (round(n * grown) for n in (_MARGIN, _PAD, 12, _TEXT, _TITLE))
    written = round(text * (2.8 + 1.7 * len(lines))) + head
    card = (2 * (pad + place) + gap, 2 * pad + height + written)
    page = Image.new("RGB", (2 * margin + card[0], 2 * margin + card[1]), _PAPER)
    draw = ImageDraw.Draw(page)
    corner = (margin + card[0] - 1, margin + card[1] - 1)
    draw.rounded_rectangle((margin, margin, *corner), round(12 * grown), _CARD_FILL, _EDGE)
    y = margin + pad + height + text // 2
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        x = margin + pad + number * (place + gap)
        if place > width:
            draw.rectangle((x, margin + pad, x + place - 1, margin + pad + height - 1), _PLACE)
        page.paste(picture, (x + (place - width) // 2, margin + pad))
        write_line(draw, (x, y), label, text, _FAINT, place, chosen)
    x, room = margin + pad, 2 * place + gap
    y += round(text * 2.1)
    write_line(draw, (x, y), title, head, _INK, room, chosen)
    y += head + round(text * 0.7)
    for line in lines:
        write_line(draw, (x, y), line, text, _INK, room, chosen)
        y += round(text * 1.7)
    return page


def _enlarged(picture: Image.Image) -> Image.Image:
    """The picture, each pixel of a small one as a square of several."""
    whole = max(1, _LEAST_PLACE // max(picture.size))
    size = (picture.width * whole, picture.height * whole)
    return picture.resize(size, Image.Resampling.NEAREST)


def _columns(count: int, height: int) -> int:
    """As many columns as make the page about 4 to 3."""
    return max(1, min(8, round((count * height / _CARD * 4 / 3) ** 0.5)))


def _draw_card(
    page: Image.Image, entry: SheetEntry, place: tuple[int, int, int, int], font: str | None
) -> None:
    """One card; its place is left, top, height and the room for a note, in pixels."""
    draw = ImageDraw.Draw(page)
    left, top, height, note_room = place
    draw.rounded_rectangle((left, top, left + _CARD - 1, top + height - 1), 12, _CARD_FILL, _EDGE)
    left, top = left + _PAD, top + _PAD
    right = left + _PICTURE
    draw.rounded_rectangle((left, top, right - 1, top + _PICTURE - 1), 6, _PLACE)
    if entry.picture is None:
        draw.line((left + 104, top + 104, right - 104, top + 144), _FAINT, 3)
        draw.line((right - 104, top + 104, left + 104, top + 144), _FAINT, 3)
    else:
        shown = _fitted(entry.picture)
        page.paste(
            shown, (left + (_PICTURE - shown.width) // 2, top + (_PICTURE - shown.height) // 2)
        )
    y = top + _PICTURE + 12
    write_line(draw, (left, y), entry.title, _TITLE, _INK, _PICTURE, font)
    y += 22
    write_line(draw, (left, y), entry.note, _TEXT - 1, _FAINT, _PICTURE, font)
    y += note_room
    for rank, (label, score) in enumerate(entry.bars):
        share = min(max(score, 0.0), 1.0)
        figure = f"{share:.0%}" if share >= 0.01 or not share else "<1%"
        room = _PICTURE - 52
        write_line(draw, (left, y), label, _TEXT, _FAINT if rank else _INK, room, font)
        ink = _FAINT if rank else _INK
        draw.text((right, y + _TEXT), figure, ink, _typeface("0", _TEXT, font), anchor="rs")
        bar = y + _TEXT + 6
        draw.rounded_rectangle((left, bar, right - 1, bar + _BAR - 1), _BAR // 2, _TRACK)
        if (width := round(share * _PICTURE)) > 0:
            fill = _OTHER if rank else _BEST
            end = left + max(width, _BAR) - 1
            draw.rounded_rectangle((left, bar, end, bar + _BAR - 1), _BAR // 2, fill)
        y += _ROW


def _fitted(picture: Image.Image) -> Image.Image:
    """The whole picture, as large as its place; small ones are enlarged without blur."""
    picture = picture.convert("RGB")
    scale = _PICTURE / max(picture.size)
    if scale >= 2:
        whole = int(scale)
        return picture.resize(
            (picture.width * whole, picture.height * whole), Image.Resampling.NEAREST
        )
    return ImageOps.contain(picture, (_PICTURE, _PICTURE), Image.Resampling.LANCZOS)


def write_line(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    ink: str,
    room: int,
    font: str | None,
) -> None:
    """One line of text with its base line below `at`, shortened to the room there is."""
    text = " ".join(text.split())
    face = _typeface(text, size, font)
    if draw.textlength(text, face) > room:
        while text and draw.textlength(text + "...", face) > room:
            text = text[:-1]
        text = text.rstrip() + "..."
    draw.text((at[0], at[1] + size), text, ink, face, anchor="ls")


def _typeface(text: str, size: int, font: str | None) -> Font:
    if font is not None:
        try:
            return ImageFont.truetype(font, size, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise BadInput(
                f"cannot read font {font}: {error}; expected .ttf, .otf or .ttc"
            ) from error
    # From U+2E80 on: Chinese, Japanese and Korean writing.
    if any(ord(character) >= 0x2E80 for character in text) and (wide := _wide_font()):
        return ImageFont.truetype(wide, size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


@cache
def _wide_font() -> str | None:
    """A font of this system that has Chinese, if one is in a usual place."""
    folders = {
        "darwin": ("/System/Library/Fonts", "/Library/Fonts"),
        "win32": ("C:/Windows/Fonts",),
    }.get(sys.platform, ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts"))
    for name in _WIDE_FONTS:
        for folder in folders:
            for found in sorted(Path(folder).expanduser().glob(f"**/{name}")):
                return str(found)
    return None
