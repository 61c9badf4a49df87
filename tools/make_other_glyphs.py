"""Gather glyphs of other fonts, for training a reader that does not know one font alone.

Nothing is fetched here and nothing of theirs is committed; the recipe of ochre-clip names the
folder. Two Debian packages and six of npm hold them:

    apt-get download ruby-gemojione fonts-symbola
    for package in *.deb; do dpkg -x $package build/fonts; done
    npm install --prefix build/fonts @iconify-json/{twemoji,openmoji,fluent-emoji,\
fluent-emoji-flat,noto-v1,fxemoji}
    pip install resvg-py
    python tools/make_other_glyphs.py --fonts build/fonts --out build/glyphs

| folder | drawings of | package | licence |
|---|---|---|---|
| emojione | EmojiOne | ruby-gemojione 3.3.0 | CC BY-SA 4.0 |
| symbola | Symbola, George Douros | fonts-symbola 2.60 | free for any use |
| twemoji | Twitter and jdecked | @iconify-json/twemoji 1.2.5 | CC BY 4.0 |
| openmoji | OpenMoji | @iconify-json/openmoji 1.2.29 | CC BY-SA 4.0 |
| fluent-emoji | Microsoft | @iconify-json/fluent-emoji 1.2.7 | MIT |
| fluent-emoji-flat | Microsoft | @iconify-json/fluent-emoji-flat 1.2.6 | MIT |
| noto-v1 | Google, Noto Color Emoji of its first years | @iconify-json/noto-v1 1.2.5 | Apache 2.0 |
| fxemoji | Mozilla, Firefox OS | @iconify-json/fxemoji 1.2.2 | Apache 2.0 |

npm's emojione is left out: its drawings are those of ruby-gemojione.
"""

import argparse
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from lascaux.data.world.objects import Object, objects

SIDE = 96  # pixels of the longer side
GEMOJIONE = "usr/share/rubygems-integration/all/gems/gemojione-*/assets/png"
SYMBOLA = "usr/share/fonts/truetype/ancient-scripts/Symbola_hint.ttf"
NPM = "node_modules/@iconify-json"
PACKAGES = ("twemoji", "openmoji", "fluent-emoji", "fluent-emoji-flat", "noto-v1", "fxemoji")

# Firefox OS has names of its own: those that differ from ours, and those that mean another thing
# ("dog" is the face alone). None: the package's tram has lost its colours.
FIREFOX = {
    "evergreen tree": "evergreen",
    "hot pepper": "chilipepper",
    "ear of corn": "earofmaize",
    "sheaf of rice": "earofrice",
    "fallen leaf": "fallingleaf",
    "leaf fluttering in wind": "leaffluttering",
    "eggplant": "aubergine",
    "pizza": "sliceofpizza",
    "curry rice": "curryandrice",
    "fish cake with swirl": "fishcakeswirl",
    "sake": "sakebottleandcup",
    "house": "housebuilding",
    "post office": "europeanpostoffice",
    "castle": "europeancastle",
    "red paper lantern": "izakayalantern",
    "mouse": "mouseside",
    "tiger": "tigerside",
    "leopard": "leopardside",
    "rabbit": "bunnyside",
    "cat": "catside",
    "dragon": "dragonside",
    "ewe": "sheep",
    "dog": "dogside",
    "pig": "pigside",
    "front-facing baby chick": "frontfacingchick",
    "camel": "dromedarycamel",
    "two-hump camel": "bactriancamel",
    "mouse face": "mouse",
    "tiger face": "tiger",
    "rabbit face": "bunny",
    "cat face": "cat",
    "dragon face": "dragonhead",
    "spouting whale": "spurtingwhale",
    "dog face": "dog",
    "pig face": "pig",
    "hamster": "hampster",
    "wolf": "wolfface",
    "panda": "pandaface",
    "necktie": "tie",
    "t-shirt": "mansshirt",
    "woman's clothes": "womansshirt",
    "purse": "pinkwallet",
    "clutch bag": "makeupbag",
    "man's shoe": "mensshoe",
    "running shoe": "mensrunner",
    "high-heeled shoe": "heels",
    "woman's sandal": "sandals",
    "woman's boot": "boot",
    "flashlight": "electrictorch",
    "kitchen knife": "hocho",
    "locomotive": "steamlocomotive",
    "tram car": None,
    "bullet train": "highspeedtrainbulletnose",
    "sport utility vehicle": "recreationalvehicle",
}
NOTO_V1 = {"cricket": None}  # the game's bat; the insect is younger


def gemojione(folder: Path) -> Callable[[Object], Image.Image | None]:
    """Drawings that are kept as pictures, a file for each code point."""

    def drawn(thing: Object) -> Image.Image | None:
        source = folder / f"{thing.code}.png"
        if not source.exists():
            return None
        picture = Image.open(source).convert("RGBA")
        return picture.crop(picture.getbbox())

    return drawn


def symbola(file: Path) -> Callable[[Object], Image.Image | None]:
    """Line drawings with their inside filled white."""
    font = ImageFont.truetype(file, SIDE)

    def ink_of(code: int) -> Image.Image:
        ink = Image.new("L", (2 * SIDE, 2 * SIDE))
        ImageDraw.Draw(ink).text((SIDE // 2, SIDE // 2), chr(code), 255, font)
        return ink

    blank = ink_of(0x10FFFD).tobytes()

    def drawn(thing: Object) -> Image.Image | None:
        ink = ink_of(int(thing.code, 16))
        box = ink.getbbox()
        if box is None or ink.tobytes() == blank:
            return None
        outside = ink.point(lambda level: 255 * (level > 60))
        ImageDraw.floodfill(outside, (0, 0), 128)
        inside = outside.point(lambda level: 255 * (level != 128))
        picture = Image.merge("RGB", [ImageChops.invert(ink)] * 3)
        picture.putalpha(ImageChops.lighter(inside, ink))
        return picture.crop(box)

    return drawn


def iconify(folder: Path, names: dict[str, str]) -> Callable[[Object], Image.Image | None]:
    """Drawings that an npm package holds as SVG bodies, by name.

    Args:
        folder: of the package.
        names: by code point, of packages that list them; all but Firefox OS call things alike.
    """
    listing = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    icons, aliases = listing["icons"], listing.get("aliases", {})

    def drawn(thing: Object) -> Image.Image | None:
        if folder.name == "fxemoji":
            name = FIREFOX.get(thing.name, thing.name.replace(" ", "").replace("-", ""))
        else:
            name = names.get(thing.code)
            name = NOTO_V1.get(thing.name, name) if folder.name == "noto-v1" else name
        alias = aliases.get(name, {})
        icon = icons.get(alias.get("parent", name))
        # An alias may also turn its parent around; none of those met here does.
        if icon is None or alias.keys() - {"parent"}:
            return None
        box = {"left": 0, "top": 0, **{k: v for k, v in listing.items() if k != "icons"}, **icon}
        return rendered(icon["body"], [box[k] for k in ("left", "top", "width", "height")])

    return drawn


def rendered(body: str, box: list[float]) -> Image.Image | None:
    """The picture cut to its ink, its longer side 96 pixels, or None where it is blank."""
    import resvg_py

    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{body}</svg>'
    )
    data = resvg_py.svg_to_bytes(svg_string=svg, width=2 * SIDE, skip_system_fonts=True)
    picture = Image.open(BytesIO(bytes(data))).convert("RGBA")
    if (ink := picture.getbbox()) is None:
        return None
    picture = picture.crop(ink)
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def code_names(packages: list[Path]) -> dict[str, str]:
    """Names by code point; packages agree, but only some list them."""
    names = {}
    for package in packages:
        for code, name in json.loads((package / "chars.json").read_text(encoding="utf-8")).items():
            names.setdefault(code.upper().removesuffix("-FE0F"), name)
    return names


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fonts", type=Path, required=True, help="where the packages were put")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    artists = {}
    for folder in given.fonts.glob(GEMOJIONE):
        artists["emojione"] = gemojione(folder)
    if (given.fonts / SYMBOLA).exists():
        artists["symbola"] = symbola(given.fonts / SYMBOLA)
    packages = [given.fonts / NPM / name for name in PACKAGES]
    packages = [package for package in packages if package.is_dir()]
    names = code_names(packages)
    for package in packages:
        artists[package.name] = iconify(package, names)
    if not artists:
        parser.error(f"no fonts in {given.fonts}: fetch them as the top of this file says")
    for font, drawn in artists.items():
        (given.out / font).mkdir(parents=True, exist_ok=True)
        count = 0
        for thing in objects():
            if thing.digit is None and (picture := drawn(thing)):
                picture.save(given.out / font / f"{thing.code}.png")
                count += 1
        print(f"{font}: {count}")


if __name__ == "__main__":
    main()
