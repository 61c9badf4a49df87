"""Gather glyphs of other fonts, for training a reader that does not know one font alone.

Two Debian packages hold them: ruby-gemojione (EmojiOne, CC BY-SA 4.0) and fonts-symbola (free for
any use). Nothing of theirs is committed; the recipe of ochre-clip names the folder.

    apt-get download ruby-gemojione && dpkg -x ruby-gemojione_*.deb gem
    apt-get install fonts-symbola
    python tools/make_other_glyphs.py --emojione gem/usr/share/rubygems-integration/all/gems/\
gemojione-3.3.0/assets/png --symbola /usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf \
--out build/glyphs
"""

import argparse
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from lascaux.data.world.objects import objects

SIDE = 96


def outlined(font: ImageFont.FreeTypeFont, code: int, blank: bytes) -> Image.Image | None:
    """A line drawing with its inside filled white, or None where the font has no glyph."""
    ink = Image.new("L", (2 * SIDE, 2 * SIDE))
    ImageDraw.Draw(ink).text((SIDE // 2, SIDE // 2), chr(code), 255, font)
    box = ink.getbbox()
    if box is None or ink.tobytes() == blank:
        return None
    outside = ink.point(lambda level: 255 * (level > 60))
    ImageDraw.floodfill(outside, (0, 0), 128)
    inside = outside.point(lambda level: 255 * (level != 128))
    picture = Image.merge("RGB", [ImageChops.invert(ink)] * 3)
    picture.putalpha(ImageChops.lighter(inside, ink))
    return picture.crop(box)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emojione", type=Path)
    parser.add_argument("--symbola")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    count = {"emojione": 0, "symbola": 0}
    for name in count:
        (given.out / name).mkdir(parents=True, exist_ok=True)
    font = ImageFont.truetype(given.symbola, SIDE) if given.symbola else None
    blank = Image.new("L", (2 * SIDE, 2 * SIDE))
    if font:
        ImageDraw.Draw(blank).text((SIDE // 2, SIDE // 2), "\U0010fffd", 255, font)
    for thing in objects():
        if thing.digit is not None:
            continue
        if given.emojione and (source := given.emojione / f"{thing.code}.png").exists():
            picture = Image.open(source).convert("RGBA")
            picture.crop(picture.getbbox()).save(given.out / "emojione" / f"{thing.code}.png")
            count["emojione"] += 1
        if font and (picture := outlined(font, int(thing.code, 16), blank.tobytes())):
            picture.save(given.out / "symbola" / f"{thing.code}.png")
            count["symbola"] += 1
    print(count)


if __name__ == "__main__":
    main()
