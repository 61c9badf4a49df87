"""Make the atlas of glyphs, the list of objects and the splits of the emoji world.

The atlas is rendered once and shipped with its hash, since fonts differ from release to release.
Needs Debian's fonts-noto-color-emoji and the `emoji` package:

    python tools/make_world.py --font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

import argparse
import hashlib
import json
from collections import Counter
from pathlib import Path

import emoji
from PIL import Image, ImageDraw, ImageFont

# The rule: every code point of these runs of the Unicode chart (things one can point at: food,
# plants, animals, buildings, clothes, tools, instruments, vehicles) that has an English and a
# Chinese name and whose glyph is not blank. People, faces, hands and signs are left out.
RUNS = (
    (0x1F32D, 0x1F37F, "food and plants"),
    (0x1F3B7, 0x1F3BB, "musical instruments"),
    (0x1F3E0, 0x1F3E6, "buildings"),
    (0x1F3E8, 0x1F3F0, "buildings"),
    (0x1F400, 0x1F43C, "animals"),
    (0x1F451, 0x1F462, "clothes"),
    (0x1F526, 0x1F52E, "tools"),
    (0x1F680, 0x1F6A2, "vehicles"),
    (0x1F6A4, 0x1F6A4, "vehicles"),
    (0x1F950, 0x1F96F, "food and plants"),
    (0x1F980, 0x1F9AA, "animals"),
    (0x1F9C0, 0x1F9CB, "food and plants"),
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS_ZH = "零一二三四五六七八九"
SIDE = 96  # pixels of an atlas cell
COLUMNS = 21
NATIVE = 109  # the only size at which Noto Color Emoji holds bitmaps
TEST, VALIDATION = 10, 5  # percent of all object-background pairs
FOLDER = Path(__file__).parents[1] / "src/lascaux/data/world"


def plain(name: str) -> str:
    return name.strip(":").replace("_", " ").replace("’", "'").lower()


def glyph(font: ImageFont.FreeTypeFont, code: int) -> Image.Image | None:
    canvas = Image.new("RGBA", (2 * NATIVE, 2 * NATIVE))
    ImageDraw.Draw(canvas).text((20, 20), chr(code), font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        return None
    cut = canvas.crop(box)
    scale = SIDE / max(cut.size)
    size = (max(1, round(cut.width * scale)), max(1, round(cut.height * scale)))
    cell = Image.new("RGBA", (SIDE, SIDE))
    cut = cut.resize(size, Image.Resampling.LANCZOS)
    cell.paste(cut, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--font", required=True)
    font = ImageFont.truetype(parser.parse_args().font, NATIVE)
    emoji.config.load_language("zh")
    named = {
        ord(text[0]): entry
        for text, entry in emoji.EMOJI_DATA.items()
        if len(text.replace("\ufe0f", "")) == 1 and "zh" in entry
    }
    objects, cells = [], []
    for first, last, kind in RUNS:
        for code in range(first, last + 1):
            cell = glyph(font, code)
            if code not in named or cell is None:
                continue
            entry = named[code]
            synonyms = [plain(alias) for alias in entry.get("alias", [])]
            objects.append(
                {
                    "code": f"{code:X}",
                    "name": plain(entry["en"]),
                    "zh": entry["zh"].strip(":").replace("_", ""),
                    "synonyms": [s for s in synonyms if s != plain(entry["en"])],
                    "kind": kind,
                }
            )
            cells.append(cell)
    for value, (word, zh) in enumerate(zip(DIGITS, DIGITS_ZH, strict=True)):
        objects.append(
            {
                "code": f"digit {value}",
                "name": f"handwritten digit {word}",
                "zh": f"手写数字{zh}",
                "synonyms": [
                    f"digit {word}",
                    f"digit {value}",
                    f"handwritten {value}",
                    f"number {value}",
                    f"{value}",
                    word,
                ],
                "kind": "digits",
            }
        )
    # A synonym that names two objects would make a caption say what the picture does not show.
    taken = Counter(n for o in objects for n in {o["name"], *o["synonyms"]})
    for entry in objects:
        entry["synonyms"] = [
            s
            for s in entry["synonyms"]
            if taken[s] == 1 and (entry["kind"] == "digits" or not s[-1].isdigit())
        ]
    rows = -(-len(cells) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SIDE, rows * SIDE))
    for index, cell in enumerate(cells):
        atlas.paste(cell, (index % COLUMNS * SIDE, index // COLUMNS * SIDE))
    # Colour where nothing is drawn is cleared, so that lossless coding keeps every byte.
    atlas = Image.composite(
        atlas, Image.new("RGBA", atlas.size), atlas.getchannel("A").point(lambda a: 255 * (a > 0))
    )
    atlas.save(FOLDER / "atlas.webp", lossless=True, quality=100, method=6, exact=True)
    listing = {
        "font": "Noto Color Emoji, Debian fonts-noto-color-emoji 2.042 (SIL OFL 1.1)",
        "side": SIDE,
        "columns": COLUMNS,
        "sha256_of_pixels": hashlib.sha256(atlas.tobytes()).hexdigest(),
        "objects": objects,
    }
    text = json.dumps(listing, ensure_ascii=False, indent=1)
    (FOLDER / "objects.json").write_text(text + "\n", encoding="utf-8")

    from lascaux.data.world.backgrounds import BACKGROUNDS  # beside what this script just wrote

    splits: dict[str, dict[str, list[str]]] = {"validation": {}, "test": {}}
    for background in BACKGROUNDS:
        for split in splits.values():
            split[background] = []
        for entry in objects:
            key = f"{entry['code']}|{background}".encode()
            draw = int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % 100
            if draw < TEST:
                splits["test"][background].append(entry["code"])
            elif draw < TEST + VALIDATION:
                splits["validation"][background].append(entry["code"])
    text = json.dumps(splits, ensure_ascii=False, separators=(",", ":")).replace('"],', '"],\n')
    (FOLDER / "splits.json").write_text(text + "\n", encoding="utf-8")
    print(f"{len(objects)} objects, {len(cells)} glyphs, {len(BACKGROUNDS)} backgrounds")


if __name__ == "__main__":
    main()
